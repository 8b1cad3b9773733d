"""From a student's states to those that the rest of a host reads.

B batch, T frames of the student, D its width, D' the width that the rest reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from sottovoce.encoder.modules import LayerNorm


@dataclass(frozen=True)
class BridgeConfig:
    """sizes: the widths between linear maps, which have a GELU between them; the last is `join` frames wide. norm: a layer norm behind
    them, the final one of the encoder that was replaced; `norm_eps`, `norm_bias`: its shape."""

    sizes: tuple[int, ...]
    join: int = 1
    norm: bool = False
    norm_eps: float = 1e-5
    norm_bias: bool = True

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BridgeConfig:
        return cls(**{**values, "sizes": tuple(values["sizes"])})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "sizes": list(self.sizes)}


class Bridge(nn.Module):
    """(B, T, D) bare states of a student's last layer -> (B, join T, D'), the states that the rest of a host reads."""

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.config = config
        steps = zip(config.sizes[:-1], config.sizes[1:], strict=True)
        self.maps = nn.ModuleList(nn.Linear(*step) for step in steps)
        width = config.sizes[-1] // config.join
        self.norm: nn.Module = LayerNorm(width, config.norm_eps, config.norm_bias) if config.norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for i, linear in enumerate(self.maps):
            x = linear(nn.functional.gelu(x) if i else x)
        if self.config.join > 1:
            x = x.unflatten(2, (self.config.join, -1)).flatten(1, 2)
        states: Tensor = self.norm(x)
        return states


class Bridges(nn.Sequential):
    """Bridges in a row, one for each time that an encoder was replaced by a student of another space; none for the encoder as it was."""

    @classmethod
    def from_json(cls, steps: Sequence[Mapping[str, Any]]) -> Bridges:
        return cls(*(Bridge(BridgeConfig.from_json(step)) for step in steps))

    @property
    def join(self) -> int:
        """Frames that come out for each of the student's."""
        return math.prod(bridge.config.join for bridge in self if isinstance(bridge, Bridge))

    def to_json(self) -> list[dict[str, Any]]:
        return [bridge.config.to_json() for bridge in self if isinstance(bridge, Bridge)]
