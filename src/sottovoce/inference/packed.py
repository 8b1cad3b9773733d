"""The encoder prepared for fast inference on a CPU. Its outputs equal those of `Encoder` to 1e-4.

Three things differ from `Encoder`:
- Matrix products use oneDNN, with packed weights and fused activations, where it is faster than PyTorch's own product
  (`sottovoce.encoder.kernels`).
- The waveform convolutions are such products, over pieces of audio whose intermediate results fit in the cache; other convolutions of front
  ends are such products over the whole recording. The group norm over time
  would need the whole output of the first convolution. It is folded into that convolution's weights instead: mean and variance of the
  output follow from the first two moments of the input.
- The positional convolution is computed by Fourier transforms.

B batch, S samples, C channels, K kernel, T frames.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.types import Features
from sottovoce.encoder import kernels
from sottovoce.encoder.block import FeedForward
from sottovoce.encoder.config import FrontendConfig, Step, after
from sottovoce.encoder.encoder import Encoder
from sottovoce.encoder.frontend import ConvBlock, WaveFrontend, inside, without_padding
from sottovoce.encoder.modules import ChannelNorm, LayerNorm, WholeNorm
from sottovoce.encoder.position import ConvPosition
from sottovoce.encoder.product import FEW, TIMED, FactoredLinear, has_onednn, onednn_is_faster, product

PIECE = 50  # frames per piece in the waveform convolutions: a second of audio
STEP = 5  # the last piece is rounded up to a multiple of this, because oneDNN has to set up every new size
MANY = 1 << 16  # rows per step when moments are computed
FUSED = {F.gelu: "gelu", F.relu: "relu"}  # activations that oneDNN computes with the product -> their names in torch.ops.mkldnn
UNFUSED: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


def can_pack() -> bool:
    """Whether this build of PyTorch has the oneDNN operations that `pack` needs."""
    return has_onednn() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def fastest(encoder: nn.Module) -> nn.Module:
    """`encoder` packed, or `encoder` itself if it cannot be packed."""
    try:
        return pack(encoder) if isinstance(encoder, Encoder) else encoder
    except ValueError:
        return encoder


def pack(encoder: Encoder) -> PackedEncoder:
    """Prepares `encoder` for inference: float32, on the CPU, without gradients.

    Packed weights are copies, so later changes of the encoder's weights have no effect on them; other weights are shared. ValueError if
    the encoder is not float32 on the CPU, or if this build of PyTorch has no oneDNN.
    """
    first = next(encoder.parameters())
    if not can_pack():
        raise ValueError("this build of PyTorch has no oneDNN; load the encoder without fast")
    if first.device.type != "cpu" or first.dtype != torch.float32:
        kind = str(first.dtype).removeprefix("torch.")
        raise ValueError(f"only float32 encoders on the CPU can be packed; this one is {kind} on {first.device}")
    return PackedEncoder(encoder)


class PackedEncoder(Encoder):
    """See `pack`. Called like `Encoder`."""

    def __init__(self, encoder: Encoder) -> None:
        nn.Module.__init__(self)
        shared = {id(x): x for x in (*encoder.parameters(), *encoder.buffers())}
        self.__dict__.update(copy.deepcopy(encoder, shared).__dict__)
        self.eval()
        _pack_linears(self)
        if self.config.frontend.in_pieces:
            self.frontend = PackedFrontend(self.frontend)
        elif self.frontend.convs or self.config.frontend.projection is not None:
            self.frontend = PackedWhole(self.frontend)
        if self.position is not None:
            self.position = PackedPosition(self.position)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Features:
        with torch.autocast("cpu", enabled=False):
            return super().forward(*args, **kwargs)

    def train(self, mode: bool = True) -> PackedEncoder:
        """ValueError for ``train(True)``."""
        if mode:
            raise ValueError("a packed encoder cannot be trained; train the original encoder and pack it again")
        super().train(False)
        return self


def _pack_linears(module: nn.Module) -> None:
    """Packs every linear layer below `module`; fuses the activation of feed-forward parts into theirs."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child.weight, child.bias))
        else:
            _pack_linears(child)
    up = getattr(module, "up_proj", None)
    up = up.outer if isinstance(up, FactoredLinear) else up
    if isinstance(module, FeedForward) and isinstance(up, PackedLinear):
        if module.act in FUSED:
            up.act, module.act = FUSED[module.act], nn.Identity()


class PackedLinear(nn.Module):
    """A linear layer and `act`: (..., N) -> (..., M). weight: (M, N), in oneDNN's layout if oneDNN is faster; not a parameter."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: str = "none") -> None:
        super().__init__()
        weight = weight.detach()
        self.by_onednn = weight.numel() == 0 or onednn_is_faster("packed linear", FEW, weight.shape[1], weight.shape[0])
        self.weight = laid_out(weight) if self.by_onednn else weight.clone()
        self.bias, self.act = None if bias is None else bias.detach(), act

    def forward(self, x: Tensor) -> Tensor:
        if self.by_onednn:
            return product(x, self.weight, self.bias, self.act)
        y = F.linear(x, self.weight, self.bias)
        return y if self.act == "none" else UNFUSED[self.act](y)


def laid_out(weight: Tensor) -> Tensor:
    """(M, N) in oneDNN's own layout; an empty weight is unchanged."""
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if weight.numel() else weight
    return reordered


