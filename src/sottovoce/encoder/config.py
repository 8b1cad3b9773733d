"""The shape of an encoder, as data.

Everything that may differ between two encoders stands here, layer by layer, so that a pruned student is described as exactly as the
teacher it came from. A removed part is width 0 (its constant output stays, as a bias) or, when the whole part was gated away, ``False``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ConvConfig:
    """One convolution of the waveform front end. `dim` output channels; `kernel` and `stride` in steps of its input."""

    dim: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class FrontendConfig:
    """Waveform convolutions, then layer norm and projection to the encoder's width.

    norm: "group", one norm per channel over time after the first convolution (the Base models), or "layer", over channels after each.
    norm_over_padding: compute the group norm over padded samples too, and let a row of positional convolutions (data2vec-audio) see
    padding, as transformers and fairseq do. The default leaves padding out, so that a row's features do not depend on its
    neighbours in the batch.
    """

    convs: tuple[ConvConfig, ...]
    norm: str = "group"
    bias: bool = False
    projection_norm: bool = True
    activation: str = "gelu"
    norm_over_padding: bool = False

    @property
    def kernel(self) -> int:
        """Samples that the first frame needs."""
        size = 1
        for conv in reversed(self.convs):
            size = (size - 1) * conv.stride + conv.kernel
        return size

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        step = 1
        for conv in self.convs:
            step *= conv.stride
        return step

    def frames(self, samples: Any) -> Any:
        """Frames that come out of `samples` (an int or an integer tensor)."""
        for conv in self.convs:
            samples = (samples - conv.kernel) // conv.stride + 1
        return samples


@dataclass(frozen=True)
class PositionConfig:
    """Convolutional positions, added to the first layer's input.

    depth: how many convolutions in a row; norm: a layer norm without weights after each (data2vec-audio has 5 of them).
    kept: which of the channel groups are left, each with a learned scale; ``None`` for all groups without scales.
    """

    kernel: int
    groups: int
    depth: int = 1
    norm: bool = False
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RelativeConfig:
    """WavLM's gated relative positions: one table of (buckets, heads), shared by all layers, gated per layer, head and query."""

    buckets: int
    max_distance: int
    heads: int


@dataclass(frozen=True)
class LayerConfig:
    """One Transformer layer: `num_heads` heads of `head_dim`, `ffn_dim` feed-forward units.

    attention, ffn: ``False`` when the part is gone with everything it adds. heads: for models with a relative table, the table
    columns that this layer's heads use (empty otherwise).
    """

    num_heads: int
    head_dim: int
    ffn_dim: int
    attention: bool = True
    ffn: bool = True
    heads: tuple[int, ...] = ()


@dataclass(frozen=True)
class DropoutConfig:
    """Dropout rates in training: after the front end's projection, on residual branches, on attention weights, inside the feed-forward."""

    projection: float = 0.0
    hidden: float = 0.0
    attention: float = 0.0
    ffn: float = 0.0


@dataclass(frozen=True)
class EncoderConfig:
    """The whole encoder. `dim`: width of the residual stream. `norm_first`: pre-norm layers and a final norm ("stable layer norm")."""

    frontend: FrontendConfig
    dim: int
    position: PositionConfig
    layers: tuple[LayerConfig, ...]
    norm_first: bool = False
    norm_eps: float = 1e-5
    activation: str = "gelu"
    relative: RelativeConfig | None = None
    dropout: DropoutConfig = DropoutConfig()

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderConfig:
        """The reverse of `to_dict`, also after a round trip through JSON. TypeError on unknown fields."""
        data = dict(data)
        frontend = dict(data["frontend"])
        frontend["convs"] = tuple(ConvConfig(**conv) for conv in frontend["convs"])
        data["frontend"] = FrontendConfig(**frontend)
        position = dict(data["position"])
        position["kept"] = None if position.get("kept") is None else tuple(position["kept"])
        data["position"] = PositionConfig(**position)
        data["layers"] = tuple(LayerConfig(**{**layer, "heads": tuple(layer.get("heads", ()))}) for layer in data["layers"])
        data["relative"] = None if data.get("relative") is None else RelativeConfig(**data["relative"])
        data["dropout"] = DropoutConfig(**data.get("dropout", {}))
        return cls(**data)
