"""Whether an exported file still says what the model says: measured through its own runtime, on audio.

B batch, S samples, T frames, D width, L layers.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sottovoce.core.config import build, override, plain
from sottovoce.core.ledger import header, version
from sottovoce.core.registry import TASKS
from sottovoce.core.types import SAMPLE_RATE, Batch, Features
from sottovoce.data import Recordings
from sottovoce.encoder.score_head import in_windows
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Task, Workbench
from sottovoce.evaluation.subjects.subject import Subject
from sottovoce.exporting.graph import Graph

ROWS = 4  # recordings in a batch: shorter ones are padded, as users will do


class LayerView(nn.Module):
    """A `Graph` that gives `Features` in the way of the runtimes' encoders."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        size = torch.full((len(wave),), wave.shape[1]) if lengths is None else lengths
        x, frames, *_ = self.graph(wave, size)
        states = list(x.unbind(1)) if x.dim() == 4 else [x, x]
        return Features(states, None if lengths is None else frames, states[0], states[-1])


@dataclass(frozen=True)
class Comparison:
    """layers: for each layer of the file its name and what `parity` says of it. fidelity: what the task says, by who was compared
    with whom. tasks: for each task and of ``torch`` and the format the value of its first measure. scores: of each score head the largest
    difference. to, runtime: the format, and the
    package that ran the file. left_out: recordings that could not be used, with the reason."""

    layers: list[dict[str, Any]]
    fidelity: dict[str, dict[str, float]]
    tasks: dict[str, dict[str, Any]]
    seconds: float
    to: str = "onnx"
    runtime: str = "onnxruntime"
    left_out: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether the file gave finite values everywhere."""
        return all(math.isfinite(row[key]) for row in self.layers for key in ("max_abs", "error"))

    @property
    def error(self) -> float:
        """Of the worst layer."""
        return max(float(row["error"]) for row in self.layers)

    def record(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """As it is written beside the file."""
        return {
            **header("export"),
            "model": {key: facts[key] for key in ("source", "family", "precision", "layer")},
            "runtime": {self.runtime: version(self.runtime)},
            "audio_seconds": round(self.seconds, 1),
            "layers": self.layers,
            "fidelity": self.fidelity,
            "tasks": self.tasks,
            **({"scores": dict(self.scores)} if self.scores else {}),
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
        }


def batches(waves: Sequence[Tensor]) -> Iterator[Batch]:
    """Recordings of unlike lengths together, zeros behind the shorter ones."""
    for begin in range(0, len(waves), ROWS):
        rows = waves[begin : begin + ROWS]
        yield Batch(nn.utils.rnn.pad_sequence(list(rows), batch_first=True), torch.tensor([len(row) for row in rows]))


@torch.no_grad()
def parity(file: nn.Module, model: nn.Module, audio: Sequence[Batch], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each layer, over valid frames: the largest absolute difference (max_abs) and the largest value (scale), the mean cosine of
    frames, and error: the squared difference as a share of the variance over time, mean over channels.

    AssertionError when frame counts differ.
    """
    sums: list[dict[str, Tensor]] = [{} for _ in names]
    frames = 0
    for batch in audio:
        ours, theirs = file(batch.wave, batch.lengths), model(batch.wave, batch.lengths)
        valid = theirs.valid()
        assert torch.equal(valid, ours.valid()), "the file counts other frames than the model"
        frames += int(valid.sum())
        for sum_of, x, y in zip(sums, ours.hidden[-len(names) :], theirs.hidden[-len(names) :], strict=True):
            a, b = x[valid].double(), y[valid].double()
            sum_of["max_abs"] = torch.maximum(sum_of.get("max_abs", torch.zeros(())), (a - b).abs().max())
            sum_of["scale"] = torch.maximum(sum_of.get("scale", torch.zeros(())), b.abs().max())
            for key, value in (
                ("cosine", F.cosine_similarity(a, b, dim=-1).sum()),
                ("square", (a - b).square().sum(0)),
                ("sum", b.sum(0)),
                ("power", b.square().sum(0)),
            ):
                sum_of[key] = sum_of.get(key, torch.zeros(())) + value
    rows = []
    for name, sum_of in zip(names, sums, strict=True):
        variance = (sum_of["power"] - sum_of["sum"].square() / frames).clamp(min=1e-12 * frames)
        rows.append(
            {
                "layer": name,
                "max_abs": float(sum_of["max_abs"]),
                "scale": float(sum_of["scale"]),
                "cosine": float(sum_of["cosine"] / frames),
                "error": float((sum_of["square"] / variance).mean()),
            }
        )
    return rows


@torch.no_grad()
def score_differences(file: Any, graph: Graph, audio: Sequence[Batch]) -> dict[str, float]:
    """By label of a score head: the largest difference between what the file and the model say of recordings. file: a `RuntimeEncoder`."""
    if graph.scores is None:
        return {}
    labels, found = list(graph.scores), dict.fromkeys(graph.scores, 0.0)

    def say(wave: Tensor, lengths: Tensor | None, wanted: Sequence[str]) -> dict[str, Tensor]:
        size = torch.full((len(wave),), wave.shape[1]) if lengths is None else lengths
        every = dict(zip(labels, graph(wave, size)[2:], strict=True))
        return {label: every[label] for label in wanted}

    for batch in audio:
        ours, theirs = (in_windows(each, graph.scores.shapes, batch.wave, batch.lengths) for each in (file.say, say))
        found = {label: max(most, float((ours[label] - theirs[label]).abs().max())) for label, most in found.items()}
    return found


