"""Maps the usual names of splits to train, dev and test."""

from __future__ import annotations

from collections.abc import Mapping

SPLITS = ("train", "dev", "test")
NAMES = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "validate", "val", "cv", "dt", "development", "devel", "develop"), "dev"),
    **dict.fromkeys(("test", "testing", "tst", "tt", "et", "eval", "evaluation"), "test"),
}  # fmt: skip


def canonical(name: str) -> str:
    """train, dev or test for a usual name of it, in any case; any other name unchanged."""
    return NAMES.get(name.strip().lower(), name)


def remarks(counts: Mapping[str, int]) -> list[str]:
    """Remarks about renamed splits and about splits that no task uses. counts: recordings per split name."""
    texts = [
        f"the split '{name}' ({count}) is used as {canonical(name)}"
        for name, count in sorted(counts.items())
        if canonical(name) != name
    ]
    other = {name: count for name, count in counts.items() if name and canonical(name) not in SPLITS}
    if other:
        names = ", ".join(f"'{name}' ({count})" for name, count in sorted(other.items())[:8]) + (
            ", ..." if len(other) > 8 else ""
        )
        texts.append(f"the splits {names} are not train, dev or test, so no task uses them")
    return texts
