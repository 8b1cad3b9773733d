"""What the cut left of each layer, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sottovoce.report.collect import Run


@dataclass(frozen=True)
class Part:
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
class Column:
    """What every layer may have: a title, the field that counts its units, the one that says whether the part is there, and the name that
    `make_plan` gives to its group where single units are listed."""

    title: str
    units: str
    there: str = ""
    group: str = ""


HEADS = Column("Attention heads", "num_heads", "attention", "head")
UNITS = Column("Feed-forward units", "ffn_dim", "ffn")
CONFORMER = (Column("First feed-forward", "ffn1_dim", "ffn1"), HEADS, Column("Convolution channels", "glu_dim"), UNITS)


@dataclass(frozen=True)
class Picture:
    """convs: channels of the front end's convolutions. position: channel groups of the positional convolution, when they can be cut.
    layers: a part for each of `titles`, ``None`` where a layer is of a kind that has no such part."""

    convs: tuple[tuple[str, Part], ...]
    position: Part | None
    titles: tuple[str, ...]
    layers: tuple[tuple[Part | None, ...], ...]
    compared: bool  # with the encoder before the cut


def picture(run: Run) -> Picture | None:
    """``None`` when the student's shape is not known."""
    after, before = run.after, run.before
    if after is None:
        return None
    convs = [
        (f"Convolution {i + 1}", _part(_dim(after, i), _dim(before, i), run.kept.get(f"frontend.convs.{i}")))
        for i in range(len(after["frontend"]["convs"]))
    ]
    old = (
        before["layers"]
        if before is not None and len(before["layers"]) == len(after["layers"])
        else [None] * len(after["layers"])
    )
    columns = CONFORMER if any(layer.get("kind") == "conformer" for layer in after["layers"]) else (HEADS, UNITS)
    layers = tuple(
        tuple(_of(column, layer, was, run.kept.get(f"layers.{i}.{column.group}")) for column in columns)
        for i, (layer, was) in enumerate(zip(after["layers"], old, strict=True))
    )
    titles = tuple(column.title for column in columns)
    return Picture(tuple(convs), _position(after, before), titles, layers, before is not None)


def _of(column: Column, layer: Mapping[str, Any], was: Mapping[str, Any] | None, kept: Sequence[int] | None) -> Part | None:
    if column not in (HEADS, UNITS) and layer.get("kind") != "conformer":
        return None
    now, of = layer.get(column.units, 0), None if was is None else was.get(column.units, 0)
    return _part(now, of, kept, layer.get(column.there) is False)


def _part(left: Any, of: Any, kept: Sequence[int] | None, gone: bool = False) -> Part:
    count = 0 if gone else int(left)
    most = None if of is None else int(of)
    units: tuple[bool, ...] = ()
    if most is not None and most <= 64:
        chosen = set(kept) if kept is not None and len(kept) == count else set(range(count))
        units = tuple(i in chosen for i in range(most))
    return Part(count, most, units, gone)


def _dim(shape: Mapping[str, Any] | None, i: int) -> Any:
    convs = shape["frontend"]["convs"] if shape is not None else []
    return convs[i]["dim"] if i < len(convs) else None


def _position(after: Mapping[str, Any], before: Mapping[str, Any] | None) -> Part | None:
    now, was = after.get("position"), (before or {}).get("position")
    if not isinstance(now, dict) or not isinstance(now.get("kept"), list):
        return None
    groups = was.get("kept") if isinstance(was, dict) else None
    return Part(len(now["kept"]), len(groups) if isinstance(groups, list) else now.get("groups"))
