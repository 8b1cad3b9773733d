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

from sottovoce.encoder import EncoderConfig
from sottovoce.pruning.walk import Piece, Width, any_unit, walk

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
    return {piece.name: _part(config.dim, piece) for piece in walk(config, widths, seconds)}


def _part(dim: int, of: Piece) -> Part:
    kind, terms = of.kind, _terms(dim, of)
    styled = f"{kind}.{of.style}" if of.style else kind
    calls = of.units if kind == "norms" else any_unit(of.units) if kind in ("position", "glu") else of.part
    made = {**{name: value / 1e6 for name, value in terms.items()}, "call": calls}
    assert tuple(made) == TERMS[styled], styled
    return Part(styled, made)


def _terms(dim: int, of: Piece) -> dict[str, Width]:
    """Multiply-accumulates and numbers that a part computes and moves, in an encoder of width `dim`; its calls are not among them."""
    units, frames = of.units, of.frames
    match of.kind:
        case "conv.first":  # one input: arithmetic and outputs are in proportion
            return {"outputs": units * frames}
        case "conv":
            moved = {"inputs": of.inputs * (of.stride * frames), "outputs": units * frames}
            return {"macs": of.inputs * units * (of.kernel * frames), **moved}
        case "fbank":
            return {"macs": of.inputs * units * frames}
        case "projection":
            heard = of.inputs * of.kernel
            return {"macs": heard * (dim * frames), "inputs": heard * frames, "outputs": dim * frames}
        case "position":
            outputs = of.size * of.depth * frames
            return {"macs": units * (of.size * of.kernel * outputs), "outputs": units * outputs}
        case "relative":
            return {"scores": units * frames * frames}
        case "attention":
            heads = of.part * units
            scores = heads * (frames * frames)
            return {"macs": heads * (4 * of.size * dim * frames), "score_macs": scores * (2 * of.size), "scores": scores}
        case "ffn":
            hidden = of.part * units
            return {"macs": hidden * (2 * dim * frames), "outputs": hidden * frames}
        case "glu":
            return {"macs": units * (3 * dim * frames), "depthwise": units * (of.kernel * frames)}
        case "norms":
            return {"outputs": units * dim * frames}
