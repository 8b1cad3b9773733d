"""Collects the mistakes in a request, to report all of them before anything runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class Mistakes:
    """Collects ValueErrors and OSErrors instead of stopping at the first."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    @contextlib.contextmanager
    def of(self, who: str) -> Iterator[None]:
        """Records an error in the block as a mistake of `who`; the code after the block continues."""
        try:
            yield
        except (ValueError, OSError) as problem:
            self.texts.append(f"{who}: {problem}")

    def stop(self) -> None:
        """ValueError with all mistakes, if there are any."""
        if self.texts:
            raise ValueError(block("nothing was run, because of", self.texts))


def block(head: str, rows: Sequence[str]) -> str:
    """``HEAD 2 mistakes:`` and a line for each; a single mistake is on the same line."""
    if len(rows) == 1:
        return f"{head} a mistake: {rows[0]}"
    return "\n  ".join([f"{head} {len(rows)} mistakes:", *rows])
