"""The latency of an encoder of a given shape: milliseconds of each part, predicted from timings of single parts on one machine.

As in `cost`, one formula serves integers and expectations. The time of a part is a sum of terms that are linear in every width, with
coefficients fitted to timings. Gates of different groups are independent, so expected widths give the expected time. No coefficient
is negative, so a wider part is never predicted to be faster. `sottovoce bench --fit-cost` writes the coefficients. See ADR 0011.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sottovoce.encoder import EncoderConfig
from sottovoce.pruning.parts import encoder_parts
from sottovoce.pruning.unit import PartCost, Width

KIND = "latency-cost"  # the record's kind in the ledger's format
DEFAULT = Path(__file__).parents[1] / "assets" / "latency-default.json"
# Kinds that came later -> kinds of about the same cost, for files without timings of them.
ALIKE = {
    "log_mel": "fbank",
    "conv.whole": "conv.group",
    "conv.whole.normed": "conv.group",
    "attention.rotary_heads": "attention.rotary",
}
MEND = "make one on the machine you deploy to: sottovoce bench --fit-cost --out latency.json"


@dataclass(frozen=True)
class LatencyModel:
    """Coefficients by kind of part and term, and how they were measured: CPU, threads, and seconds per clip (batch of one)."""

    coefficients: Mapping[str, Mapping[str, float]]
    seconds: float
    threads: int
    cpu: str

    @property
    def where(self) -> str:
        """CPU, threads and clip, for messages."""
        return f"{self.cpu}, {self.threads} thread{'s' if self.threads > 1 else ''}, {self.seconds:g} s"

    def predict(self, config: EncoderConfig, widths: Mapping[str, Width] | None = None, merged: bool = False) -> dict[str, Width]:
        """Milliseconds of each part for one clip. Names, `widths` and `merged` are those of `encoder_cost`."""
        return {name: self.of(part) for name, part in encoder_parts(config, widths, self.seconds, merged).items()}

    def total(self, config: EncoderConfig, widths: Mapping[str, Width] | None = None, merged: bool = False) -> Width:
        """Milliseconds of the whole encoder."""
        return sum(self.predict(config, widths, merged).values(), start=0.0)

    def of(self, part: PartCost) -> Width:
        """Milliseconds of one part. ValueError if its kind was not timed."""
        coefficients, terms = self.coefficients.get(part.kind), part.terms
        if coefficients is None:
            coefficients = self.coefficients.get(ALIKE.get(part.kind, ""), {})
        if not coefficients.keys() >= terms.keys():
            raise ValueError(f"the latency file ({self.where}) has no timings for parts of kind '{part.kind}'; {MEND}")
        return sum((coefficients[term] * value for term, value in terms.items()), start=0.0)


def load_latency(path: str | Path = "") -> LatencyModel:
    """Reads a file that `sottovoce bench --fit-cost` wrote; without a path, the shipped one. ValueError for any other file."""
    path = Path(path).expanduser() if str(path) else DEFAULT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"there is no latency file {path}; {MEND}") from None
    except ValueError:
        raise ValueError(f"{path} is not JSON; {MEND}") from None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise ValueError(f"{path} is not a latency file (kind '{KIND}'); {MEND}")
    return from_record(record, str(path))


def from_record(record: Mapping[str, Any], name: str = "the record") -> LatencyModel:
    """The model of a parsed file. ValueError for missing fields and invalid numbers."""
    try:
        coefficients = {
            kind: {term: float(value) for term, value in terms.items()} for kind, terms in record["coefficients"].items()
        }
        model = LatencyModel(coefficients, float(record["seconds"]), int(record["threads"]), str(record["machine"]["cpu"]))
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{name} is not complete ({type(problem).__name__}: {problem}); {MEND}") from None
    values = [value for terms in coefficients.values() for value in terms.values()]
    if not (all(math.isfinite(value) and value >= 0 for value in values) and model.seconds > 0):
        raise ValueError(f"{name}: seconds must be above 0 and no coefficient negative; {MEND}")
    return model
