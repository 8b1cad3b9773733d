"""What is wrong with what was asked for, said all at once and before hours are spent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class Mistakes:
    """Collects ValueErrors and unreadable files instead of ending at the first."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextlib.contextmanager
    def of(self, who: str) -> Iterator[None]:
        """A mistake within the block is noted as `who`'s, and what comes behind the block goes on."""
        try:
            yield
        except (ValueError, OSError) as problem:
            self.found.append(f"{who}: {problem}")

    def stop(self) -> None:
        """ValueError with all that was found, if anything was."""
        if self.found:
            raise ValueError(block("nothing was run, because of", self.found))


def block(head: str, rows: Sequence[str]) -> str:
    """``head 2 mistakes:`` and a line for each; one alone on the same line."""
    if len(rows) == 1:
        return f"{head} a mistake: {rows[0]}"
    return "\n  ".join([f"{head} {len(rows)} mistakes:", *rows])
