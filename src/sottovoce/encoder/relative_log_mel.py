"""Log-mel energies relative to the loudest moment of the utterance, inside the model: Whisper's input, as its feature extractor makes it
(Radford et al., arXiv 2212.04356).

B batch, S samples, P samples with those beyond the ends, T frames, M mel bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sottovoce.encoder.config import LogMelConfig

FLOOR = 1e-10  # of a mel energy before the logarithm
DEPTH = 8.0  # powers of ten below the loudest energy at which quiet ones are cut off
BINS = LogMelConfig.size // 2 + 1


class RelativeLogMel(nn.Module):
    """(B, S) samples between -1 and 1 -> (B, T, M) decimal logarithms of mel energies, at most 8 below the row's highest, (x + 4) / 4.

    Frame t stands on samples [160 t - 200, 160 t + 200). Beyond its ends a row is mirrored, each row at its own end, so that it does not
    matter how far it is padded. There is nothing to learn; window and filters are made anew in each pass, so that half precision and
    missing buffers cannot spoil them.
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, wave: Tensor, lengths: Tensor | None) -> Tensor:
        hop = self.config.hop
        with torch.autocast(wave.device.type, enabled=False):
            logs = self.energies(mirrored(wave.float(), lengths, self.config)).clamp(min=FLOOR).log10()
            own = logs
            if lengths is not None:
                inside = torch.arange(logs.shape[1], device=wave.device) < (lengths // hop)[:, None]
                own = logs.masked_fill(~inside[..., None], math.log10(FLOOR))
            top = own.amax((1, 2), keepdim=True)
            return (torch.maximum(logs, top - DEPTH) + 4.0) / 4.0

    def energies(self, wave: Tensor) -> Tensor:
        """(B, P) -> (B, T, M)."""
        x = wave.unfold(-1, self.config.size, self.config.hop) * torch.hann_window(self.config.size, device=wave.device)
        real, imaginary = torch.view_as_real(torch.fft.rfft(x)).unbind(-1)
        return (real.square() + imaginary.square()) @ slaney_filters(self.config.mels, wave.device)


def mirrored(wave: Tensor, lengths: Tensor | None, config: LogMelConfig) -> Tensor:
    """(B, S) -> (B, P): half a window more before the first sample and enough behind the last, mirrored at each row's own ends."""
    count = wave.shape[1] // config.hop
    at = torch.arange((count - 1) * config.hop + config.size, device=wave.device) - config.size // 2
    at = at.abs()
    ends = wave.shape[1] if lengths is None else lengths[:, None]
    at = torch.where(at < ends, at, 2 * (ends - 1) - at).clamp(min=0)
    return wave[:, at] if lengths is None else wave.gather(1, at)


def slaney_filters(mels: int, device: torch.device | None = None) -> Tensor:
    """(BINS, mels) triangles of equal area from 0 to 8,000 Hz, equally spaced on Slaney's mel scale: linear up to 1,000 Hz, logarithmic
    above (Auditory Toolbox, 1998)."""
    step, knee = 27.0 / math.log(6.4), 15.0
    mel = torch.linspace(0.0, knee + step * math.log(8.0), mels + 2, dtype=torch.float64)
    hertz = torch.where(mel < knee, mel * 200.0 / 3.0, 1000.0 * torch.exp((mel - knee) / step))
    bins = torch.linspace(0.0, 8000.0, BINS, dtype=torch.float64)[:, None]
    rising = (bins - hertz[:-2]) / (hertz[1:-1] - hertz[:-2])
    falling = (hertz[2:] - bins) / (hertz[2:] - hertz[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0) * (2.0 / (hertz[2:] - hertz[:-2]))
    return filters.float().to(device)
