"""The encoder: front end, positions, layers. It knows nothing of training, teachers or pruning."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.encoder.attention import AttentionMap
from sottovoce.encoder.block import TransformerLayer
from sottovoce.encoder.config import EncoderConfig
from sottovoce.encoder.conformer import ConformerLayer
from sottovoce.encoder.context import Chunks, sight
from sottovoce.encoder.distance import KeyDistance, shared_table
from sottovoce.encoder.frontend import WaveFrontend
from sottovoce.encoder.modules import LayerNorm
from sottovoce.encoder.position import ConvPosition, RelativeTable, continued, sinusoid_table
from sottovoce.encoder.product import FactoredLinear
from sottovoce.encoder.window import by_windows, cut

LAYERS: dict[str, type[nn.Module]] = {"transformer": TransformerLayer, "conformer": ConformerLayer}
Between = Callable[[int, Tensor], tuple[Tensor, Tensor]]


class Encoder(nn.Module):
    """An encoder of the shape that `config` describes.

    >>> features = encoder(wave, lengths)       # (B, S) normalised 16 kHz samples, (B,) valid samples or None
    >>> features.hidden[i]                      # (B, T, D)

    Padding never changes a valid frame (unless ``frontend.norm_over_padding`` asks for it). ValueError on inputs of the wrong shape
    or too short for one frame, or too long for a table of positions.
    """

    positions: Tensor | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        rates = config.dropout
        self.frontend = WaveFrontend(config.frontend, config.dim, config.norm_eps, rates.projection)
        self.position = (
            ConvPosition(config.position, config.dim, config.frontend.activation) if config.position is not None else None
        )
        # a buffer: it is not learned
        self.register_buffer("positions", sinusoid_table(config.positions, config.dim) if config.positions else None)
        self.norm = LayerNorm(config.dim, config.norm_eps, config.norm_bias) if config.norm else nn.Identity()
        self.dropout = nn.Dropout(rates.hidden)
        self.relative = RelativeTable(config.relative) if config.relative is not None else None
        self.layers = nn.ModuleList(LAYERS[layer.kind](config, layer) for layer in config.layers)
        takers = [i for i, layer in enumerate(config.layers) if layer.reuse]
        self.sharing = {*takers, *map(config.map_layer, takers)}  # layers that give or take an attention map
        linear = {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        for name, rank in config.factored:
            if name in linear:
                self.set_submodule(name, FactoredLinear(linear[name], rank))

    def forward(
        self,
        wave: Tensor,
        lengths: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        mask_vector: Tensor | None = None,
        taps: bool = False,
        maps: bool = False,
        chunks: Chunks | None = None,
        between: Between | None = None,
    ) -> Features:
        """`mask` (B, T) bool and `mask_vector` (D,): frames to replace before positions, for masked training. `taps`, `maps`: give
        `ffn` and `maps`, too; there are no maps of an encoder with a window.
        `chunks`: run under this context, not that of `config.context`; the front end still hears the whole recording.
        `between`: called with i and the output of layer i (0: of the front end), both (B, T, D) of a window where there are windows;
        gives ``hidden[i]`` and what goes on to the next layer."""
        window, front = self.config.window, self.config.frontend
        if not window:
            return self.run(wave, lengths, mask, mask_vector, taps, maps, chunks, between)
        if maps:
            raise ValueError("an encoder that hears windows of a recording has no attention maps of the whole")
        if wave.dim() != 2 or wave.shape[1] < front.kernel:
            self.frontend(wave, lengths)  # refuses it
        padded = by_windows(
            lambda piece, masked: self.run(piece, None, masked, mask_vector, taps, between=between),
            wave,
            lengths,
            mask,
            window,
            front.stride,
        )
        frames = None if lengths is None else front.frames(lengths).clamp(min=0)
        return cut(padded, front.frames(wave.shape[1]), frames, mask)

    def run(
        self,
        wave: Tensor,
        lengths: Tensor | None,
        mask: Tensor | None,
        mask_vector: Tensor | None,
        taps: bool,
        maps: bool = False,
        chunks: Chunks | None = None,
        between: Between | None = None,
    ) -> Features:
        """`forward` without windows."""
        x, frames = self.frontend(wave, lengths)
        given, x = (x, x) if between is None else between(0, x)
        hidden = [given]
        if mask is not None and mask_vector is not None:
            x = torch.where(mask[..., None], mask_vector.to(x.dtype), x)
        inside = None
        if frames is not None:
            inside = torch.arange(x.shape[1], device=x.device) < frames[:, None]
            x = x * inside[..., None].to(x.dtype)  # the positional convolution must not see padding
        if chunks is None and self.config.context is not None:
            chunks = self.config.context.longest
        sees = sight(inside, chunks, x.shape[1], x.device)
        if self.position is not None:
            blind = None if self.config.frontend.norm_over_padding else inside
            x = self.position(x, blind, 0 if sees is None else sees.chunk)
        if self.positions is not None:
            x = x + self.rows(self.positions, x.shape[1]).to(x.dtype)
        x = self.dropout(x if self.config.norm_first else self.norm(x))
        embedded = x
        table = None
        if self.relative is not None:
            table = self.relative(x.shape[1])
        elif self.config.distance is not None:
            table = shared_table(self.config.distance, x.shape[1], self.config.dim, x)
        below = AttentionMap() if self.sharing or maps else None
        outputs, seen = [], []
        for i, layer in enumerate(self.layers):
            x, tap = layer(x, sees, table, below if maps or i in self.sharing else None)
            if maps:
                assert below is not None
                assert isinstance(layer, (TransformerLayer, ConformerLayer))
                seen.append(below.mean(layer.attention, x))
            given, x = (x, x) if between is None else between(i + 1, x)
            hidden.append(given)
            outputs.append(tap)
        last = self.norm(x) if self.config.norm_first else x
        return Features(hidden, frames, embedded, last, outputs if taps else [], mask, seen)

    def rows(self, table: Tensor, frames: int) -> Tensor:
        """(frames, D), the positions of so many frames, of the table of positions and behind its end."""
        if frames <= len(table):
            return table[:frames]
        if self.config.sinusoids:
            return continued(table, self.config.sinusoids, frames)
        seconds = len(table) * self.config.frontend.stride / SAMPLE_RATE
        raise ValueError(
            f"the recording has {frames} frames, and this encoder knows {len(table)} positions ({seconds:g} s); cut it into pieces"
        )

    @torch.no_grad()
    def reset_parameters(self) -> Encoder:
        """Random start as in wav2vec 2.0: He-normal convolutions, N(0, 0.02) projections, positions scaled by their fan-in."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, KeyDistance):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv1d):
                if name.startswith("position"):
                    nn.init.normal_(module.weight, std=2 * math.sqrt(1 / (module.kernel_size[0] * self.config.dim)))
                else:
                    nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, RelativeTable):
                nn.init.normal_(module.weight, std=0.02)
        bound = 1 / math.sqrt(self.frontend.projection.weight[0].numel())
        nn.init.uniform_(self.frontend.projection.weight, -bound, bound)
        return self


def shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the encoder, without making them."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Encoder(config).state_dict().items()}
