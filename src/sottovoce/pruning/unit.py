"""What a kind of unit says about itself. One kind is one file in `pruning/units`; all else in this package loops over the kinds.

A unit is what gates open and close and a cut takes away: a channel, a head, a feed-forward unit, or a whole part of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from sottovoce.core.registry import UNITS, suggestion
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder, EncoderConfig

if TYPE_CHECKING:
    from sottovoce.pruning.gates import GateConfig

Width = float | Tensor  # a count, or an expected count
Place = tuple[int, int]  # layer (-1: before the layers), and order inside it

LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Slice:
    """Where the units of a group live in one tensor or buffer `name`: unit u is ``[u * block, (u + 1) * block)`` of axis `dim`.

    The one unit of a group of size 1 is the whole axis. scale: the consumer, whose entries are multiplied by the units' gate
    values. select: ``False`` where a closed unit leaves zeros, not a gap (the bias of a part that is gated as a whole).
    """

    name: str
    dim: int
    block: int = 1
    scale: bool = False
    select: bool = True


@dataclass(frozen=True)
class Group:
    """`size` units of one `kind`, of which `minimum` must stay. index: number of the convolution or layer."""

    name: str
    kind: str
    size: int
    slices: tuple[Slice, ...]
    minimum: int = 0
    index: int = 0


@dataclass(frozen=True)
class PartCost:
    """What one part of an encoder costs in one clip; numbers, or expectations (differentiable).

    name: "layers.0.ffn", say. kind: parts of one kind share latency coefficients. place: where it stands among the parts. frames: how
    many it computes. params: elements in the state dict. macs: multiply-accumulates. latency_terms: see `terms`; a function, because in
    training these are hundreds of small tensors that only a budget in latency needs. module: the encoder's module that computes the
    part, where that has another name.
    """

    name: str
    kind: str
    place: Place
    frames: int
    params: Width
    macs: Width
    latency_terms: Callable[[], Mapping[str, Width]]
    module: str = ""

    @property
    def terms(self) -> dict[str, Width]:
        """What the latency of the part is linear in: millions of multiply-accumulates and of numbers moved; "call": calls."""
        return {name: value if name == "call" else value / 1e6 for name, value in self.latency_terms().items()}

    def plus(self, params: Width, macs: Width, terms: Mapping[str, Width]) -> PartCost:
        """With so much more of each (less where negative): for a kind of unit that changes how a part is computed."""

        def more() -> Mapping[str, Width]:
            before = self.latency_terms()
            return {**before, **{name: before[name] + value for name, value in terms.items()}}

        return replace(self, params=self.params + params, macs=self.macs + macs, latency_terms=more)


@dataclass(frozen=True)
class Workload:
    """What costs depend on: an encoder's shape, the (expected) number of units in every group, and a clip of `samples`.

    presence: of parts that can be gated as a whole, 1 or 0 or the expectation; see `present`.
    """

    config: EncoderConfig
    sizes: Mapping[str, Width]
    samples: int
    presence: Mapping[str, Width]

    @classmethod
    def of(cls, config: EncoderConfig, widths: Mapping[str, Width] | None, seconds: float) -> Workload:
        """widths: for the groups that differ from `config`. ValueError when `seconds` are too short for one frame."""
        sizes: dict[str, Width] = dict(full_widths(config))
        assert widths is None or sizes.keys() >= widths.keys(), "widths are named after the groups of a plan"
        sizes.update(widths or {})
        presence: dict[str, Width] = {}
        for kind in kinds():
            for part, group in kind.covers(config).items():
                presence[part] = presence[part] * sizes[group] if part in presence else sizes[group]
        workload = cls(config, sizes, round(seconds * SAMPLE_RATE), presence)
        if workload.frames < 1:
            raise ValueError(f"{seconds} s are too short for one frame")
        return workload

    @property
    def frames(self) -> int:
        """Frames that the layers see."""
        return int(self.config.frontend.frames(self.samples))

    def frames_after(self, steps: int) -> int:
        """Frames after so many of the front end's steps."""
        frames = self.samples
        for kernel, stride in self.config.frontend.steps[:steps]:
            frames = (frames - kernel) // stride + 1
        return frames

    def present(self, part: str) -> Width:
        """1 if `part` is there, 0 if it is gone with everything that it adds."""
        return self.presence.get(part, 1)