class Listed(nn.Module):
    """A subject whose `hidden` are as transformers lists them, and as an exported file gives them."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        features = self.subject.features(Batch(wave, lengths))
        states = list(self.subject.stacked(features).unbind(2))
        return replace(features, hidden=states if len(states) > 1 else states * 2)


def probes(names: Sequence[str], recordings: Recordings, overrides: Sequence[str] = ()) -> dict[str, Task]:
    """The tasks of these names, with overrides of their fields. ValueError for what cannot be measured on the recordings."""
    tasks: dict[str, Task] = {}
    for name in names:
        kind = TASKS.get(name)
        if kind.compares:
            raise ValueError(f"{name} is part of every check; name its teacher with --vs")
        tasks[name] = kind(build(kind.Config, override({}, overrides)))
        tasks[name].check(recordings)
    return tasks


def compare(
    file: Subject,
    graph: Graph,
    waves: Sequence[Tensor],
    *,
    to: str = "onnx",
    runtime: str = "onnxruntime",
    teacher: Subject | None = None,
    tasks: Mapping[str, Task] | None = None,
    model: Callable[[], Subject] | None = None,
    recordings: Recordings | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares an exported file with the model it was made from, on `waves`, and both with a teacher, if there is one.

    file: as its format opens it; its encoder says by `layers` which it gives. to, runtime: the format, and the package that runs it.
    tasks: probes that are run on the file and on `model()`, on `recordings`, with one seed. ValueError as they raise it. left_out: as
    the result is to show it. A file that gives values that are not finite is compared with nothing else.
    """
    encoder: Any = file.encoder
    view = LayerView(graph.eval())
    seconds = sum(len(wave) for wave in waves) / SAMPLE_RATE
    comparison = Comparison(
        parity(encoder, view, list(batches(waves)), encoder.layers), {}, {}, seconds, to, runtime, left_out or {}
    )
    if not comparison.finite:
        return comparison  # nothing else could be said of it
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {f"{to} to torch": (encoder, view)}
    if teacher is not None:
        theirs = Listed(teacher)
        pairs |= {f"{to} to teacher": (encoder, theirs), "torch to teacher": (view, theirs)}
    kind = TASKS.get("fidelity")
    judge, single = kind(kind.Config()), [Batch(wave[None]) for wave in waves]
    fidelity = {name: judge.run(*pair, single)["mean"] for name, pair in pairs.items()}
    measured: dict[str, dict[str, Any]] = {}
    for name, task in (tasks or {}).items():
        assert model is not None
        assert recordings is not None
        measured[name] = _both(task, {"torch": model(), to: file}, recordings)
    scores = score_differences(encoder, graph, list(batches(waves)))
    return replace(comparison, fidelity=fidelity, tasks=measured, scores=scores)


def _both(task: Task, subjects: Mapping[str, Subject], recordings: Recordings) -> dict[str, Any]:
    """The value of a task's first measure, by subject."""
    values: dict[str, Any] = {"config": plain(task.config)}
    with tempfile.TemporaryDirectory(prefix="sottovoce-") as folder:
        bench = Workbench(FeatureStore(Path(folder)), seeds=(1,))
        for who, subject in subjects.items():
            measure = task.measure(subject, recordings, bench).measures[0]
            values["measure"], values[who] = measure.metric.name, measure.value
    return values


def show(comparison: Comparison, facts: Mapping[str, str], name: str = "ONNX", how: str = "padded batches") -> None:
    """The tables for people. name: of the format. how: the audio was given to the file."""
    console, to = Console(), comparison.to
    table = Table(title=f"{facts['source']} as {name}, {facts['precision']}, against the model in torch", title_justify="left")
    for name in ("layer", "max |diff|", "max |value|", "cosine", "error"):
        table.add_column(name, justify="right" if name != "layer" else "left", no_wrap=True)
    for row in comparison.layers:
        numbers = (f"{row['max_abs']:.1e}", f"{row['scale']:.3g}", f"{row['cosine']:.5f}", f"{row['error']:.3%}")
        table.add_row(row["layer"], *numbers)
    console.print(table)
    rest = Table(title="through the runtime", title_justify="left")
    for name in ("task", "torch", to):
        rest.add_column(name, justify="right" if name != "task" else "left", no_wrap=True)
    for who, likeness in comparison.fidelity.items():
        if who == f"{to} to torch":
            rest.add_row("fidelity to torch: explained", "", f"{likeness['explained']:.3%}")
        elif who == f"{to} to teacher":
            theirs = comparison.fidelity["torch to teacher"]
            rest.add_row("fidelity to the teacher: explained", f"{theirs['explained']:.3%}", f"{likeness['explained']:.3%}")
    for name, values in comparison.tasks.items():
        rest.add_row(f"{name}: {values['measure']}", f"{values['torch']:.4g}", f"{values[to]:.4g}")
    for label, most in comparison.scores.items():
        rest.add_row(f"{label}: largest difference of a score", "", f"{most:.1e}")
    if rest.row_count:
        console.print(rest)
    console.print(
        f"On {comparison.seconds:.0f} s of audio, {how}. error: squared difference as a share of the variance over time, mean over "
        "channels.",
        highlight=False,
    )
