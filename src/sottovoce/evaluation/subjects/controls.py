"""Controls without weights: the features that a speech encoder has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.encoder.config import FbankConfig
from sottovoce.encoder.kaldi_fbank import Fbank, standardised
from sottovoce.encoder.log_mel import LogMel, slope, windows
from sottovoce.evaluation.subjects.subject import Subject


class Spectrum(nn.Module):
    """(B, S) samples -> 80 log-mel energies and their first and second differences, 240 numbers in a frame.

    hop: samples between frames. reach: frames on each side for a difference (the slope of a fitted line).
    """

    size, hop, reach = 400, 320, 1

    def energies(self, wave: Tensor) -> Tensor:
        """(B, S) -> (B, T, 80)."""
        raise TypeError(f"{type(self).__name__} must define energies")

    def finished(self, x: Tensor, frames: Tensor | None) -> Tensor:
        """Last step of a control, on (B, T, 240) with (B,) valid frames. By default nothing."""
        return x

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        if wave.shape[1] < self.size:
            wave = nn.functional.pad(wave, (0, self.size - wave.shape[1]))
        x = self.energies(wave)
        frames = at = None
        if lengths is not None:
            frames = windows(lengths, self.size, self.hop).clamp(min=1)
            at = torch.minimum(torch.arange(x.shape[1], device=x.device), frames[:, None] - 1)  # differences must not see padding
        parts = [_repeat_last(x, at)]
        for _ in range(2):
            parts.append(_repeat_last(slope(parts[-1], self.reach), at))
        x = self.finished(torch.cat(parts, dim=-1), frames)
        return Features([x, x], frames, x, x)


class LogMelFeatures(Spectrum):
    """Log-mel features every 20 ms, without normalisation: they still contain the level and the room."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = LogMel(80, self.size, self.hop)

    def energies(self, wave: Tensor) -> Tensor:
        energies: Tensor = self.mel(wave)
        return energies


class SuperbFbank(Spectrum):
    """The baseline FBANK of SUPERB (Yang et al. 2021, arXiv 2105.01051; s3prl's ``fbank``): Kaldi's filter bank every 10 ms, differences
    over five frames, each of the 240 features to zero mean and unit variance over the utterance."""

    hop, reach = 160, 2

    def __init__(self) -> None:
        super().__init__()
        self.bank = Fbank(FbankConfig(mels=80, stack=1, normalize=False))

    def energies(self, wave: Tensor) -> Tensor:
        # The benchmark has samples between -1 and 1, Kaldi 16-bit integers. The floor of the energies is the same, so relatively higher.
        return self.bank.logarithms(wave.float() / 2.0**15)

    def finished(self, x: Tensor, frames: Tensor | None) -> Tensor:
        return standardised(x, frames)


def _repeat_last(x: Tensor, at: Tensor | None) -> Tensor:
    """(B, T, D) with frame ``at[b, t]`` at position t: repeats the last valid frame in the padding."""
    return x if at is None else x.gather(1, at[..., None].expand_as(x))


CONTROLS: dict[str, tuple[type[Spectrum], str]] = {  # by name: its class and fingerprint
    "log-mel": (LogMelFeatures, "log-mel-80-delta2-20ms"),
    "fbank": (SuperbFbank, "superb-fbank-80-delta2-10ms-cmvn"),
}


def open_control(source: str, name: str | None = None) -> Subject:
    """The control with this name in `CONTROLS`."""
    spectrum, fingerprint = CONTROLS[source]
    rate = SAMPLE_RATE / spectrum.hop
    return Subject(name or source, "control", spectrum().eval(), False, 1, 240, rate, fingerprint, source, 0)
