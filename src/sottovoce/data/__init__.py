"""Audio from any common corpus layout as reproducible batches. `open_data` sets up all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sottovoce.core.registry import suggestion
from sottovoce.data.batches import Plan
from sottovoce.data.config import DataConfig
from sottovoce.data.decode import BadAudio, read_audio
from sottovoce.data.recording import Note, Recording, Recordings, Skipped, count_reasons, summary_of
from sottovoce.data.scan import Progress, Scanned, Utterance, hold_out, scan
from sottovoce.data.sources import DEMO, Spec, open_source
from sottovoce.data.stream import Fixed, SkipLog, Stream
from sottovoce.data.turns import turns_of

__all__ = [
    "BadAudio", "Data", "DataConfig", "Note", "Recording", "Recordings", "Scanned", "Skipped", "Stream", "Utterance",
    "open_data", "open_source", "read_audio", "scan", "turns_of",
]  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Training and validation audio. train: endless batches. valid: the held-out batches, a fixed list. hours: of training audio."""

    train: Stream
    valid: Fixed
    hours: float
    splits: tuple[str, ...] = ()
    _log: SkipLog = field(default_factory=SkipLog, repr=False)

    @property
    def largest(self) -> tuple[int, int]:
        """Rows and samples of the largest batch, of those that are trained on and those held out."""
        return max(self.train.plan.largest(), self.valid.largest, key=lambda shape: shape[0] * shape[1])

    def passes(self, batches: int) -> float:
        """How often so many batches, of all processes together, pass over the training data."""
        return batches / len(self.train.plan.batches(0))

    @property
    def skipped(self) -> list[Skipped]:
        """Recordings that cannot be used: found when opening, and since then while decoding."""
        return self._log.rows

    def summary(self) -> str:
        """One line for people."""
        length = f"{self.hours:.1f} hours" if self.hours >= 1 else f"{self.hours * 60:.1f} minutes"
        parts = [f"{length} of audio in {len(self.train.plan.utterances):,} utterances", f"{self.valid.seconds:.0f} s held out"]
        if len(self.splits) > 1:
            parts.append(f"splits {', '.join(self.splits)} all used")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped ({count_reasons(self.skipped)})")
        parts += summary_of(self._log.notes)
        return "; ".join(parts)


def open_data(
    spec: Spec,
    config: DataConfig | None = None,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    multiple: int | None = None,
    skipped_file: str | Path | None = None,
    progress: Progress | None = None,
) -> Data:
    """Everything a run needs of its data.

    spec: see `open_source`. seed decides the batches and crops; the held-out recordings do not depend on it. Rank r of `world` processes
    gets its own share of every epoch, which has a multiple of `multiple` batches (see `Plan`). `skipped_file` collects what is skipped as
    JSON lines. Raises ValueError when nothing is usable. Of ``demo`` only the train split is used unless ``where`` says otherwise.
    """
    config = config or DataConfig()
    recordings = open_source(spec, config.allow_commands)
    if spec == DEMO and "split" not in config.where:
        recordings = recordings.with_items(item for item in recordings if item.fields.get("split") == "train")
    scanned = scan(recordings, config, progress)
    log = SkipLog(skipped_file)
    log.add(scanned.skipped, write=rank == 0)  # every rank scans the same recordings
    log.note([*scanned.notes, *_unlabelled(scanned.utterances, config.label, spec)], write=rank == 0)
    train, valid = hold_out(scanned.utterances, config)
    return Data(
        train=Stream(Plan(train, config, seed, rank, world, multiple), log),
        valid=Fixed(valid, config, log),
        hours=sum(utterance.seconds for utterance in train) / 3600,
        splits=_splits(train),
        _log=log,
    )


def _unlabelled(utterances: Sequence[Utterance], label: str, spec: Spec) -> list[Note]:
    """What to say of the recordings without the label that is asked for. ValueError when none has it."""
    without = sum(not utterance.recording.fields.get(label) for utterance in utterances) if label else 0
    if not without:
        return []
    if without == len(utterances):
        columns = {name for utterance in utterances for name in utterance.recording.fields}
        raise ValueError(f"no recording has the label '{label}' that is asked for{suggestion(label, columns)}")
    return [
        Note(
            path=str(spec), note=f"{without} of {len(utterances)} utterances have no '{label}', which is asked for as their label"
        )
    ]


def _splits(utterances: Sequence[Utterance]) -> tuple[str, ...]:
    return tuple(sorted({utterance.recording.fields.get("split", "") for utterance in utterances} - {""}))
