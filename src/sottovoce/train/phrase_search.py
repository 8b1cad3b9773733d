"""The end of `sottovoce demo`: phrases said by one voice are found in sentences of other voices, in noise, by sound alone."""

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

from sottovoce.data import open_source
from sottovoce.data.corrupt import add_noise
from sottovoce.data.decode import read_audio
from sottovoce.data.demo import search_manifest
from sottovoce.encoder import Encoder, normalize
from sottovoce.tasks.qbe import warp

SNR = 5.0  # dB; in quiet, an untrained encoder finds as many: synthesised voices are much alike


@dataclass(frozen=True)
class Found:
    """What one model finds. best: for each phrase, the text of the sentence that is most like it. right: whether it contains the phrase."""

    best: tuple[str, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Search:
    """phrases: what was asked for. sentences: how many were searched, in noise at `snr_db`. layer: whose frames were compared. chance:
    phrases that a guess finds, on average. found: by model."""

    phrases: tuple[str, ...]
    sentences: int
    snr_db: float
    layer: int
    chance: float
    found: Mapping[str, Found]


def search(models: Mapping[str, Encoder], wants_norm: bool, manifest: Path | None = None, snr_db: float = SNR) -> Search:
    """Lets each model look for every phrase in every sentence. Nothing is trained.

    Frames of a layer, the one in which the first model finds most, are standardised over all sentences and compared by subsequence dynamic
    time warping, as in the task ``qbe``. manifest: its recordings have ``role`` (query or doc), ``text`` and ``matches``; by default they
    are synthesised once (`data.demo`). wants_norm: whether the models read waveforms of zero mean and unit variance. snr_db: of the pink
    noise in the sentences.
    """
    recordings = open_source(manifest or search_manifest())
    queries = [item for item in recordings if item.fields["role"] == "query"]
    documents = [item for item in recordings if item.fields["role"] == "doc"]
    answers = [json.loads(item.fields["matches"]) for item in documents]
    right = torch.tensor([[Path(query.path).name in answer for answer in answers] for query in queries])
    asked = [torch.from_numpy(read_audio(item))[None] for item in queries]
    searched = [
        add_noise(torch.from_numpy(read_audio(item))[None], None, "pink", snr_db, number) for number, item in enumerate(documents)
    ]

    def look(model: Encoder, layers: Sequence[int]) -> dict[int, list[int]]:
        phrases, sentences = (frames(model, waves, wants_norm, layers) for waves in (asked, searched))
        return {layer: nearest(phrases[layer], sentences[layer]) for layer in layers}

    def hits(best: Sequence[int]) -> list[bool]:
        return [bool(right[row, sentence]) for row, sentence in enumerate(best)]

    first, *others = models
    by_layer = look(models[first], range(len(models[first].config.layers) + 1))
    layer = max(by_layer, key=lambda number: sum(hits(by_layer[number])))
    nearest_of = {first: by_layer[layer], **{name: look(models[name], [layer])[layer] for name in others}}
    found = {
        name: Found(tuple(documents[sentence].fields["text"] for sentence in best), tuple(hits(best)))
        for name, best in nearest_of.items()
    }
    chance = float(right.float().mean(1).sum())
    return Search(tuple(item.fields["text"] for item in queries), len(documents), snr_db, layer, chance, found)


@torch.no_grad()
def frames(model: Encoder, waves: Sequence[Tensor], wants_norm: bool, layers: Sequence[int]) -> dict[int, list[Tensor]]:
    """By layer: (T, D) of each recording (1, S). Layer 0 is what the first layer reads."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for wave in waves:
        hidden = model(normalize(wave) if wants_norm else wave).hidden
        for layer in layers:
            found[layer].append(hidden[layer][0])
    return found


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
    return {
        "phrases": len(result.phrases),
        "sentences": result.sentences,
        "snr_db": result.snr_db,
        "layer": result.layer,
        "chance": result.chance,
        "found": counts,
    }


def show(result: Search, model: str = "student") -> None:
    """Prints what `model` finds, and how many phrases each model finds."""
    console = Console()
    table = Table(title="a spoken phrase, found in noise, by sound alone", title_justify="left")
    table.add_column("one voice says", no_wrap=True)
    table.add_column(f"the {model} finds, of {result.sentences} sentences by other voices, in noise at {result.snr_db:g} dB")
    table.add_column("")
    found = result.found[model]
    for phrase, text, right in zip(result.phrases, found.best, found.right, strict=True):
        table.add_row(phrase, text.replace(phrase, f"[bold]{phrase}[/bold]"), "found" if right else "missed")
    console.print(table)
    counts = ", ".join(f"{name} {sum(each.right)}" for name, each in result.found.items())
    console.print(
        f"Found, of {len(result.phrases)}: {counts}; a guess {result.chance:.0f}. Nothing was trained for this and no text is read: "
        f"frames of layer {result.layer}, the teacher's best, are compared (task qbe).",
        highlight=False,
    )
