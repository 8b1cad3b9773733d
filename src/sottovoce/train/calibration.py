"""Audio of the run on which a stage looks at the student without training it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sottovoce.core.types import Batch
from sottovoce.train.run import Run
from sottovoce.train.teachers import prepared


def batches(run: Run, stage: str, clips: int) -> Iterator[Batch]:
    """Batches of the stage's stream, as decoded, until they hold `clips` recordings."""
    stream, seen = run.stream(stage), 0
    while seen < clips:
        batch = next(stream)
        rows = min(len(batch.wave), clips - seen)
        lengths = None if batch.lengths is None else batch.lengths[:rows]
        yield Batch(batch.wave[:rows], lengths, batch.ids[:rows], batch.labels[:rows])
        seen += rows


def waves(run: Run, stage: str, clips: int) -> Iterator[Tensor]:
    """`clips` recordings, each alone and as the student reads it: (1, S), without padding, on the run's device."""
    for batch in batches(run, stage, clips):
        batch = prepared(batch.to(run.world.device), run.teachers.normalize)
        ends = [batch.wave.shape[1]] * len(batch.wave) if batch.lengths is None else batch.lengths.tolist()
        for row, end in zip(batch.wave, ends, strict=True):
            yield row[None, :end]
