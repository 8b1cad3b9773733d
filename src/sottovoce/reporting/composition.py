"""What the cut left of each layer, ready to be drawn. Kinds of units say what is drawn of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sottovoce.encoder import EncoderConfig
from sottovoce.pruning import full_widths, kinds
from sottovoce.pruning.unit import layer_of
from sottovoce.reporting.collect import ReportedRun


@dataclass(frozen=True)
class KeptUnits:
    """left: units that are still there; of: how many there were, or ``None`` when that is not known. open: per unit, where known.

    gone: the whole part was taken away, with everything it adds.
    """

    left: int
    of: int | None
    open: tuple[bool, ...] = ()
    gone: bool = False

    @property
    def share(self) -> float:
        return self.left / self.of if self.of else 1.0


@dataclass(frozen=True)
class Picture:
    """front: title and units of what stands before the layers. layers: the units for each of `titles`, ``None`` where a layer has none of
    the kind. compared: with the encoder before the cut."""

    front: tuple[tuple[str, KeptUnits], ...]
    titles: tuple[str, ...]
    layers: tuple[tuple[KeptUnits | None, ...], ...]
    compared: bool


def picture(run: ReportedRun) -> Picture | None:
    """``None`` when the student's shape is not known."""
    after, before = run.after, run.before
    if after is None:
        return None
    if before is not None and len(before.layers) != len(after.layers):
        before = None
    front: list[tuple[str, KeptUnits]] = []
    layers: list[dict[str, KeptUnits]] = [{} for _ in after.layers]
    titles: list[str] = []
    full = full_widths(before) if before is not None else {}
    absent = _absent(after)
    for group, title, size in _drawn(after):
        units = _units(size, full.get(group), run.kept.get(group), group in absent)
        if layer_of(group) < 0:
            front.append((title, units))
        else:
            layers[layer_of(group)][title] = units
            titles += [title] if title not in titles else []
    rows = tuple(tuple(layer.get(title) for title in titles) for layer in layers)
    return Picture(tuple(front), tuple(titles), rows, before is not None)


def _drawn(config: EncoderConfig) -> list[tuple[str, str, int]]:
    """(group, title, units) of what is drawn, by its place in a layer."""
    placed = [
        (kind.place(group)[1], group, title, kind.sizes(config)[group])
        for kind in kinds()
        for group, title in kind.titles(config).items()
    ]
    return [(group, title, size) for _, group, title, size in sorted(placed, key=lambda item: item[0])]


def _absent(config: EncoderConfig) -> set[str]:
    """Groups whose part was taken away as a whole."""
    sizes = full_widths(config)
    gone = {part for kind in kinds() for part, group in kind.covers(config).items() if not sizes[group]}
    return {group for kind in kinds() for group in kind.sizes(config) if kind.part_of(group) in gone}


def _units(left: int, of: int | None, kept: Sequence[int] | None, gone: bool) -> KeptUnits:
    count = 0 if gone else left
    units: tuple[bool, ...] = ()
    if of is not None and of <= 64:
        which = set(kept) if kept is not None and len(kept) == count else set(range(count))
        units = tuple(i in which for i in range(of))
    return KeptUnits(count, of, units, gone)
