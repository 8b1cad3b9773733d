"""Audio of the run on which a stage looks at the student without training it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder
from sottovoce.pruning.moments import Moments, collect
from sottovoce.train.run import Run
from sottovoce.train.teachers import prepared


def batches(run: Run, stage: str, clips: int) -> Iterator[Batch]:
    """Batches of the stage's stream, as decoded, until they hold `clips` recordings."""
    stream, seen = run.stream(stage), 0
    while seen < clips:
        batch = next(stream)
        rows = min(len(batch.wave), clips - seen)
        yield batch.rows(range(rows))
        seen += rows


def waves(run: Run, stage: str, clips: int) -> Iterator[Tensor]:
    """`clips` recordings, each alone and as the student reads it: (1, S), without padding, on the run's device."""
    for batch in batches(run, stage, clips):
        batch = prepared(batch.to(run.world.device), run.teachers.normalize)
        ends = [batch.wave.shape[1]] * len(batch.wave) if batch.lengths is None else batch.lengths.tolist()
        for row, end in zip(batch.wave, ends, strict=True):
            yield row[None, :end]


def moments(
    run: Run, stage: str, clips: int, encoder: Encoder, reads: Iterable[str], writes: Iterable[str] = (), products: bool = True
) -> Mapping[str, Moments]:
    """`collect` on `clips` recordings, summed over processes, each of which hears recordings of its own."""
    found = collect(encoder, waves(run, stage, clips), reads, writes, products)
    for each in found.values():
        each.gather(run.world.sum)
    return found
