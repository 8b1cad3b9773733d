"""The names of splits: everyone has their own for the same three."""

from __future__ import annotations

from collections.abc import Mapping

SPLITS = ("train", "dev", "test")
NAMES = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "validate", "val", "cv", "dt", "development", "devel", "develop"), "dev"),
    **dict.fromkeys(("test", "testing", "tst", "tt", "et", "eval", "evaluation"), "test"),
}  # fmt: skip


def canonical(name: str) -> str:
    """train, dev or test for any of their usual names, in any case of letters; another name as it is."""
    return NAMES.get(name.strip().lower(), name)


def remarks(counts: Mapping[str, int]) -> list[str]:
    """What to say of splits under other names, and of those that no task takes. counts: recordings by name of the split."""
    texts = [
        f"the split '{name}' ({count}) is taken as {canonical(name)}"
        for name, count in sorted(counts.items())
        if canonical(name) != name
    ]
    other = {name: count for name, count in counts.items() if name and canonical(name) not in SPLITS}
    if other:
        names = ", ".join(f"'{name}' ({count})" for name, count in sorted(other.items())[:8]) + (
            ", ..." if len(other) > 8 else ""
        )
        texts.append(f"recordings of the splits {names} are in none of train, dev and test")
    return texts
