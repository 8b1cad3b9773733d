"""The shape of an encoder, as data.

Everything that may differ between two encoders stands here, layer by layer, so that a pruned student is described as exactly as the
teacher it came from. A removed part is width 0 (its constant output stays, as a bias) or, when the whole part was gated away, ``False``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sottovoce.encoder.context import Chunks, drawn

T = TypeVar("T")
Step = tuple[int, int, int]  # kernel, stride, padding on both sides
LATER = {"later": True}  # marks the fields that came after the first version


class Shape:
    """What all of these have in common: a field that came later is shown and saved only where it is used.

    So an older shape keeps its description (and whatever is digested from it), and an older version reads what it can build.
    """

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.used())})"

    def used(self) -> list[str]:
        """Names of the fields, without those that came later and have their default."""
        found = dataclasses.fields(self)  # type: ignore[arg-type]
        return [item.name for item in found if not (item.metadata.get("later") and getattr(self, item.name) == item.default)]

    def to_dict(self) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in self.used()}


def _plain(value: Any) -> Any:
    if isinstance(value, Shape):
        return value.to_dict()
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value


def after(count: Any, step: Step) -> Any:
    """Frames behind a step of so many (an int or an integer tensor) before it."""
    kernel, stride, padding = step
    return (count + 2 * padding - kernel) // stride + 1


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; known: {', '.join(known)}")


@dataclass(frozen=True, repr=False)
class ConvConfig(Shape):
    """One convolution of the front end. `dim` output channels; `kernel` and `stride` in steps of its input.

    padding: zeros on both sides. bias, activation: where they differ from what the front end says of all.
    """

    dim: int
    kernel: int
    stride: int
    padding: int = field(default=0, metadata=LATER)
    bias: bool | None = field(default=None, metadata=LATER)
    activation: str | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, repr=False)
class FbankConfig(Shape):
    """Kaldi's log-mel filter bank: 25 ms every 10 ms at 16 kHz. mels: filters; stack: consecutive frames that make one.

    normalize: every bin to zero mean and unit variance over the utterance, as w2v-BERT 2.0's extractor does. It takes away what a voice
    and a room have in common over the whole of it, and wants to know its end; without, frames depend on their own samples alone.
    """

    mels: int = 80
    stack: int = 2
    normalize: bool = field(default=True, metadata=LATER)

    size = 400  # samples in a window
    hop = 160  # samples from one window to the next

    @property
    def dim(self) -> int:
        """Width of a stacked frame."""
        return self.mels * self.stack

    @property
    def steps(self) -> tuple[Step, ...]:
        """Kernel, stride and padding of what moves along time."""
        return (self.size, self.hop, 0), (self.stack, self.stack, 0)

    @property
    def over_time(self) -> bool:
        """Whether a frame depends on the whole utterance."""
        return self.normalize


@dataclass(frozen=True, repr=False)
class LogMelConfig(Shape):
    """Log-mel energies relative to the loudest of the utterance: 25 ms windows in the middle of every 10 ms at 16 kHz. mels: filters."""

    mels: int = 80

    size = 400  # samples in a window
    hop = 160  # samples from one window to the next
    over_time = True  # the loudest moment may be the last

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.mels

    @property
    def steps(self) -> tuple[Step, ...]:
        """One frame for every full hop; windows reach beyond it on both sides."""
        return ((self.hop, self.hop, 0),)


@dataclass(frozen=True, repr=False)
class ProjectionConfig(Shape):
    """A convolution that makes the encoder's width, with the front end's activation behind it. `padding`: zeros on both sides."""

    kernel: int
    stride: int
    padding: int = 0


@dataclass(frozen=True, repr=False)
class FrontendConfig(Shape):
    """What is read (the waveform, or features of it), a row of convolutions or none, layer norm, and projection to the encoder's width.

    fbank, log_mel: the features, one of them at most; without, convolutions read the waveform. Of no convolutions, norm, bias and
    activation do not matter.
    join: so many frames in a row, after the norm, become one in the projection (time reduction, as FitHuBERT's, arXiv 2207.00555).
    projection: a convolution in place of the linear projection (then `join` is 1).
    norm: "group", one norm per channel over time after the first convolution (the Base models), "layer", over channels after each,
    "whole", one norm over channels and time together behind the first convolution's activation, or "none".
    norm_over_padding: compute the group norm over padded samples too, and let a row of positional convolutions (data2vec-audio) and
    the convolutions of Conformer layers (wav2vec2-conformer) see padding, as transformers and fairseq do. The default leaves
    padding out, so that a row's features do not depend on its neighbours in the batch.
    """

    convs: tuple[ConvConfig, ...]
    norm: str = "group"
    bias: bool = False
    projection_norm: bool = True
    activation: str = "gelu"
    norm_over_padding: bool = False
    fbank: FbankConfig | None = field(default=None, metadata=LATER)
    join: int = field(default=1, metadata=LATER)
    log_mel: LogMelConfig | None = field(default=None, metadata=LATER)
    projection: ProjectionConfig | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.join < 1:
            raise ValueError(f"frontend.join is {self.join}; at least one frame makes a frame")
        _known("frontend.norm", self.norm, ("group", "layer", "whole", "none"))
        if self.join > 1 and self.projection is not None:
            raise ValueError(f"frontend.join is {self.join}; a projection that is a convolution joins frames by its own stride")
        if self.fbank is not None and self.log_mel is not None:
            raise ValueError("frontend has fbank and log_mel; one of them at most can be read")

    @classmethod
    def like_wav2vec2(cls, dims: tuple[int, ...], norm: str) -> FrontendConfig:
        """Seven convolutions of these widths with the kernels and strides of wav2vec 2.0 and its kin."""
        steps = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
        convs = tuple(ConvConfig(dim, kernel, stride) for dim, (kernel, stride) in zip(dims, steps, strict=True))
        return cls(convs, norm, bias=norm == "layer")

    @property
    def features(self) -> FbankConfig | LogMelConfig | None:
        """What the convolutions (or, without any, the projection) read; ``None`` for the waveform."""
        return self.fbank if self.fbank is not None else self.log_mel

    @property
    def steps(self) -> tuple[Step, ...]:
        """Kernel, stride and padding of everything that moves along time."""
        first = self.features.steps if self.features is not None else ()
        last: tuple[Step, ...] = ((self.join, self.join, 0),) if self.join > 1 else ()
        if self.projection is not None:
            last = ((self.projection.kernel, self.projection.stride, self.projection.padding),)
        return (*first, *((conv.kernel, conv.stride, conv.padding) for conv in self.convs), *last)

    @property
    def over_time(self) -> bool:
        """Whether it norms over the whole utterance, so that a frame depends on samples beyond its own."""
        return (bool(self.convs) and self.norm in ("group", "whole")) or (self.features is not None and self.features.over_time)

    @property
    def in_pieces(self) -> bool:
        """Whether the convolutions can be computed piece by piece: on the waveform, without padding, and without a norm that needs all that
        comes out of one."""
        padded = any(conv.padding for conv in self.convs) or self.projection is not None
        return not (padded or (self.features is not None and self.convs) or self.norm == "whole")

    @property
    def inputs(self) -> int:
        """Channels that the first convolution reads."""
        return 1 if self.features is None else self.features.dim

    @property
    def width(self) -> int:
        """Of a frame before frames are joined and projected."""
        return self.convs[-1].dim if self.convs else self.inputs

    def biased(self, i: int) -> bool:
        """Whether the i-th convolution has a bias."""
        own = self.convs[i].bias
        return self.bias if own is None else own

    @property
    def apart(self) -> FrontendConfig:
        """The same without joining frames."""
        return dataclasses.replace(self, join=1)

    @property
    def kernel(self) -> int:
        """Samples that the first frame needs."""
        size = 1
        for kernel, stride, padding in reversed(self.steps):
            size = max(1, (size - 1) * stride + kernel - 2 * padding)
        return size

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(stride for _, stride, _ in self.steps)

    def frames(self, samples: Any) -> Any:
        """Frames that come out of `samples` (an int or an integer tensor)."""
        for step in self.steps:
            samples = after(samples, step)
        return samples


@dataclass(frozen=True, repr=False)
class PositionConfig(Shape):
    """Convolutional positions, added to the first layer's input.

    depth: how many convolutions in a row; norm: a layer norm without weights after each (data2vec-audio has 5 of them).
    kept: which of the channel groups are left, each with a learned scale; ``None`` for all groups without scales.
    """

    kernel: int
    groups: int
    depth: int = 1
    norm: bool = False
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True, repr=False)
class RelativeConfig(Shape):
    """WavLM's gated relative positions: one table of (buckets, heads), shared by all layers, gated per layer, head and query."""

    buckets: int
    max_distance: int
    heads: int


@dataclass(frozen=True, repr=False)
class DistanceConfig(Shape):
    """How attention knows the distance between two frames, in the models that learn it in every layer (Conformers).

    kind: "key", a learned vector per distance, multiplied with the query (Shaw et al., arXiv 1803.02155), where distances are
    clipped to `left` frames back and `right` frames ahead; "sinusoid", projected sinusoids of the distance (Transformer-XL,
    arXiv 1901.02860); "rotary", rotation by position (RoFormer, arXiv 2104.09864), with frequencies from 1 down to 1 / `base`, of what
    queries and keys are made of; "rotary_heads", the same of queries and keys themselves, the first `width` channels of every head in
    neighbouring pairs.
    """

    kind: str
    left: int = 0
    right: int = 0
    base: int = 10_000
    width: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        _known("distance.kind", self.kind, ("key", "sinusoid", "rotary", "rotary_heads"))
        if self.width % 2:
            raise ValueError(f"distance.width is {self.width}; channels are rotated in pairs")


@dataclass(frozen=True, repr=False)
class ConvolutionConfig(Shape):
    """The convolution of Conformer layers: over `kernel` frames, the last of which is the current one if `causal`, else the middle one.

    norm: "layer", over channels, or "batch", with the statistics that came with the model (see `modules.FixedNorm`).
    """

    kernel: int = 31
    causal: bool = False
    norm: str = "layer"

    def __post_init__(self) -> None:
        _known("convolution.norm", self.norm, ("layer", "batch"))
        if self.kernel % 2 == 0 and not self.causal:
            raise ValueError(f"convolution.kernel is {self.kernel}; around a middle frame it must be odd")


@dataclass(frozen=True, repr=False)
class LayerConfig(Shape):
    """One layer: `num_heads` heads of `head_dim`, `ffn_dim` feed-forward units.

    attention, ffn: ``False`` when the part is gone with everything it adds. heads: for models with a relative table, the table
    columns that this layer's heads use (empty otherwise).

    kind: "transformer" or "conformer" (arXiv 2005.08100). Only Conformer layers have another feed-forward part, before attention,
    of `ffn1_dim` units (ffn1: ``False`` when it is gone), and a convolution module of `glu_dim` channels, which adds nothing when
    it has none.

    reuse: attention takes the map (the weights of frames for frames) of the nearest layer below that computes one, which has as many
    heads; it has values and outputs only (ARMHuBERT, arXiv 2305.11685).

    query_dim, value_dim: channels of a head in which queries and keys are compared, and of its values; 0: `head_dim`, by which scores are
    scaled in any case.
    """

    num_heads: int
    head_dim: int
    ffn_dim: int
    attention: bool = True
    ffn: bool = True
    heads: tuple[int, ...] = ()
    kind: str = field(default="transformer", metadata=LATER)
    ffn1_dim: int = field(default=0, metadata=LATER)
    ffn1: bool = field(default=True, metadata=LATER)
    glu_dim: int = field(default=0, metadata=LATER)
    reuse: bool = field(default=False, metadata=LATER)
    query_dim: int = field(default=0, metadata=LATER)
    value_dim: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        _known("layer.kind", self.kind, ("transformer", "conformer"))

    @property
    def query_width(self) -> int:
        """Channels of a head's queries and keys."""
        return self.query_dim or self.head_dim

    @property
    def value_width(self) -> int:
        """Channels of a head's values."""
        return self.value_dim or self.head_dim


@dataclass(frozen=True, repr=False)
class DropoutConfig(Shape):
    """Dropout rates in training: after the front end's projection, on residual branches, on attention weights (in Conformer layers on
    what attention adds, too), inside the feed-forward, and on what a Conformer's convolution adds."""

    projection: float = 0.0
    hidden: float = 0.0
    attention: float = 0.0
    ffn: float = 0.0
    convolution: float = field(default=0.0, metadata=LATER)


@dataclass(frozen=True, repr=False)
class ContextConfig(Shape):
    """The context in time that an encoder was trained for, in frames: the least and the most. It runs under the most.

    chunk: frames that are computed together. left: frames before the chunk that attention sees.
    """

    chunk: tuple[int, int]
    left: tuple[int, int]

    def __post_init__(self) -> None:
        for name, (least, most), lowest in (("chunk", self.chunk, 1), ("left", self.left, 0)):
            if not lowest <= least <= most:
                raise ValueError(f"context.{name} is {least} to {most} frames; it must rise from at least {lowest}")

    @property
    def drawn(self) -> bool:
        """Whether training has to draw it."""
        return self.chunk[0] < self.chunk[1] or self.left[0] < self.left[1]

    @property
    def longest(self) -> Chunks:
        """What the encoder runs under, where nothing else is asked for."""
        return Chunks(self.chunk[1], self.left[1])

    def draw(self) -> Chunks:
        """A chunk and a past, each with equal chances for every number of frames. Draws from torch's global generator."""
        return Chunks(drawn(*self.chunk), drawn(*self.left))


@dataclass(frozen=True, repr=False)
class EncoderConfig(Shape):
    """The whole encoder. `dim`: width of the residual stream. `norm_first`: pre-norm layers and a final norm ("stable layer norm").

    position: added to the first layer's input, or ``None``. relative, distance: on attention; one of them at most. convolution: of
    the Conformer layers. norm: ``False`` where nothing is normed before the first layer or after the last. Conformer layers norm
    their own input and output whatever `norm_first` says. factored: linear layers that are two factors, each with its rank, such as
    ("layers.0.ffn.up_proj", 64); a layer that is gone is passed over.

    positions: rows of a table that is added to the frames one by one; longer recordings are refused. 0: none. sinusoids: the table's
    columns are from a table of sinusoids of this width, which goes on behind its end, so that recordings may be longer; 0: they are not.
    attention_bias: which of the projections of queries, keys, values and outputs have a bias, by their first letters. norm_bias: whether
    the layers' norms have. window: samples to which every recording is padded with zeros, and of which longer ones are cut into several;
    0: run as long as it is. context: in chunks, each with a limited past; ``None``: every frame sees the whole recording.
    """

    frontend: FrontendConfig
    dim: int
    position: PositionConfig | None
    layers: tuple[LayerConfig, ...]
    norm_first: bool = False
    norm_eps: float = 1e-5
    activation: str = "gelu"
    relative: RelativeConfig | None = None
    dropout: DropoutConfig = DropoutConfig()
    distance: DistanceConfig | None = field(default=None, metadata=LATER)
    convolution: ConvolutionConfig = field(default=ConvolutionConfig(), metadata=LATER)
    norm: bool = field(default=True, metadata=LATER)
    factored: tuple[tuple[str, int], ...] = field(default=(), metadata=LATER)
    positions: int = field(default=0, metadata=LATER)
    attention_bias: str = field(default="qkvo", metadata=LATER)
    norm_bias: bool = field(default=True, metadata=LATER)
    window: int = field(default=0, metadata=LATER)
    sinusoids: int = field(default=0, metadata=LATER)
    context: ContextConfig | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.window and self.context is not None:
            raise ValueError("an encoder that hears windows of a recording cannot run in chunks of context")
        if self.window % self.frontend.stride:
            raise ValueError(f"window is {self.window} samples, no whole number of frames of {self.frontend.stride}")
        for i, layer in enumerate(self.layers):
            source = self.layers[self.map_layer(i)]
            apart = layer.attention and (not source.attention or layer.num_heads != source.num_heads)
            if layer.reuse and (source.reuse or apart):
                raise ValueError(f"layer {i + 1} takes the attention map of a layer below, and none there has as many heads")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderConfig:
        """The reverse of `to_dict`, also after a round trip through JSON. TypeError on unknown fields, ValueError on unknown kinds."""
        data = dict(data)
        frontend = dict(data["frontend"])
        frontend["convs"] = tuple(ConvConfig(**conv) for conv in frontend["convs"])
        frontend["fbank"] = _optional(FbankConfig, frontend.get("fbank"))
        frontend["log_mel"] = _optional(LogMelConfig, frontend.get("log_mel"))
        frontend["projection"] = _optional(ProjectionConfig, frontend.get("projection"))
        data["frontend"] = FrontendConfig(**frontend)
        if data["position"] is not None:
            position = dict(data["position"])
            position["kept"] = None if position.get("kept") is None else tuple(position["kept"])
            data["position"] = PositionConfig(**position)
        data["layers"] = tuple(LayerConfig(**{**layer, "heads": tuple(layer.get("heads", ()))}) for layer in data["layers"])
        data["relative"] = _optional(RelativeConfig, data.get("relative"))
        data["dropout"] = DropoutConfig(**data.get("dropout", {}))
        data["distance"] = _optional(DistanceConfig, data.get("distance"))
        data["convolution"] = ConvolutionConfig(**data.get("convolution", {}))
        if (context := data.get("context")) is not None:
            data["context"] = ContextConfig(tuple(context["chunk"]), tuple(context["left"]))
        data["factored"] = tuple((str(name), int(rank)) for name, rank in data.get("factored", ()))
        return cls(**data)

    def map_layer(self, index: int) -> int:
        """The layer that computes the attention map of layer `index`: itself, or the nearest below that does not take its map."""
        while index and self.layers[index].reuse:
            index -= 1
        return index

    def map_takers(self, index: int) -> list[int]:
        """The layers that take the attention map of layer `index`."""
        layers = enumerate(self.layers)
        return [i for i, layer in layers if layer.reuse and layer.attention and self.map_layer(i) == index]

    @property
    def longest(self) -> int:
        """Samples at most in one pass; 0 without a limit."""
        return self.window or (0 if self.sinusoids else self.positions * self.frontend.stride)

    def with_layer(self, index: int, **fields: Any) -> EncoderConfig:
        """The same with these fields of one layer changed."""
        layers = list(self.layers)
        layers[index] = dataclasses.replace(layers[index], **fields)
        return dataclasses.replace(self, layers=tuple(layers))


def _optional(cls: Callable[..., T], data: Mapping[str, Any] | None) -> T | None:
    return None if data is None else cls(**data)
