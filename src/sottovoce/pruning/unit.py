"""The base class of kinds of units. One kind is one file in `pruning/units`; the rest of the package only loops over kinds.

A unit is what a gate closes and a cut removes: a channel, a head, a feed-forward unit, or a whole part of a layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import Tensor

from sottovoce.core.registry import UNITS, suggestion
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.encoder.config import after
from sottovoce.pruning.gate_config import GateConfig

Width = float | Tensor  # a count, or an expected count
Place = tuple[int, int]  # layer (-1: before the layers), and order inside it

LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Slice:
    """The units of a group in one tensor `name`: unit u is ``[u * block, (u + 1) * block)`` of axis `dim`.

    The unit of a group of size 1 is the whole axis. scale: for the consumer, whose entries are multiplied by the gate values.
    select: ``False`` if a closed unit leaves zeros instead of being removed (the bias of a part that is gated as a whole).
    inside: unit u is every entry of the axis whose number is u modulo the group's size: channel u of every head.
    """

    name: str
    dim: int
    block: int = 1
    scale: bool = False
    select: bool = True
    inside: bool = False

    def by_unit(self, tensor: Tensor, size: int) -> Tensor:
        """The numbers of each of `size` units in `tensor`: (size, numbers)."""
        rows = tensor.movedim(self.dim, 0)
        return (rows.unflatten(0, (-1, size)).transpose(0, 1) if self.inside else rows).reshape(size, -1)


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
    """The cost of one part of an encoder for one clip; numbers, or differentiable expectations.

    name: such as "layers.0.ffn". kind: parts of one kind share latency coefficients. place: order among the parts. frames: number of
    frames it computes. params: elements of the state dict. macs: multiply-accumulates. latency_terms: see `terms`; a function, because
    in training these are hundreds of small tensors that only a latency budget needs. module: the encoder's module for this part, if it
    has another name.
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
        """The latency is linear in these: multiply-accumulates and values moved, in millions, and "call", the number of calls."""
        return {name: value if name == "call" else value / 1e6 for name, value in self.latency_terms().items()}

    def plus(self, params: Width, macs: Width, terms: Mapping[str, Width]) -> PartCost:
        """Adds to each cost (a negative number subtracts): for a kind of unit that changes how a part is computed. Terms that the part
        does not have are left out."""

        def more() -> Mapping[str, Width]:
            before = self.latency_terms()
            return {**before, **{name: before[name] + value for name, value in terms.items() if name in before}}

        return replace(self, params=self.params + params, macs=self.macs + macs, latency_terms=more)


@dataclass(frozen=True)
class Workload:
    """What costs depend on: an encoder's shape, the (expected) number of units in every group, and a clip of `samples`, which are those of
    one window where the encoder hears all in windows of one length.

    presence: see `present`; entries for the parts that can be gated as a whole. merged: linear layers of two factors count as what is
    smaller, the factors or one matrix (numbers only, no expectations).
    """

    config: EncoderConfig
    sizes: Mapping[str, Width]
    samples: int
    presence: Mapping[str, Width]
    merged: bool = False

    @classmethod
    def of(cls, config: EncoderConfig, widths: Mapping[str, Width] | None, seconds: float, merged: bool = False) -> Workload:
        """widths: (expected) units of the groups that differ from `config`. ValueError if `seconds` is too short for one frame."""
        sizes: dict[str, Width] = dict(full_widths(config))
        assert widths is None or sizes.keys() >= widths.keys(), "widths are named after the groups of a plan"
        sizes.update(widths or {})
        presence: dict[str, Width] = {}
        for kind in kinds():
            for part, group in kind.covers(config).items():
                presence[part] = presence[part] * sizes[group] if part in presence else sizes[group]
        workload = cls(config, sizes, config.window or round(seconds * SAMPLE_RATE), presence, merged)
        if workload.frames < 1:
            raise ValueError(f"{seconds} s are too short for one frame; use a longer clip")
        return workload

    @property
    def frames(self) -> int:
        """Number of frames in the layers."""
        return int(self.config.frontend.frames(self.samples))

    def frames_after(self, steps: int) -> int:
        """Number of frames after the first `steps` steps of the front end."""
        frames = self.samples
        for step in self.config.frontend.steps[:steps]:
            frames = after(frames, step)
        return frames

    def present(self, part: str) -> Width:
        """1 if `part` is there, 0 if it was removed, between them its probability."""
        return self.presence.get(part, 1)


