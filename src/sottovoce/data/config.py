"""The data section of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sottovoce.core.config import components
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.degradations.base import DegradationChoice


@dataclass(frozen=True)
class DataConfig:
    """How audio becomes batches.

    seconds_per_batch: most seconds of audio in a batch, after cropping or padding (a longer utterance is a batch of its own).
    min_seconds, max_seconds: shorter recordings are skipped, longer ones are split into equal utterances.
    crop: ``shortest`` crops every utterance at random to the shortest of its batch, so that nothing is padded (DPHuBERT);
        ``none`` pads and gives lengths.
    crop_step: with ``shortest``, round the crop down to a multiple of this many seconds (0: no rounding). Batches then have few shapes,
        so that kernels prepared for a shape are reused. This makes small models faster on a CPU.
    workers: decoding processes; 0 decodes in the training process. The audio is the same for any number.
    valid_share, valid_max_seconds: largest share and most seconds held out for validation (0: none). Whole recordings are chosen by a
        hash of their id.
    label: the manifest's column with the labels for objectives that need them (``speaker``), or with the domains of teachers (``domain``).
    text: the manifest's column with the transcripts (``text``), for objectives that learn them. Recordings that are split have none. Needs
        ``crop: none``.
    speeds: each training batch is played at one of these speeds, drawn at random. Pitch and formants change too, so a speaker at another
        speed counts as another speaker (Yamamoto et al. 2019) and the label includes the speed. Empty: no change.
    keep_targets: most disk space for teacher targets in half precision, of all runs together (``2GB``, or bytes; 0: none). Later epochs
        read the targets instead of running the teachers. Needs ``crop: none``.
    degradations: what is done to each recording, by label, in this order, each with its own chance; teachers hear it, too. Held-out
        recordings are always degraded in the same way. The same seed degrades in the same way, so that later runs find kept targets.
    repeat_after: after so many passes the same batches come again, with the same crops, speeds and degradations, so that kept targets
        serve again; 0: never.
    where: use only the rows of the manifest whose column has this value, for example ``{split: train}``.
    allow_commands: run the shell commands and fetch the addresses that a Lhotse manifest names as audio. The author of the manifest can
        then do on this machine whatever the user can.
    """

    seconds_per_batch: float = 160.0
    min_seconds: float = 2.0
    max_seconds: float = 15.625  # 250 000 samples, the limit of fairseq's and DPHuBERT's recipes
    crop: Literal["shortest", "none"] = "shortest"
    crop_step: float = 0.0
    workers: int = 2
    valid_share: float = 0.01
    valid_max_seconds: float = 300.0
    label: str = ""
    text: str = ""
    speeds: tuple[float, ...] = ()
    degradations: Mapping[str, DegradationChoice] = components(DegradationChoice)
    keep_targets: str = "0"
    repeat_after: int = 0
    where: Mapping[str, str] = field(default_factory=dict)
    allow_commands: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds < float("inf"):
            raise ValueError(f"min_seconds {self.min_seconds:g} and max_seconds {self.max_seconds:g} must be 0 < min <= max")
        if not 0 < self.seconds_per_batch < float("inf"):
            raise ValueError(f"seconds_per_batch must be above 0, not {self.seconds_per_batch:g}")
        if not 0 <= self.valid_share <= 0.5:
            raise ValueError(f"valid_share must be between 0 and 0.5, not {self.valid_share:g}")
        if self.valid_max_seconds < 0:
            raise ValueError(f"valid_max_seconds must not be negative, not {self.valid_max_seconds:g}")
        if not 0 <= self.crop_step < float("inf"):
            raise ValueError(f"crop_step must be 0 or more, not {self.crop_step:g}")
        if invalid := [f"{speed:g}" for speed in self.speeds if not 0.5 <= speed <= 2]:
            raise ValueError(f"speeds must lie between 0.5 and 2, not {', '.join(invalid)}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, not {self.workers}")
        if self.repeat_after < 0:
            raise ValueError(f"repeat_after must be 0 or more passes, not {self.repeat_after}")
        if self.crop not in ("shortest", "none"):
            raise ValueError(f"crop must be 'shortest' or 'none', not {self.crop!r}")
        if self.text and self.crop != "none":
            raise ValueError("text needs crop: none, because a crop does not say all of its text")
        if self.target_bytes and self.crop != "none":
            raise ValueError("keep_targets needs crop: none, because random crops give other audio in every epoch")

    @property
    def target_bytes(self) -> int:
        """`keep_targets` in bytes."""
        return bytes_in(self.keep_targets)

    @property
    def min_samples(self) -> int:
        return round(self.min_seconds * SAMPLE_RATE)


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def bytes_in(size: str) -> int:
    """Bytes of a size such as ``2GB``, ``500 MB`` or ``1000``. ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", size.strip(), re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        raise ValueError(f"'{size}' is not a size; write for example 2GB, 500MB or a number of bytes")
    return round(float(match[1]) * UNITS[match[2].upper()])
