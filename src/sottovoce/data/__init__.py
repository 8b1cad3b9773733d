"""Reads audio from any common corpus layout into reproducible batches. `open_data` is the entry point."""

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
    """Training and validation audio. train: endless batches. valid: a fixed list of held-out batches. hours: hours of training audio."""

    train: Stream
    valid: Fixed
    hours: float
    splits: tuple[str, ...] = ()
    _log: SkipLog = field(default_factory=SkipLog, repr=False)

    @property
    def largest(self) -> tuple[int, int]:
        """(rows, samples) of the largest batch, training and validation together."""
        return max(self.train.plan.largest(), self.valid.largest, key=lambda shape: shape[0] * shape[1])

    def passes(self, batches: int) -> float:
        """Epochs in this number of batches, counted over all processes."""
        return batches / len(self.train.plan.batches(0))

    @property
    def skipped(self) -> list[Skipped]:
        """Recordings that cannot be used, from the scan and from decoding so far."""
        return self._log.rows

    def summary(self) -> str:
        """The data in one line: hours, utterances, held-out seconds, skipped recordings, notes."""
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
    """Open the training and validation data of a run.

    spec: see `open_source`; of ``demo`` only the train split is used unless ``where`` names another. seed: decides the batches and crops,
    not the held-out recordings. rank, world: this process and the number of processes; each gets its own share of every epoch. multiple:
    the batches of an epoch are a multiple of it (see `Plan`). skipped_file: gets a JSON line for each skipped recording. Raises ValueError
    when nothing is usable.
    """
    config = config or DataConfig()
    recordings = open_source(spec, config.allow_commands)
    if spec == DEMO and "split" not in config.where:
        recordings = recordings.with_items(item for item in recordings if item.fields.get("split") == "train")
    scanned = scan(recordings, config, progress)
    log = SkipLog(skipped_file)
    log.add(scanned.skipped, write=rank == 0)  # every rank scans the same recordings
    log.note([*scanned.notes, *_unlabelled(scanned.utterances, config, spec)], write=rank == 0)
    train, valid = hold_out(scanned.utterances, config)
    return Data(
        train=Stream(Plan(train, config, seed, rank, world, multiple), log),
        valid=Fixed(valid, config, log),
        hours=sum(utterance.seconds for utterance in train) / 3600,
        splits=_splits(train),
        _log=log,
    )


def _unlabelled(utterances: Sequence[Utterance], config: DataConfig, spec: Spec) -> list[Note]:
    """Notes that count the utterances without the requested label or text. ValueError when no utterance has it."""
    notes = []
    for what, column in (("label", config.label), ("text", config.text)):
        has = [bool(utterance.recording.fields.get(column)) for utterance in utterances] if column else []
        parts = [not utterance.whole for utterance in utterances] if what == "text" else [False] * len(has)
        used = sum(known and not part for known, part in zip(has, parts, strict=False))
        if used == len(has):
            continue
        if not any(has):
            columns = {name for utterance in utterances for name in utterance.recording.fields}
            raise ValueError(f"no recording has the {what} '{column}'{suggestion(column, columns)}")
        if not used:
            raise ValueError("all recordings with a text are split, so none can be learned; raise data.max_seconds")
        split = sum(known and part for known, part in zip(has, parts, strict=False))
        why = f", {split} of them because their recording is split" if split else ""
        notes.append(Note(path=str(spec), note=f"{len(has) - used} of {len(has)} utterances have no {what} '{column}'{why}"))
    return notes


def _splits(utterances: Sequence[Utterance]) -> tuple[str, ...]:
    return tuple(sorted({utterance.recording.fields.get("split", "") for utterance in utterances} - {""}))
