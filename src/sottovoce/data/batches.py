"""Which utterances make a batch, as a pure function of (seed, epoch).

Nothing here reads audio. Everything random comes from a generator seeded by what it decides, never from a running state, so that a run
resumed at any batch sees what the undisturbed run would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.config import DataConfig
from sottovoce.data.scan import Utterance

NOISE = 0.05  # lengths are sorted after a random change of up to this share: other neighbours in every epoch, little cropped away
SPREAD = 0.2
ORDER, CROP = 1, 2  # separate the random streams


@dataclass(frozen=True)
class Job:
    """One batch to decode. It travels to a worker, so it holds all that the worker needs.

    epoch, index: the position of the stream's step, see `Plan`. begins: first sample of every row within its utterance.
    samples: length of every row. padded: whether the rows keep their own lengths. min_samples: shorter rows are given up.
    label: the column that gives rows their labels. speed: at which all rows are played.
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


def rng(*seeds: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64 for seed in seeds])


def bucket(
    samples: Sequence[int] | NDArray[np.int64], config: DataConfig, generator: np.random.Generator | None
) -> list[list[int]]:
    """Indices of every batch. Every index comes exactly once.

    Without a generator: strictly by length, the same at every call, and a batch ends early rather than hold a row that would lose
    more than `SPREAD` of itself to the crop (a small held-out set has all lengths, and no other epoch in which to hear the rest).
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
    """The job of one batch; without a generator the crops are from the middle, and nothing is played faster or slower."""
    own = [utterance.samples for utterance in utterances]
    padded = config.crop == "none"
    if padded:
        begins, samples = [0] * len(own), own
    else:
        shortest, step = min(own), round(config.crop_step * SAMPLE_RATE)
        if step and shortest >= step:
            shortest -= shortest % step
        samples = [shortest] * len(own)
        spare = np.array([length - shortest for length in own])
        begins = (spare // 2 if generator is None else generator.integers(0, spare, endpoint=True)).tolist()
    speed = float(generator.choice(config.speeds)) if generator is not None and config.speeds else 1.0
    return Job(epoch, index, tuple(utterances), tuple(begins), tuple(samples), padded, config.min_samples, config.label, speed)


class Plan:
    """The endless sequence of jobs of one rank.

    All ranks share one sequence of batches, epoch after epoch: a step takes the next `world` of it, and rank r the r-th of these. An epoch
    has a multiple of `multiple` batches (by default of `world`): where they do not come out even, the first ones come again, so that no
    batch is dropped. With the same `multiple` the sequence is the same for any number of ranks. A position is the epoch, and in it the
    number of the batch with which a step begins.
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

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, of all ranks, as indices of utterances."""
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, bucket(self._samples, self.config, rng(self.seed, epoch, ORDER))
        return self._batches

    def largest(self) -> tuple[int, int]:
        """Rows and samples of the largest batch of an epoch; other epochs' are about as large."""
        shapes = []
        for rows in self.batches(0):
            lengths = self._samples[rows]
            shapes.append((len(rows), int(lengths.min() if self.config.crop == "shortest" else lengths.max())))
        return max(shapes, key=lambda shape: shape[0] * shape[1])

    def length(self, epoch: int) -> int:
        """How many batches all ranks together take in an epoch."""
        return -(-len(self.batches(epoch)) // self.multiple) * self.multiple

    def steps(self, epoch: int) -> int:
        """In how many steps they take these."""
        return -(-self.length(epoch) // self.world)

    def job(self, epoch: int, index: int) -> Job:
        """The job of this rank in the step at a position."""
        mine, number = self._later(epoch, index, self.rank)
        batches = self.batches(mine)
        number %= len(batches)
        chosen = [self.utterances[i] for i in batches[number]]
        return make_job(chosen, self.config, rng(self.seed, mine, CROP, number), epoch, index)

    def after(self, epoch: int, index: int) -> tuple[int, int]:
        """The position that follows."""
        return self._later(epoch, index, self.world)

    def _later(self, epoch: int, index: int, batches: int) -> tuple[int, int]:
        """So many batches after a position."""
        index += batches
        while index >= (length := self.length(epoch)):
            epoch, index = epoch + 1, index - length
        return epoch, index

    def jobs(self, epoch: int, index: int) -> Iterator[Job]:
        """Endless, from a position on."""
        epoch, index = self._later(epoch, index, 0)
        while True:
            yield self.job(epoch, index)
            epoch, index = self.after(epoch, index)
