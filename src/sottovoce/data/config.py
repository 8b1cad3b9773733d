"""What the data section of a recipe says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sottovoce.core.types import SAMPLE_RATE


@dataclass(frozen=True)
class DataConfig:
    """How audio becomes batches.

    seconds_per_batch: audio in one batch after cropping or padding, at most (one utterance longer than this is a batch alone).
    min_seconds, max_seconds: shorter recordings are skipped, longer ones are split evenly into several utterances.
    crop: ``shortest`` crops every utterance at random to the shortest of its batch, so that nothing is padded (DPHuBERT);
        ``none`` pads and gives lengths.
    crop_step: with ``shortest``, crop on to a multiple of so many seconds where there is one (0: not). Batches then come in few shapes,
        which kernels are made for once and kept: that matters to small models on a CPU.
    workers: decoding processes; 0 decodes in the training process. The audio of a run does not depend on it.
    valid_share, valid_max_seconds: how much is held out, by whole recordings chosen by a hash of their id; 0 holds nothing out.
    label: the manifest's column that objectives with labels learn from (``speaker``); none of the published methods needs one.
    speeds: every training batch is played at one of these, drawn at random; pitch and formants go with it, so that at another speed
        than 1 a speaker is another one (Yamamoto et al. 2019), and labels then name the speed too. Empty: all as it was recorded.
    keep_targets: how much of what teachers say about each recording is kept on disk, in half precision (``2GB``, or bytes; 0: nothing), so
        that later epochs do not ask the teachers again. Needs ``crop: none``.
    where: keep the rows of the manifest whose column has this value, for example ``{split: train}``.
    allow_commands: run the shell commands, and fetch from the addresses, that a Lhotse manifest may name as its audio. Whoever wrote the
        manifest can then do on this machine whatever the user can.
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
    speeds: tuple[float, ...] = ()
    keep_targets: str = "0"
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
        if wrong := [f"{speed:g}" for speed in self.speeds if not 0.5 <= speed <= 2]:
            raise ValueError(f"speeds must lie between 0.5 and 2, not {', '.join(wrong)}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, not {self.workers}")
        if self.crop not in ("shortest", "none"):
            raise ValueError(f"crop must be 'shortest' or 'none', not {self.crop!r}")
        if self.target_bytes and self.crop != "none":
            raise ValueError(
                "keep_targets needs crop: none, because random crops are other audio in every epoch, of which nothing kept is true"
            )

    @property
    def target_bytes(self) -> int:
        """`keep_targets` in bytes."""
        return bytes_in(self.keep_targets)

    @property
    def min_samples(self) -> int:
        return round(self.min_seconds * SAMPLE_RATE)


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def bytes_in(size: str) -> int:
    """``2GB``, ``500 MB`` or a number of bytes. ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", size.strip(), re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        raise ValueError(f"'{size}' is no size; write for example 2GB, 500MB or a number of bytes")
    return round(float(match[1]) * UNITS[match[2].upper()])
