"""How long an encoder of a given shape takes: milliseconds of each part, predicted from what single parts took on a machine.

As in `cost`, one formula serves integers and expectations. The time of a part is a sum of terms, each linear in every width, with
coefficients fitted to timings: gates of different groups are independent, so expected widths give the expected time. No coefficient
is negative, so a wider part is never said to be faster. `sottovoce bench --fit-cost` makes the file of coefficients. See ADR 0011.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..encoder import EncoderConfig
from ..encoder.filterbank import BINS
from ..types import SAMPLE_RATE
from .cost import Width, any_unit, full_widths

KIND = "latency-cost"  # of the file, which is a record in the ledger's format
DEFAULT = Path(__file__).parents[1] / "assets" / "latency-default.json"
MEND = "make one on the machine that counts: sottovoce bench --fit-cost --out latency.json"

# Every kind of part and the names of its terms. Milliseconds per million (multiply-accumulates or numbers); "call": per call.
TERMS: dict[str, tuple[str, ...]] = {
    "conv.first.group": ("outputs", "call"),
    "conv.first.layer": ("outputs", "call"),
    "conv.group": ("macs", "inputs", "outputs", "call"),  # of a front end that norms the first convolution only
    "conv.layer": ("macs", "inputs", "outputs", "call"),
    "fbank": ("macs", "call"),
    "projection": ("macs", "inputs", "outputs", "call"),
    "position": ("macs", "outputs", "call"),
    "relative": ("scores", "call"),
    "attention": ("macs", "score_macs", "scores", "call"),
    "attention.relative": ("macs", "score_macs", "scores", "call"),
    "attention.key": ("macs", "score_macs", "scores", "call"),
    "attention.sinusoid": ("macs", "score_macs", "scores", "call"),
    "attention.rotary": ("macs", "score_macs", "scores", "call"),
    "ffn": ("macs", "outputs", "call"),
    "glu.layer": ("macs", "depthwise", "call"),
    "glu.batch": ("macs", "depthwise", "call"),
    "norms": ("outputs", "call"),
}


@dataclass(frozen=True)
class Part:
    """One part of an encoder in the terms of its kind, in millions, without the coefficients; differentiable where widths are."""

    kind: str
    terms: Mapping[str, Width]


@dataclass(frozen=True)
class LatencyModel:
    """Coefficients by kind and term, and what they were measured on: a CPU, with so many threads, clips of `seconds`, one at a time."""

    coefficients: Mapping[str, Mapping[str, float]]
    seconds: float
    threads: int
    cpu: str

    @property
    def where(self) -> str:
        """In words."""
        return f"{self.cpu}, {self.threads} thread{'s' if self.threads > 1 else ''}, {self.seconds:g} s"

    def predict(self, config: EncoderConfig, widths: Mapping[str, Width] | None = None) -> dict[str, Width]:
        """Milliseconds of each part for one clip, under the names of `encoder_cost`. widths: as there."""
        return {name: self.of(part) for name, part in encoder_parts(config, widths, self.seconds).items()}

    def total(self, config: EncoderConfig, widths: Mapping[str, Width] | None = None) -> Width:
        """Milliseconds of the whole encoder."""
        return sum(self.predict(config, widths).values(), start=0.0)

    def of(self, part: Part) -> Width:
        coefficients = self.coefficients[part.kind]
        return sum((coefficients[term] * value for term, value in part.terms.items()), start=0.0)


def load_latency(path: str | Path = "") -> LatencyModel:
    """The model in a file that `sottovoce bench --fit-cost` wrote; the one that ships where no file is named.

    ValueError, with a way out, on anything else.
    """
    path = Path(path).expanduser() if str(path) else DEFAULT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"there is no file of latencies {path}; {MEND}") from None
    except ValueError:
        raise ValueError(f"{path} is not JSON; {MEND}") from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise ValueError(f"{path} holds no latencies (kind '{KIND}'); {MEND}")
    return from_record(found, str(path))


def from_record(found: Mapping[str, Any], name: str = "the record") -> LatencyModel:
    """From the parsed file. ValueError when something is missing or not a number that makes sense."""
    try:
        coefficients = {kind: {term: float(found["coefficients"][kind][term]) for term in terms} for kind, terms in TERMS.items()}
        made = LatencyModel(coefficients, float(found["seconds"]), int(found["threads"]), str(found["machine"]["cpu"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{name} is not complete ({type(problem).__name__}: {problem}); {MEND}") from None
    values = [value for terms in coefficients.values() for value in terms.values()]
    if not (all(math.isfinite(value) and value >= 0 for value in values) and made.seconds > 0):
        raise ValueError(f"{name}: seconds must be above 0 and coefficients not below it; {MEND}")
    return made


def encoder_parts(config: EncoderConfig, widths: Mapping[str, Width] | None = None, seconds: float = 10.0) -> dict[str, Part]:
    """Every part of an encoder for one clip of `seconds`, under the names of `encoder_cost`. widths: as there."""
    known: dict[str, Width] = dict(full_widths(config))
    assert widths is None or known.keys() >= widths.keys(), "widths are named after the groups of a plan"
    known.update(widths or {})
    frontend, dim = config.frontend, config.dim
    parts: dict[str, Part] = {}

    frames: int = round(seconds * SAMPLE_RATE)
    last: Width = 1
    for i, conv in enumerate(frontend.convs):
        width = known[f"frontend.convs.{i}"]
        frames = (frames - conv.kernel) // conv.stride + 1
        if i == 0:  # one input: arithmetic and outputs are in proportion
            parts["frontend.convs.0"] = _part(f"conv.first.{frontend.norm}", outputs=width * frames, call=1)
        else:
            moved = {"inputs": last * (conv.stride * frames), "outputs": width * frames}
            macs = last * width * (conv.kernel * frames)
            parts[f"frontend.convs.{i}"] = _part(f"conv.{frontend.norm}", macs=macs, **moved, call=1)
        last = width
    if frontend.fbank is not None:
        frames = (frames - frontend.fbank.size) // frontend.fbank.hop + 1
        parts["frontend.fbank"] = _part("fbank", macs=BINS * frontend.fbank.mels * frames, call=1)
        last, frames = frontend.fbank.dim, frames // frontend.fbank.stack
    if frames < 1:
        raise ValueError(f"{seconds} s are too short for one frame")
    moved = {"inputs": last * frames, "outputs": dim * frames}
    parts["frontend.projection"] = _part("projection", macs=last * (dim * frames), **moved, call=1)

    position = config.position
    if position is not None:
        groups, width = known["position"], dim // position.groups
        macs, outputs = width * width * position.kernel * position.depth * frames, width * position.depth * frames
        parts["position"] = _part("position", macs=groups * macs, outputs=groups * outputs, call=any_unit(groups))
    if config.relative is not None:
        parts["relative"] = _part("relative", scores=config.relative.heads * frames * frames, call=1)

    distance = "relative" if config.relative is not None else config.distance.kind if config.distance is not None else ""
    attention = f"attention.{distance}".rstrip(".")
    for i, layer in enumerate(config.layers):
        at = f"layers.{i}"
        heads, part = part_of(known, f"{at}.head", f"{at}.attention")
        scores = heads * (frames * frames)
        macs = heads * (4 * layer.head_dim * dim * frames)
        score_macs = scores * (2 * layer.head_dim)
        parts[f"{at}.attention"] = _part(attention, macs=macs, score_macs=score_macs, scores=scores, call=part)
        for number in ("1", "") if layer.kind == "conformer" else ("",):
            units, part = part_of(known, f"{at}.ffn{number}", f"{at}.feed_forward{number}")
            parts[f"{at}.ffn{number}"] = _part("ffn", macs=units * (2 * dim * frames), outputs=units * frames, call=part)
        if layer.kind == "conformer":
            shape, width = config.convolution, known[f"{at}.glu"]
            macs, depthwise = width * (3 * dim * frames), width * (shape.kernel * frames)
            parts[f"{at}.glu"] = _part(f"glu.{shape.norm}", macs=macs, depthwise=depthwise, call=any_unit(width))
    norms = sum(5 if layer.kind == "conformer" else 2 for layer in config.layers) + int(config.norm)
    parts["norms"] = _part("norms", outputs=norms * dim * frames, call=norms)
    return parts


def part_of(known: Mapping[str, Width], units: str, whole: str) -> tuple[Width, Width]:
    """(units that are open in a part that is open, whether the part is)."""
    return known[whole] * known[units], known[whole]


def _part(kind: str, *, call: Width, **terms: Width) -> Part:
    made = {**{name: value / 1e6 for name, value in terms.items()}, "call": call}
    assert tuple(made) == TERMS[kind], kind
    return Part(kind, made)
