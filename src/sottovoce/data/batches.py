"""Groups utterances into batches, as a pure function of (seed, epoch).

Nothing here reads audio. Every random choice has its own generator, seeded by the position of the choice. A run that resumes at any
batch therefore sees the same batches as a run without a break.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.config import DataConfig
from sottovoce.data.degradations.base import DegradationChoice, seed_of
from sottovoce.data.scan import Utterance

NOISE = 0.05  # random relative change of lengths before sorting: batches differ between epochs, and crops stay small
SPREAD = 0.2  # largest share of a validation row that may be cropped away
ORDER, CROP = 1, 2  # seeds that separate the random streams


@dataclass(frozen=True)
class Job:
    """One batch to decode. It is sent to a worker and holds all that the worker needs.

    epoch, index: the position of the step, see `Plan`. begins: first sample of each row within its utterance. samples: length of each
    row. padded: whether rows keep their own lengths. min_samples: shorter rows are dropped. label, text: the columns with labels and
    transcripts. speed: the playback speed of all rows. degradations, draws: what is done to the rows, and each row's seed for it.
    """

    epoch: int
    index: int
    utterances: tuple[Utterance, ...]
    begins: tuple[int, ...]
    samples: tuple[int, ...]
    padded: bool
    min_samples: int
    label: str = ""
    speed: float = 1.0
    text: str = ""
    degradations: Mapping[str, DegradationChoice] = field(default_factory=dict)
    draws: tuple[int, ...] = ()


def rng(*seeds: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64 for seed in seeds])


def bucket(
    samples: Sequence[int] | NDArray[np.int64], config: DataConfig, generator: np.random.Generator | None
) -> list[list[int]]:
    """Group utterances of similar length. Returns the indices of each batch; every index occurs exactly once.

    samples: length of each utterance. generator: changes the lengths a little and shuffles the batches. Without it, the batches are
    sorted by length, and a batch ends early if its crop would remove more than `SPREAD` of a row (validation has only one pass).
    """
    lengths = np.asarray(samples, dtype=np.int64)
    key = lengths.astype(np.float64)
    if generator is not None:
        key = key * (1 + generator.uniform(-NOISE, NOISE, len(key)))
    order = np.argsort(key, kind="stable").tolist()
    values = lengths.tolist()
    budget = config.seconds_per_batch * SAMPLE_RATE
    batches: list[list[int]] = []
    rows: list[int] = []
    extreme = 0
    for row in order:
        if rows:
            new = min(extreme, values[row]) if config.crop == "shortest" else max(extreme, values[row])
            if new * (len(rows) + 1) > budget or (generator is None and values[row] * (1 - SPREAD) > values[rows[0]]):
                batches.append(rows)
                rows = []
        extreme = new if rows else values[row]
        rows.append(row)
    if rows:
        batches.append(rows)
    if generator is not None:
        batches = [batches[i] for i in generator.permutation(len(batches))]
    return batches


def make_job(
    utterances: Sequence[Utterance], config: DataConfig, generator: np.random.Generator | None, epoch: int = 0, index: int = 0
) -> Job:
    """The job of one batch. generator: draws crops, speed and degradations; without it, crops are centred, the speed is 1, and a hash of
    its id draws what is done to an utterance."""
    lengths = [utterance.samples for utterance in utterances]
    padded = config.crop == "none"
    if padded:
        begins, samples = [0] * len(lengths), lengths
    else:
        shortest, step = min(lengths), round(config.crop_step * SAMPLE_RATE)
        if step and shortest >= step:
            shortest -= shortest % step
        samples = [shortest] * len(lengths)
        spare = np.array([length - shortest for length in lengths])
        begins = (spare // 2 if generator is None else generator.integers(0, spare, endpoint=True)).tolist()
    speed = float(generator.choice(config.speeds)) if generator is not None and config.speeds else 1.0
    draws: list[int] = []
    if config.degradations:
        ids = (seed_of(utterance.id) for utterance in utterances)
        draws = list(ids) if generator is None else generator.integers(2**63, size=len(lengths)).tolist()
    rows = tuple(utterances), tuple(begins), tuple(samples)
    done = config.degradations, tuple(draws)
    return Job(epoch, index, *rows, padded, config.min_samples, config.label, speed, config.text, *done)


class Plan:
    """The endless sequence of jobs of one rank.

    All ranks share one sequence of batches, epoch after epoch. Each step takes the next `world` batches; rank r takes the r-th of them.
    The length of an epoch is rounded up to a multiple of `multiple` (default: `world`) by repeating its first batches, so that none is
    dropped. Epochs differ, unless `DataConfig.repeat_after` repeats them. With the same `multiple`, the sequence is the same for any
    number of ranks. A position is (epoch, index of the first batch of a step in the epoch).
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        config: DataConfig,
        seed: int,
        rank: int = 0,
        world: int = 1,
        multiple: int | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not below the number of ranks {world}")
        if not utterances:
            raise ValueError("no utterances to make batches of")
        self.utterances, self.config, self.seed, self.rank, self.world = utterances, config, seed, rank, world
        self.multiple = multiple or world
        self._samples = np.array([utterance.samples for utterance in utterances], dtype=np.int64)
        self._epoch, self._batches = -1, [[0]]

    def drawn(self, epoch: int) -> int:
        """The epoch whose random choices an epoch has: its own, or those of an earlier one that is repeated."""
        return epoch % self.config.repeat_after if self.config.repeat_after else epoch

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, for all ranks, as indices of utterances."""
        epoch = self.drawn(epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, bucket(self._samples, self.config, rng(self.seed, epoch, ORDER))
        return self._batches

    def largest(self) -> tuple[int, int]:
        """(rows, samples) of the largest batch of the first epoch; other epochs differ little."""
        shapes = []
        for rows in self.batches(0):
            lengths = self._samples[rows]
            shapes.append((len(rows), int(lengths.min() if self.config.crop == "shortest" else lengths.max())))
        return max(shapes, key=lambda shape: shape[0] * shape[1])

    def length(self, epoch: int) -> int:
        """Number of batches in an epoch, over all ranks."""
        return -(-len(self.batches(epoch)) // self.multiple) * self.multiple

    def steps(self, epoch: int) -> int:
        """Number of steps in an epoch; each rank takes one batch per step."""
        return -(-self.length(epoch) // self.world)

    def job(self, epoch: int, index: int) -> Job:
        """The job of this rank for the step at a position."""
        mine, number = self._later(epoch, index, self.rank)
        batches = self.batches(mine)
        number %= len(batches)
        utterances = [self.utterances[i] for i in batches[number]]
        return make_job(utterances, self.config, rng(self.seed, self.drawn(mine), CROP, number), epoch, index)

    def after(self, epoch: int, index: int) -> tuple[int, int]:
        """The position of the next step."""
        return self._later(epoch, index, self.world)

    def _later(self, epoch: int, index: int, batches: int) -> tuple[int, int]:
        """The position `batches` batches later."""
        index += batches
        while index >= (length := self.length(epoch)):
            epoch, index = epoch + 1, index - length
        return epoch, index

    def jobs(self, epoch: int, index: int) -> Iterator[Job]:
        """Endless jobs of this rank from a position on."""
        epoch, index = self._later(epoch, index, 0)
        while True:
            yield self.job(epoch, index)
            epoch, index = self.after(epoch, index)