class UnitKind:
    """A kind of unit. A subclass is one file: ``@UNITS.register("name")``, `sizes`, `groups`, `narrow`, and what differs from the defaults.

    The first line of its docstring is shown by ``sottovoce list units``. It keeps no state but the patterns it is asked for with.
    """

    name: ClassVar[str]
    order: ClassVar[int] = 100  # of its groups among those of a layer; whole parts come after the units in them
    rounded: ClassVar[bool] = False  # kept in multiples of `budget.round_to`; for units that are single rows and columns

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        """patterns: shell patterns of names of groups; only those that match one are gated. (): all."""
        self.patterns = patterns

    def wants(self, group: str) -> bool:
        """Whether a group of this name is to be gated."""
        return not self.patterns or any(fnmatchcase(group, pattern) for pattern in self.patterns)

    # The units of an encoder.

    def sizes(self, config: EncoderConfig) -> Mapping[str, int]:
        """Group name -> number of units, also of groups that cannot be pruned; 1 or 0 for whole parts."""
        raise TypeError(f"{type(self).__name__} must define sizes")

    def groups(self, config: EncoderConfig) -> Iterable[Group]:
        """The groups that can be gated. ValueError if this encoder's cannot."""
        raise TypeError(f"{type(self).__name__} must define groups")

    def narrow(self, config: EncoderConfig, group: Group, kept: Sequence[int]) -> EncoderConfig:
        """The config with only the units `kept` of `group`."""
        raise TypeError(f"{type(self).__name__} must define narrow")

    def place(self, group: str) -> Place:
        """The group's order in the plan."""
        return (layer_of(group), self.order)

    # Preparing an encoder for gates.

    def prepared(self, config: EncoderConfig) -> EncoderConfig:
        """The config of an equivalent encoder that can be gated."""
        return config

    def tensors(self, encoder: Encoder) -> Mapping[str, Tensor]:
        """The prepared encoder's tensors that are not in `encoder` or have other values there."""
        return {}

    def unprepared(self, config: EncoderConfig) -> EncoderConfig:
        """The reverse of `prepared`, if every unit is still there."""
        return config

    # Costs.

    def parts(self, workload: Workload) -> Iterable[PartCost]:
        """The parts of the encoder that consist of these units."""
        return ()

    def part_of(self, group: str) -> str:
        """The part that contains the units of a group."""
        return group

    def covers(self, config: EncoderConfig) -> Mapping[str, str]:
        """For kinds that gate whole parts: part -> its group of size 1."""
        return {}

    def recost(self, part: PartCost, workload: Workload) -> PartCost:
        """`part`, of any kind, with the costs that these units change."""
        return part

    def timed(self) -> Mapping[str, EncoderConfig]:
        """Encoders whose parts `sottovoce bench --fit-cost` times for this kind, narrow to wide."""
        return {}

    # Gates, students, listings.

    def drop(self, config: GateConfig) -> float:
        """Sets the initial log_alpha of the gates: log((1 - drop) / drop)."""
        return config.drop

    # Name, type and default of the field of the student `narrow` that sets the number of units; None: it has no such field.
    option: ClassVar[tuple[str, Any, Any] | None] = None

    def sized(self, config: EncoderConfig, size: int | tuple[int, ...]) -> EncoderConfig:
        """The config with `size` units in every group; a tuple gives one number per group. ValueError if there are fewer."""
        groups = list(self.groups(config))
        sizes = size if isinstance(size, tuple) else (size,) * len(groups)
        limits = [group.size for group in groups]
        if len(sizes) != len(groups) or any(count > limit for count, limit in zip(sizes, limits, strict=True)):
            field = self.option[0] if self.option else self.name
            one = f"is {size}, but the teacher has {min(limits)}"
            raise ValueError(f"student.{field} " + (f"must be {len(groups)} numbers, at most {limits}" if sizes is size else one))
        for group, count in zip(groups, sizes, strict=True):
            config = self.narrow(config, group, range(count))
        return config

    title: ClassVar[str] = ""  # in the report: of a column for groups of layers, of a row for others; "": not shown

    def titles(self, config: EncoderConfig) -> Mapping[str, str]:
        """Group name -> its title."""
        return dict.fromkeys(self.sizes(config), self.title) if self.title else {}

    def labels(self, config: EncoderConfig) -> Mapping[str, tuple[str, str]]:
        """Part -> (title, size) in ``sottovoce inspect``."""
        return {}


def kinds(names: Iterable[str] | None = None) -> list[UnitKind]:
    """The kinds of the given names, or all, in alphabetical order. ``ffn:layers.[6-9]*`` is the kind ``ffn`` for the groups that match the
    pattern; several such names of one kind add up. ValueError for an unknown kind."""
    known = UNITS.names()
    if names is None:
        return [UNITS.get(name)() for name in known]
    patterns: dict[str, tuple[str, ...]] = {}
    for given in names:
        name, _, pattern = given.partition(":")
        if name not in known:
            raise ValueError(f"cannot prune '{name}'{suggestion(name, known)} (known: {', '.join(known)})")
        patterns[name] = (*patterns.get(name, ()), pattern or "*")
    return [UNITS.get(name)(() if "*" in patterns[name] else patterns[name]) for name in sorted(patterns)]


def kind_of(group: Group) -> UnitKind:
    """The kind of `group`."""
    return kinds((group.kind,))[0]


def layer_of(name: str) -> int:
    """The layer number of a group or part; -1 outside the layers."""
    match = LAYER.match(name)
    return int(match[1]) if match else -1


def full_widths(config: EncoderConfig) -> dict[str, int]:
    """Group name (as in `make_plan`) -> number of units in an encoder; 1 or 0 for whole parts."""
    return {name: size for kind in kinds() for name, size in kind.sizes(config).items()}


def any_unit(width: Width) -> Width:
    """1 if there is any unit, else 0. For an expected number, an upper bound of that probability."""
    return width.clamp(max=1) if isinstance(width, Tensor) else min(width, 1)


def iter_layers(config: EncoderConfig) -> Iterator[tuple[int, str, Any]]:
    """(i, "layers.i", config) of every layer i."""
    for i, layer in enumerate(config.layers):
        yield i, f"layers.{i}", layer
