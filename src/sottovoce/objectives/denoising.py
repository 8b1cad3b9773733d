"""RobustDistiller's enhancement head (Guimaraes et al., ICASSP 2023, arXiv 2403.08654)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Loss
from sottovoce.objectives.base import EncoderShape, Needs, Objective, layer_index

FFT, WINDOW, HOP = 512, 400, 160  # samples; 257 bins every 10 ms


@OBJECTIVES.register("denoising")
class Denoising(Objective):
    """L1 distance between the clean magnitude spectrum and the noisy one times a mask that a head predicts from the student's frames.

    The student must hear noise (`augment`); the target is the spectrum of the clean audio. The head is dropped after training.
    """

    window: Tensor

    @dataclass(frozen=True)
    class Config:
        """layer: the student's that the head reads (0, the front end, in the paper's code; there before the projection, here after it).

        hidden, depth, dropout: of the bidirectional LSTM. Give the objective weight 2, as in the paper's code.
        """

        layer: str = "0"
        hidden: int = 256
        depth: int = 3
        dropout: float = 0.1

    def __init__(self, config: Config, student: EncoderShape, teacher: EncoderShape) -> None:
        super().__init__(config, student, teacher)
        self.config: Denoising.Config = config
        self.layer = layer_index(config.layer, student.depth)
        self.repeat = max(1, (student.stride or 2 * HOP) // HOP)  # spectra per student frame
        self.lstm = nn.LSTM(
            student.dim, config.hidden, config.depth, batch_first=True, dropout=config.dropout, bidirectional=True
        )
        self.mask = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(2 * config.hidden, FFT // 2 + 1), nn.Sigmoid())
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def needs(self) -> Needs:
        return Needs(targets="none")

    def magnitudes(self, wave: Tensor, frames: int) -> Tensor:
        """(B, S) -> (B, frames, repeat, 257) magnitudes; spectra after the last frame are dropped, missing ones are zeros."""
        with torch.autocast(wave.device.type, enabled=False):
            spectra = torch.stft(wave.float(), FFT, HOP, WINDOW, self.window, return_complex=True).abs().transpose(1, 2)
        count = frames * self.repeat
        return F.pad(spectra[:, :count], (0, 0, 0, max(0, count - spectra.shape[1]))).unflatten(1, (frames, self.repeat))

    def read(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, 2 hidden): the LSTM, which does not see padding."""
        if lengths is None:
            output: Tensor = self.lstm(x)[0]
            return output
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def forward(self, student: Features, teacher: Answer | None, frames: Tensor, batch: Batch) -> Loss:
        x = student.hidden[self.layer]
        lengths = None if student.lengths is None else student.lengths * self.repeat
        mask = self.mask(self.read(x.repeat_interleave(self.repeat, 1), lengths)).float().unflatten(1, (-1, self.repeat))
        clean = self.magnitudes(batch.wave, x.shape[1])
        noisy = clean if batch.heard is None else self.magnitudes(batch.heard, x.shape[1])
        l1 = (mask * noisy - clean).abs().mean((-2, -1))
        total = (l1 * frames).sum()
        return Loss(total, {"l1": total.detach()})
