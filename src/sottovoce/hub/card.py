"""A student's README.md. It holds what it was given and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_USAGE = """\
## Use

Input is 16 kHz mono; `PATH` is this folder or its id on the hub.

With sottovoce, which does the normalisation itself:

```python
import sottovoce

student = sottovoce.load("PATH")
features = student(wave, lengths)  # (batch, samples) floats; (batch,) valid samples, or None
features.hidden[-1]  # (batch, frames, {dim})
```

With transformers, when sottovoce is installed:

```python
import sottovoce
from transformers import AutoFeatureExtractor, AutoModel

extractor = AutoFeatureExtractor.from_pretrained("PATH")
model = AutoModel.from_pretrained("PATH")
inputs = extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
hidden_states = model(**inputs, output_hidden_states=True).hidden_states
```

With torch and transformers 5 alone (this runs the Python files in this folder, which are sottovoce's, Apache-2.0):

```python
from transformers import AutoFeatureExtractor, AutoModel

extractor = AutoFeatureExtractor.from_pretrained("PATH")
model = AutoModel.from_pretrained("PATH", trust_remote_code=True)
inputs = extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
hidden_states = model(**inputs, output_hidden_states=True).hidden_states
```
"""


_SCORED = """\
## Scores

It scores recordings: `sottovoce.load("PATH").rate(wave)["{label}"]`, or `model.rate(**inputs)["{label}"]` of the model that
`AutoModel` opens; of files, `sottovoce evaluate PATH FILE... --task quality-score`.
"""


@dataclass(frozen=True)
class Card:
    """What the model card is to say beyond what the model itself shows. Empty parts are left out.

    numbers: rows of a table, as measured; columns in order of appearance. recipe: its name or its YAML. data: what it was trained
    on, in words. license, languages: for the front matter, as the hub spells them.
    """

    title: str = ""
    numbers: Sequence[Mapping[str, Any]] = ()
    recipe: str = ""
    data: str = ""
    license: str = ""
    languages: Sequence[str] = ()


def is_hub_id(source: str) -> bool:
    """'organisation/name', and no folder here."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is not None and not Path(source).exists()


def render(
    card: Card,
    *,
    teacher: str,
    dim: int,
    projected: bool,
    scored: Sequence[str] = (),
    parameters: int,
    version: str,
    usage: str = "",
    task: str = "feature-extraction",
) -> str:
    """The text of README.md. `dim`: the student's width. `projected`: whether projections into the teacher's space come with it.
    `scored`: labels of heads that score recordings. `usage`: how the model around the encoder is used, if it lives in one; `task`: what
    the hub calls that model's task."""
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["sottovoce", "speech", "audio", "self-supervised", "distillation"],
    }
    if is_hub_id(teacher):
        front["base_model"] = teacher
    if card.license:
        front["license"] = card.license
    if card.languages:
        front["language"] = list(card.languages)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {card.title or 'Student of ' + teacher}\n",
        f"A speech encoder of {parameters / 1e6:.2f} million parameters, made from `{teacher}`.\n",
        usage + _USAGE.replace("{dim}", str(dim)).replace("## Use", "## Use" if not usage else "## The encoder alone"),
    ]
    if projected:
        parts.append(
            "`space=\"teacher\"` (in `sottovoce.load`, or in the model's call) gives the layers in the teacher's space.\n"
        )
    if scored:
        parts.append(_SCORED.format(label=scored[0]))
    if card.numbers:
        parts.append(f"## Numbers\n\n{table(card.numbers)}")
    if card.recipe:
        recipe = card.recipe.strip()
        parts.append("## Recipe\n\n" + (f"```yaml\n{recipe}\n```\n" if "\n" in recipe else f"{recipe}\n"))
    if card.data:
        parts.append(f"## Data\n\n{card.data.strip()}\n")
    parts.append(f"Trained with sottovoce {version}.\n")
    return "\n".join(parts)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; a cell that a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines: list[list[Any]] = [columns, ["---"] * len(columns), *([row.get(name) for name in columns] for row in rows)]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
