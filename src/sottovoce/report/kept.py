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
class Layer:
    name: str
    attention: Part
    ffn: Part


@dataclass(frozen=True)
class Picture:
    """convs: channels of the front end's convolutions. position: channel groups of the positional convolution, when they can be cut."""

    convs: tuple[tuple[str, Part], ...]
    position: Part | None
    layers: tuple[Layer, ...]
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
    layers = []
    old = (
        before["layers"]
        if before is not None and len(before["layers"]) == len(after["layers"])
        else [None] * len(after["layers"])
    )
    for i, (layer, was) in enumerate(zip(after["layers"], old, strict=True)):
        heads = _part(
            layer["num_heads"], was and was["num_heads"], run.kept.get(f"layers.{i}.head"), layer.get("attention") is False
        )
        ffn = _part(layer["ffn_dim"], was and was["ffn_dim"], None, layer.get("ffn") is False)
        layers.append(Layer(f"Layer {i + 1}", heads, ffn))
    return Picture(tuple(convs), _position(after, before), tuple(layers), before is not None)


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
