"""The names of splits: everyone has their own for the same three."""

from __future__ import annotations

from collections.abc import Iterable

SPLITS = ("train", "dev", "test")
NAMES = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "validate", "val", "cv", "dt", "development", "devel", "develop"), "dev"),
    **dict.fromkeys(("test", "testing", "tst", "tt", "et", "eval", "evaluation"), "test"),
}  # fmt: skip


def canonical(name: str) -> str:
    """train, dev or test for any of their usual names, in any case of letters; another name as it is."""
    return NAMES.get(name.strip().lower(), name)


def unused(names: Iterable[str]) -> str:
    """What to say of splits that no task learns from or is tested on; empty when there are none. names: of all recordings."""
    counts: dict[str, int] = {}
    for name in names:
        if name and canonical(name) not in SPLITS:
            counts[name] = counts.get(name, 0) + 1
    said = ", ".join(f"'{name}' ({count})" for name, count in sorted(counts.items())[:8]) + (", ..." if len(counts) > 8 else "")
    return f"recordings of the splits {said} are in none of train, dev and test" if counts else ""
