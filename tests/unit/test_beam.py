"""Beam search: the best of all sequences where it is wide enough, greedy where it is one wide."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sottovoce.evaluation.heads.beam import beam_search

CPU = torch.device("cpu")
END, START = 0, 1


class Table:
    """A toy model: the next token's log-probabilities are drawn by the item and all tokens before."""

    start, end = START, END

    def __init__(self, classes: int, seed: int = 0) -> None:
        self.classes, self.seed = classes, seed

    def next(self, item: int, said: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, item, said)) % 2**31)
        return (2 * torch.randn(self.classes, generator=generator)).log_softmax(-1)

    def step(self, last: Tensor, state: list[tuple[int, tuple[int, ...]]]):  # type: ignore[no-untyped-def]
        state = [(item, (*said, token)) for (item, said), token in zip(state, last.tolist(), strict=True)]
        return torch.stack([self.next(*row) for row in state]), state

    def pick(self, state: list[tuple[int, tuple[int, ...]]], rows: Tensor) -> list[tuple[int, tuple[int, ...]]]:
        return [state[i] for i in rows.tolist()]

    def search(self, items: list[int], longest: list[int], beam: int, alpha: float) -> list[tuple[list[int], float]]:
        return beam_search(self, [(item, ()) for item in items], longest, beam, alpha, CPU)

    def best(self, item: int, longest: int, alpha: float) -> tuple[list[int], float]:
        """The best of all sequences, one by one."""
        scored = []
        for length in range(longest):
            for tokens in itertools.product([i for i in range(self.classes) if i != END], repeat=length):
                said, score = (START,), 0.0
                for token in (*tokens, END):
                    score += float(self.next(item, said)[token])
                    said = (*said, token)
                scored.append((list(tokens), score / (length + 1) ** alpha))
        return max(scored, key=lambda each: each[1])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_sequences(seed: int, alpha: float) -> None:
    table = Table(4, seed)
    for item, (tokens, score) in enumerate(table.search([0, 1, 2], [5, 5, 3], 4**5, alpha)):
        wanted, best = table.best(item, [5, 5, 3][item], alpha)
        assert tokens == wanted
        assert score == pytest.approx(best, abs=1e-5)


def test_a_beam_of_one_is_greedy() -> None:
    table = Table(6, 3)
    for item, (tokens, _) in enumerate(table.search(list(range(20)), [8] * 20, 1, 1.0)):
        said = [START]
        while len(said) < 8:
            token = int(table.next(item, tuple(said)).argmax())
            if token == END:
                break
            said.append(token)
        assert tokens == said[1:]


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_an_item_does_not_depend_on_the_others(beam: int) -> None:
    table, limits = Table(5, 1), [3, 9, 6, 1]
    together = table.search([0, 1, 2, 3], limits, beam, 1.0)
    for item, limit in enumerate(limits):
        tokens, score = table.search([item], [limit], beam, 1.0)[0]
        assert tokens == together[item][0]
        assert score == pytest.approx(together[item][1], abs=1e-6)
        assert len(tokens) < limit, "the end counts"


class Fixed(Table):
    """After the start: the end with 0.4, else a text of three tokens with 0.6 in all, each of which is certain then."""

    def next(self, item: int, said: tuple[int, ...]) -> Tensor:
        first, rest = torch.tensor([0.4, 0.0, 0.6]), torch.tensor([0.0, 0.0, 1.0])
        last = torch.tensor([1.0, 0.0, 0.0])
        return (first if len(said) == 1 else last if len(said) == 4 else rest).log()


def test_length_normalisation_decides_between_short_and_long() -> None:
    # log 0.4 = -0.916 over 1 token; log 0.6 = -0.511 over 4 tokens with the end
    assert Fixed(3).search([0], [9], 3, 0.0)[0] == ([2, 2, 2], pytest.approx(-0.5108, abs=1e-4))
    assert Fixed(3).search([0], [9], 3, 1.0)[0] == ([2, 2, 2], pytest.approx(-0.5108 / 4, abs=1e-4))

    class Halves(Table):
        """Every token costs a half: short wins without normalisation, long with more than all of it."""

        def next(self, item: int, said: tuple[int, ...]) -> Tensor:
            return torch.tensor([0.5, 0.0, 0.5]).log()

    assert Halves(3).search([0], [4], 8, 0.0)[0][0] == []
    assert Halves(3).search([0], [4], 8, 1.1)[0][0] == [2, 2, 2]


def test_nothing_to_say_is_no_error() -> None:
    class Mute(Table):
        def next(self, item: int, said: tuple[int, ...]) -> Tensor:
            return torch.tensor([0.0, 0.0, 1.0]).log()

    assert Mute(3).search([0], [4], 2, 1.0)[0][0] == []
    assert Mute(3).search([], [], 2, 1.0) == []