class UnitKind:
    """A kind of unit. A subclass is one file: ``@UNITS.register("name")``, `sizes`, `groups`, `narrow`, and what else differs.

    The first line of its docstring is what ``sottovoce list units`` shows. It keeps no state.
    """

    name: ClassVar[str]
    order: ClassVar[int] = 100  # of its groups among those of a layer; whole parts come after the units in them
    rounded: ClassVar[bool] = False  # kept in multiples of `budget.round_to`: units that are single rows and columns

    # Which units there are.

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        """Group name -> units in an encoder of this shape, also where it cannot be pruned as it is; 1 or 0 for whole parts."""
        raise TypeError(f"{type(self).__name__} must define sizes")

    def groups(self, config: EncoderConfig) -> Iterable[Group]:
        """The groups that can be gated. ValueError where it cannot be done, with a way out."""
        raise TypeError(f"{type(self).__name__} must define groups")

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        """The shape that has only the units `kept` of `group`."""
        raise TypeError(f"{type(self).__name__} must define narrow")

    def place(self, group: str) -> Place:
        """Where a group stands in the plan."""
        return (layer_of(group), self.order)

    # What an encoder needs before its units can be gated.

    def prepared(self, config: EncoderConfig) -> EncoderConfig:
        """The shape of an encoder of the same function that can be gated."""
        return config

    def tensors(self, encoder: Encoder) -> Mapping[str, Tensor]:
        """Those that the prepared encoder has and `encoder` has not, or not with these values."""
        return {}

    def unprepared(self, config: EncoderConfig) -> EncoderConfig:
        """The reverse of `prepared`, where every unit is still there: the shape whose cost is the whole."""
        return config

    # What they cost.

    def parts(self, workload: Workload) -> Iterable[PartCost]:
        """The parts of an encoder that are made of these units."""
        return ()

    def part_of(self, group: str) -> str:
        """The part that the units of a group are in."""
        return group

    def covers(self, config: EncoderConfig) -> Mapping[str, str]:
        """For kinds that are whole parts: name of the part -> the group of size 1 that takes it away."""
        return {}

    def recost(self, part: PartCost, workload: Workload) -> PartCost:
        """`part`, of whatever kind, with what these units change in it."""
        return part

    def timed(self) -> Mapping[str, EncoderConfig]:
        """Shapes that `sottovoce bench --fit-cost` takes apart to time the parts of this kind, narrow to wide."""
        return {}

    # Gates, students, listings.

    def drop(self, config: GateConfig) -> float:
        """Where gates start: log_alpha is log((1 - drop) / drop)."""
        return config.drop

    # Name, type and default of the field by which the student `narrow` asks for fewer units; None where it cannot.
    option: ClassVar[tuple[str, Any, Any] | None] = None

    def sized(self, config: EncoderConfig, size: int | tuple[int, ...]) -> EncoderConfig:
        """The shape with so many units in every group, or one number for each. ValueError where there are fewer."""
        groups = list(self.groups(config))
        sizes = size if isinstance(size, tuple) else (size,) * len(groups)
        there = [group.size for group in groups]
        if len(sizes) != len(groups) or any(wanted > most for wanted, most in zip(sizes, there, strict=True)):
            field = self.option[0] if self.option else self.name
            one = f"is {size}, but the teacher has {min(there)}"
            raise ValueError(f"student.{field} " + (f"must be {len(groups)} numbers, at most {there}" if sizes is size else one))
        for group, wanted in zip(groups, sizes, strict=True):
            config = self.narrow(config, group, range(wanted))
        return config

    title: ClassVar[str] = ""  # in the report: of a column for groups of layers, of a row for others; "" is not drawn

    def titles(self, config: EncoderConfig) -> Mapping[str, str]:
        """Group name -> its title."""
        return dict.fromkeys(self.sizes(config), self.title) if self.title else {}

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        """Part -> its title and its shape in ``sottovoce inspect``."""
        return {}


def kinds(names: Iterable[str] | None = None) -> list[UnitKind]:
    """The kinds of the given names, or all, in alphabetical order. ValueError for a kind that does not exist."""
    known = UNITS.names()
    for name in names or ():
        if name not in known:
            raise ValueError(f"cannot prune '{name}'{suggestion(name, known)} (known: {', '.join(known)})")
    return [UNITS.get(name)() for name in (known if names is None else sorted(set(names)))]


def kind_of(group: Group) -> UnitKind:
    """The kind that `group` is of."""
    return kinds((group.kind,))[0]


def layer_of(name: str) -> int:
    """The number of the layer that a group or part is in; -1 for the others."""
    match = LAYER.match(name)
    return int(match[1]) if match else -1


def full_widths(config: EncoderConfig) -> dict[str, int]:
    """How many units of each kind an encoder has, under the names that `make_plan` gives to groups; 1 or 0 for whole parts."""
    return {name: size for kind in kinds() for name, size in kind.sizes(config).items()}


def any_unit(width: Width) -> Width:
    """1 if there is any unit, else 0. Of an expected number: an upper bound of the probability."""
    return width.clamp(max=1) if isinstance(width, Tensor) else min(width, 1)


def iter_layers(config: EncoderConfig) -> Iterator[tuple[int, str, Any]]:
    """(number, "layers.number", shape) of every layer."""
    for i, layer in enumerate(config.layers):
        yield i, f"layers.{i}", layer