def _timed(*sizes: int) -> kernels.Candidates:
    """Products to time, with weights in oneDNN's layout. sizes: rows, N, M."""
    rows, inputs, outputs, *_ = sizes
    x, weight = torch.full((rows + kernels.ROUNDS, inputs), 0.5), torch.full((outputs, inputs), 0.5)
    packed = laid_out(weight)
    return {"onednn": lambda more: product(x[: rows + more], packed), "torch": lambda more: F.linear(x[: rows + more], weight)}


TIMED["packed linear"] = _timed


class PackedConv(nn.Module):
    """A `ConvBlock` for one recording with channels last: (T_in, C_in) -> (T, C)."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        conv = block.conv
        self.kernel, self.stride, self.width = conv.kernel_size[0], conv.stride[0], conv.in_channels
        plain = conv.weight.detach().transpose(1, 2).flatten(1)  # (C, K C_in)
        self.bias, self.norm = None if conv.bias is None else conv.bias.detach(), block.norm
        self.activation, self.fused = block.act, FUSED.get(block.act, "none") if not isinstance(block.norm, LayerNorm) else "none"
        # with a group norm, every recording gets its own weights, computed from these
        self.weight = plain if isinstance(self.norm, ChannelNorm) else laid_out(plain)

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """weight, bias: replace the module's own."""
        y = product(self.rows(x), self.weight if weight is None else weight, self.bias if bias is None else bias, self.fused)
        if isinstance(self.norm, LayerNorm):
            y = self.norm(y)
        return y if self.fused != "none" else self.activation(y)

    def rows(self, x: Tensor) -> Tensor:
        """The input window of each output frame: (T_in, C_in) -> (T, K C_in), a view."""
        frames = (x.shape[0] - self.kernel) // self.stride + 1
        return x.as_strided((frames, self.kernel * self.width), (self.stride * self.width, 1))

    def normed(self, x: Tensor, norm: ChannelNorm) -> tuple[Tensor, Tensor]:
        """Weight and bias with which this convolution computes itself and its norm over all frames of `x` (T_in, C_in).

        Let p be the input window of a frame. The output of a channel with weights w has mean w E[p] and variance w Cov[p] w. The
        convolution's bias only moves the mean, which the norm removes.
        """
        rows, weight = self.rows(x), self.weight.double()
        mean, squares = weight.new_zeros(weight.shape[1]), weight.new_zeros(weight.shape[1], weight.shape[1])
        for chunk in rows.split(MANY):
            chunk = chunk.double()
            mean += chunk.sum(0) / len(rows)
            squares += chunk.t() @ chunk / len(rows)
        covariance = squares - torch.outer(mean, mean)
        variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)
        scale = norm.weight.double() * torch.rsqrt(variance + norm.eps)
        return (scale[:, None] * weight).float(), (norm.bias.double() - scale * (weight @ mean)).float()


