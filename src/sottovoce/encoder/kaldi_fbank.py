"""Kaldi's filter bank inside the model, so that all encoders read waveforms: w2v-BERT 2.0's input, as its feature extractor makes it.

B batch, S samples, F windows, T frames (several windows side by side), M mel bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sottovoce.encoder.config import FbankConfig
from sottovoce.encoder.log_mel import mel_filters, windows

FLOOR = 1.192092955078125e-07  # of a mel energy before the logarithm: float32's epsilon, as in Kaldi
FFT = 512
BINS = FFT // 2 + 1


class Fbank(nn.Module):
    """(B, S) samples between -1 and 1 -> (B, T, stack * M) log-mel energies, zero mean and unit variance per bin and utterance.

    Frame t stands on samples [320 t, 320 t + 560) in the usual shape. Windows that are left over at the end of a row count for its mean
    and variance but make no frame: transformers' extractor fills such a frame up with zeros and masks it. There is nothing to
    learn, and filters and window are made anew in each pass, so that half precision and missing buffers cannot spoil them.
    """

    def __init__(self, config: FbankConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        size, hop, stack = self.config.size, self.config.hop, self.config.stack
        with torch.autocast(wave.device.type, enabled=False):
            x = self.logarithms(wave.float())
            if self.config.normalize:
                count = None if lengths is None else windows(lengths, size, hop)
                x = standardised(x, count)
        frames = x.shape[1] // stack
        whole = torch.arange(frames * stack, device=x.device)  # not a slice: torch.export wants to know whether that is all of x
        return x[:, whole].reshape(x.shape[0], frames, self.config.dim)

    def logarithms(self, wave: Tensor) -> Tensor:
        """(B, S) -> (B, F, M), of `energies`."""
        return self.energies(wave).clamp(min=FLOOR).log()

    def energies(self, wave: Tensor) -> Tensor:
        """(B, S) -> (B, F, M). 16-bit scale, no offset, pre-emphasis 0.97, "povey" window."""
        x = wave.unfold(-1, self.config.size, self.config.hop) * 2.0**15
        x = x - x.mean(-1, keepdim=True)
        x = x - 0.97 * x[..., torch.arange(-1, self.config.size - 1, device=x.device).clamp(min=0)]
        x = x * torch.hann_window(self.config.size, periodic=False, device=x.device).pow(0.85)
        real, imaginary = torch.view_as_real(torch.fft.rfft(x, FFT)).unbind(-1)  # a sum over two numbers is slow
        return (real.square() + imaginary.square()) @ mel_filters(BINS, self.config.mels, 16_000.0, device=x.device)


def standardised(x: Tensor, count: Tensor | None) -> Tensor:
    """(B, F, M) with zero mean and unit variance over the first `count` (B,) windows of each row, or over all of them."""
    if count is None:
        count = torch.full((x.shape[0],), x.shape[1], device=x.device)
    valid = (torch.arange(x.shape[1], device=x.device) < count[:, None])[..., None].to(x.dtype)
    mean = (x * valid).sum(1, keepdim=True) / count.clamp(min=1)[:, None, None]
    x = x - mean
    variance = (x.square() * valid).sum(1, keepdim=True) / (count - 1).clamp(min=1)[:, None, None]
    return x * torch.rsqrt(variance + 1e-7)
