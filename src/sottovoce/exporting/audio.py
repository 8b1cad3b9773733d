"""Audio that an exported file is calibrated on, and other audio that it is checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data import Recordings, open_source
from sottovoce.data.draw import draw
from sottovoce.data.files import printable
from sottovoce.data.recording import count_reasons, summary_of
from sottovoce.evaluation.features.pieces import Piece, decoded
from sottovoce.exporting.graph import Graph

LONGEST, SHORTEST = 10.0, 0.3  # seconds of a recording that are taken; what is shorter is left out


@dataclass(frozen=True)
class Clip:
    """The beginning of a recording: its id, and (S,) float32 raw 16 kHz samples."""

    id: str
    wave: Tensor


@dataclass(frozen=True)
class ExportAudio:
    """calibration and check have no recording in common. recordings: all of the source. left_out: id -> why it could not be used."""

    calibration: list[Clip]
    check: list[Clip]
    recordings: Recordings
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def calibration_waves(self) -> list[Tensor]:
        return [clip.wave for clip in self.calibration]

    @property
    def check_waves(self) -> list[Tensor]:
        return [clip.wave for clip in self.check]

    def counts(self) -> dict[str, int]:
        """How many recordings were used for what, left out, or skipped when the source was read."""
        return {
            "calibration": len(self.calibration),
            "check": len(self.check),
            "left_out": len(self.left_out),
            "skipped": len(self.recordings.skipped),
        }

    def summary(self) -> list[str]:
        """Lines on what is odd about the source, was skipped when it was read, or left out since."""
        lines, skipped = summary_of(self.recordings.notes), self.recordings.skipped
        if skipped:
            lines.append(f"{len(skipped)} of {len(self.recordings) + len(skipped)} recordings skipped ({count_reasons(skipped)})")
        shown = ", ".join(f"{printable(name)} ({why})" for name, why in list(self.left_out.items())[:3])
        if count := len(self.left_out):
            lines.append(f"left out {count} recording{'s' if count > 1 else ''}: {shown}{', ...' if count > 3 else ''}")
        return lines


def read(data: str | Path, seconds: float) -> ExportAudio:
    """Up to `seconds` of audio for each purpose, in the order of a hash; of the split "test" only for the check, where there is one.

    ValueError when there is no audio that can be read.
    """
    source = open_source(data)
    order = sorted(source, key=lambda item: draw(item.id))
    tests = [item for item in order if item.fields.get("split") == "test"]
    others = [item for item in order if item.fields.get("split") != "test"]
    if not tests or not others:
        tests, others = order[: (len(order) + 1) // 2], order[(len(order) + 1) // 2 :]
    check, bad = _clips([Piece(item, 0.0, LONGEST) for item in tests], seconds)
    if not check:
        raise ValueError(f"{data} has no audio of at least {SHORTEST} s that can be read; name other audio with --data")
    calibration, worse = _clips([Piece(item, 0.0, LONGEST) for item in others], seconds)
    return ExportAudio(calibration, check, source, bad | worse)


def noise() -> ExportAudio:
    """Where there is no speech: three stretches of noise, which say whether a file computes the same, not how much its rounding matters."""
    random = torch.Generator().manual_seed(0)
    clips = [
        Clip(f"noise-{i}", 0.1 * torch.randn(int(seconds * SAMPLE_RATE), generator=random))
        for i, seconds in enumerate((3.0, 2.1, 1.3))
    ]
    return ExportAudio([], clips, Recordings([]))


def computable(audio: ExportAudio, graph: Graph) -> ExportAudio:
    """The audio on which every state of the model is finite; ranges or differences found on other audio would mean nothing.

    ValueError when there is none left for the check, or none of what there was for calibration.
    """
    check, bad = _finite(audio.check, graph)
    calibration, worse = _finite(audio.calibration, graph)
    left = replace(audio, calibration=calibration, check=check, left_out=audio.left_out | bad | worse)
    if not check or (audio.calibration and not calibration):
        raise ValueError(
            f"the model gives values that are not finite on all of the audio, so no file was written; {left.summary()[-1]}"
        )
    return left


@torch.no_grad()
def _finite(clips: Sequence[Clip], graph: Graph) -> tuple[list[Clip], dict[str, str]]:
    """The clips on which all states of the model are finite, and the others with the reason."""
    fine, bad = [], {}
    for clip in clips:
        states = [*graph.features(clip.wave[None], None).hidden]
        if all(bool(torch.isfinite(state).all()) for state in states):
            fine.append(clip)
        else:
            bad[clip.id] = "the model's states are not finite"
    return fine, bad


def _clips(pieces: list[Piece], seconds: float) -> tuple[list[Clip], dict[str, str]]:
    clips: list[Clip] = []
    unreadable: dict[str, str] = {}
    left = seconds * SAMPLE_RATE
    for piece, wave in decoded(pieces):
        if left <= 0:
            break
        if isinstance(wave, str):
            unreadable[piece.recording.id] = wave
        elif len(wave) < SHORTEST * SAMPLE_RATE:
            unreadable[piece.recording.id] = f"shorter than {SHORTEST} s"
        else:
            clips.append(Clip(piece.recording.id, wave))
            left -= len(wave)
    return clips, unreadable