class PackedFrontend(WaveFrontend):
    """`WaveFrontend` with packed weights. Padding frames are not computed; they are zero before the projection."""

    def __init__(self, frontend: WaveFrontend) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(frontend.__dict__)
        self.shape: FrontendConfig = frontend.config.apart  # without joining
        self.packed = nn.ModuleList(PackedConv(block) for block in self.convs if isinstance(block, ConvBlock))

    def convolved(self, x: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor | None]:
        shape, lengths, wave = self.shape, count, x[..., 0].float()
        full = lengths is None or shape.norm_over_padding
        sizes = [wave.shape[1]] * len(wave) if full or lengths is None else lengths.tolist()
        frames = wave.new_zeros(len(wave), shape.frames(wave.shape[1]), shape.convs[-1].dim)
        for row, size, out in zip(wave, sizes, frames, strict=True):
            if shape.frames(size) > 0:
                self.fill(out[: shape.frames(size)], row[:size, None])
        return frames, None if lengths is None else shape.frames(lengths)

    def fill(self, out: Tensor, wave: Tensor) -> None:
        """Writes the frames of one recording (S, 1) into `out` (T, C), piece by piece."""
        first, *rest = (conv for conv in self.packed if isinstance(conv, PackedConv))
        weights: tuple[Tensor, ...] = ()
        if isinstance(first.norm, ChannelNorm):
            wave = (
                wave - wave.double().mean().float()
            )  # the norm removes the mean anyway; the moments are more precise without it
            weights = first.normed(wave, first.norm)
        frames = -(-len(out) // STEP) * STEP
        stride, kernel = self.shape.stride, self.shape.kernel
        samples = (frames - 1) * stride + kernel
        wave = F.pad(wave, (0, 0, 0, max(0, samples - len(wave))))
        for begin in range(0, frames, PIECE):
            end = min(begin + PIECE, frames)
            x = wave[begin * stride : (end - 1) * stride + kernel]
            x = first(x, *weights)
            for conv in rest:
                x = conv(x)
            out[begin:end] = x[: len(out) - begin]


class PackedStep(nn.Module):
    """A convolution, its norm and its activation with channels last: (B, T_in, C_in) -> (B, T, C). As `ConvBlock` for the rest."""

    def __init__(self, conv: nn.Conv1d, padding: int, norm: nn.Module | None, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = conv.kernel_size[0], conv.stride[0], padding
        self.weight = laid_out(conv.weight.detach().transpose(1, 2).flatten(1).contiguous())
        self.bias = None if conv.bias is None else conv.bias.detach()
        normed_first = norm is not None and not isinstance(norm, WholeNorm)
        self.norm, self.activation, self.fused = norm, act, "none" if normed_first else FUSED.get(act, "none")

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """`valid` (B, 1, T): 1 on the steps that a norm over time is to know."""
        x = F.pad(x, (0, 0, self.padding, self.padding)).contiguous()
        rows, steps, width = x.shape
        frames = (steps - self.kernel) // self.stride + 1
        windows = x.as_strided((rows, frames, self.kernel * width), (steps * width, self.stride * width, 1))
        y = product(windows, self.weight, self.bias, self.fused)
        if isinstance(self.norm, LayerNorm):
            y = self.norm(y)
        elif isinstance(self.norm, ChannelNorm):
            y = self.norm(y.transpose(1, 2), valid).transpose(1, 2)
        y = y if self.fused != "none" else self.activation(y)
        return self.norm(y.transpose(1, 2), valid).transpose(1, 2) if isinstance(self.norm, WholeNorm) else y


class PackedWhole(WaveFrontend):
    """`WaveFrontend` with packed weights, of whole recordings: convolutions over features, padded ones, and a norm over all of time."""

    def __init__(self, frontend: WaveFrontend) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(frontend.__dict__)
        self.packed = nn.ModuleList(
            PackedStep(block.conv, block.padding, block.norm, block.act) for block in self.convs if isinstance(block, ConvBlock)
        )
        shape = self.config.projection
        if shape is not None and isinstance(self.projection, nn.Conv1d):
            self.joining = PackedStep(self.projection, shape.padding, None, self.act)

    def convolved(self, x: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor | None]:
        over_time = self.config.norm in ("group", "whole") and not self.config.norm_over_padding
        for i, (step, conv) in enumerate(zip(self.packed, self.config.convs, strict=True)):
            size: Step = (conv.kernel, conv.stride, conv.padding)
            x, valid = spoken(x, conv.padding, count), None
            count = None if count is None else after(count, size)
            if count is not None and over_time and i == 0:
                valid = inside(after(x.shape[1], size), count).float()
            x = step(x, valid)
        return x, count

    def projected(self, x: Tensor, count: Tensor | None = None) -> Tensor:
        if self.config.projection is None:
            return super().projected(x, count)
        y: Tensor = self.joining(spoken(self.norm(x), self.config.projection.padding, count))
        return y


def spoken(x: Tensor, padding: int, count: Tensor | None) -> Tensor:
    """`without_padding` with channels last."""
    return without_padding(x.transpose(1, 2), padding, count).transpose(1, 2)


class PackedPosition(ConvPosition):
    """`ConvPosition` by overlap-save Fourier transforms, with about a thirtieth of the multiplications for a kernel of 128."""

    def __init__(self, position: ConvPosition) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(position.__dict__)
        kernel = self.config.kernel
        self.size = max(32, 1 << (2 * kernel - 1).bit_length())  # of a transform
        self.spectra = {conv: self.spectrum(conv.weight.detach()) for conv in self.convs if isinstance(conv, nn.Conv1d)}

    def spectrum(self, weight: Tensor) -> Tensor:
        """(C, C / groups, K) -> (frequencies, groups, inputs, outputs), conjugate, because a convolution layer does not flip its kernel."""
        grouped = weight.unflatten(0, (-1, self.width))  # groups, outputs, inputs, K
        return torch.fft.rfft(grouped, n=self.size).conj().permute(3, 0, 2, 1).contiguous()

    def convolved(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        rows, channels, frames = x.shape
        kernel, step = self.config.kernel, self.size - self.config.kernel + 1  # step: output frames per transform
        pieces = -(-frames // step)
        x = F.pad(x, (kernel // 2, pieces * step + kernel - 1 - frames - kernel // 2)).unfold(2, self.size, step)
        inputs = torch.fft.rfft(x).unflatten(1, (-1, self.width))  # rows, groups, inputs, pieces, frequencies
        inputs = inputs.permute(4, 1, 0, 3, 2).flatten(2, 3)
        outputs = (inputs @ self.spectra[conv]).unflatten(2, (rows, pieces)).permute(2, 1, 4, 3, 0)
        y = torch.fft.irfft(outputs, n=self.size)[..., :step].reshape(rows, channels, pieces * step)[..., :frames]
        return y if conv.bias is None else y + conv.bias[:, None]
