"""The end of `sottovoce demo`: phrases said by one voice are found in sentences of other voices, by sound alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sottovoce.data import Recording, open_source
from sottovoce.data.decode import read_audio
from sottovoce.data.demo import search_manifest
from sottovoce.encoder import Encoder, normalize
from sottovoce.tasks.qbe import warp


@dataclass(frozen=True)
class Found:
    """What one model finds. best: for each phrase, the text of the sentence that is most like it. right: whether it contains the phrase."""

    best: tuple[str, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Search:
    """phrases: what was asked for. sentences: how many were searched. chance: phrases that a guess finds, on average. found: by model."""

    phrases: tuple[str, ...]
    sentences: int
    chance: float
    found: Mapping[str, Found]


def search(models: Mapping[str, Encoder], wants_norm: bool, manifest: Path | None = None) -> Search:
    """Lets each model look for every phrase in every sentence. Nothing is trained.

    Frames of the last layer are standardised over all sentences and compared by subsequence dynamic time warping, as in the task ``qbe``.
    manifest: its recordings have ``role`` (query or doc), ``text`` and ``matches``; by default they are synthesised once (`data.demo`).
    wants_norm: whether the models read waveforms of zero mean and unit variance.
    """
    recordings = open_source(manifest or search_manifest())
    queries = [item for item in recordings if item.fields["role"] == "query"]
    documents = [item for item in recordings if item.fields["role"] == "doc"]
    answers = [json.loads(item.fields["matches"]) for item in documents]
    right = torch.tensor([[Path(query.path).name in answer for answer in answers] for query in queries])
    found = {}
    for name, model in models.items():
        best = nearest(frames(model, queries, wants_norm), frames(model, documents, wants_norm))
        found[name] = Found(
            tuple(documents[i].fields["text"] for i in best), tuple(bool(right[row, i]) for row, i in enumerate(best))
        )
    chance = float(right.float().mean(1).sum())
    return Search(tuple(item.fields["text"] for item in queries), len(documents), chance, found)


@torch.no_grad()
def frames(model: Encoder, recordings: Sequence[Recording], wants_norm: bool) -> list[Tensor]:
    """(T, D) of each recording: the last layer."""
    waves = [torch.from_numpy(read_audio(item))[None] for item in recordings]
    return [model(normalize(wave) if wants_norm else wave).last[0] for wave in waves]


def nearest(queries: Sequence[Tensor], documents: Sequence[Tensor]) -> list[int]:
    """The number of the document in which each query fits best. Both are lists of (T, D)."""
    every = torch.cat(list(documents))
    mean, deviation = every.mean(0), every.std(0).clamp(min=1e-9)

    def directions(items: Sequence[Tensor]) -> list[Tensor]:
        return [F.normalize((item - mean) / deviation, dim=-1)[:, None] for item in items]

    numbers: list[int] = warp(directions(queries), directions(documents), ("cosine_exp",))[0, 0].argmin(-1).tolist()
    return numbers


def record(result: Search) -> dict[str, object]:
    """For the record of the demo: how many phrases each model finds."""
    counts = {name: sum(found.right) for name, found in result.found.items()}
    return {"phrases": len(result.phrases), "sentences": result.sentences, "chance": result.chance, "found": counts}


def show(result: Search, model: str = "student") -> None:
    """Prints what `model` finds, and how many phrases each model finds."""
    console = Console()
    table = Table(title="a spoken phrase, found by sound alone", title_justify="left")
    table.add_column("one voice says", no_wrap=True)
    table.add_column(f"the {model} finds, of {result.sentences} sentences by other voices")
    table.add_column("")
    found = result.found[model]
    for phrase, text, right in zip(result.phrases, found.best, found.right, strict=True):
        table.add_row(phrase, text.replace(phrase, f"[bold]{phrase}[/bold]"), "found" if right else "missed")
    console.print(table)
    counts = ", ".join(f"{name} {sum(each.right)}" for name, each in result.found.items())
    console.print(
        f"Found, of {len(result.phrases)}: {counts}; a guess {result.chance:.0f}. Nothing was trained for this and no text is read: "
        "frames are compared (task qbe).",
        highlight=False,
    )
