"""Students that a decoder of transformers reads: Whisper and Moonshine.

A flat copy of this file travels with such a student. B batch, S samples, M mel bins, T frames, D' width that the decoder reads.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.encoder.config import LogMelConfig
from sottovoce.encoder.relative_log_mel import DEPTH
from sottovoce.encoder.silence import fill
from sottovoce.families.student_config import STUDENT, StudentConfig
from sottovoce.hosts.bridge import Bridges
from sottovoce.hosts.remote.configuration import SottovoceMoonshineConfig, SottovoceWhisperConfig
from sottovoce.hosts.rest import Heard, states_of
from sottovoce.hub.modeling import EncoderInside, SottovoceModel


class Ear(nn.Module):
    """What a decoder has for its encoder: the student of `owner`, which holds it itself, under the names of a bare student."""

    owner: Any

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.__dict__["owner"] = owner  # not registered: it is not a part of this module, but the other way round

    def _freeze_parameters(self) -> None:
        for part in (self.owner.encoder, self.owner.projections, self.owner.bridge):
            part.requires_grad_(False)


class MoonshineEar(Ear):
    """Moonshine's: waveforms."""

    main_input_name = "input_values"

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Heard:
        """(B, S) and its mask of samples, padding on the right -> (B, T, D') and its mask of frames."""
        features = self.owner.encoder(input_values, None if attention_mask is None else attention_mask.sum(-1))
        states = states_of(features, self.owner.bridge)
        return Heard(last_hidden_state=states.last, attention_mask=states.mask())


class WhisperEar(Ear):
    """Whisper's: log-mel features, padded to the window. The student hears them as long as the recording is."""

    main_input_name = "input_features"

    def __init__(self, owner: nn.Module) -> None:
        super().__init__(owner)
        self.conv1, self.conv2 = _Stride(1), _Stride(2)  # by which `generate` counts

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Heard:
        """(B, M, 10 ms windows), and its mask, (B, 10 ms windows), or none -> (B, frames of a window, D')."""
        mel, encoder = input_features.transpose(1, 2), self.owner.encoder
        lengths: Tensor | None = None
        if not encoder.config.window:
            count = spoken(mel) if attention_mask is None or attention_mask.shape != mel.shape[:2] else attention_mask.sum(-1)
            count = count.clamp(min=encoder.config.frontend.kernel // LogMelConfig.hop)
            most = len(self.owner.silence) // self.owner.bridge.join * encoder.config.frontend.stride // LogMelConfig.hop
            mel, count = followed(mel, count, round(self.owner.tail * SAMPLE_RATE / LogMelConfig.hop), most)
            lengths = count * LogMelConfig.hop
        features: Features = encoder.run(mel, lengths, None, None, False)
        states = states_of(features, self.owner.bridge)
        return Heard(last_hidden_state=fill(states.last, states.lengths, self.owner.silence))


class _Stride(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = (stride,)


def followed(mel: Tensor, count: Tensor, tail: int, most: int) -> tuple[Tensor, Tensor]:
    """(B, T, M) log-mel features and (B,) valid windows, with so many windows of silence behind each row, but `most` in all."""
    size = max(min(int(count.max()) + tail, most), int(count.max()))
    mel = F.pad(mel[:, :size], (0, 0, 0, max(0, size - mel.shape[1])))
    blank = (mel == 0).all(-1)[..., None]  # not of the extractor, which writes silence as the lowest value that can be
    top = mel.masked_fill(blank, -torch.inf).amax((1, 2), keepdim=True)
    return torch.where(blank, top - DEPTH / 4.0, mel), (count + tail).clamp(max=size)


def spoken(mel: Tensor) -> Tensor:
    """(B,) windows of (B, T, M) log-mel features before the padding: behind the end of a recording all are as low as can be, or, behind
    the last part of a long one, which `generate` pads itself, zero."""
    lowest = mel.amin((1, 2), keepdim=True)
    loud = ((mel > lowest + 1e-4) & (mel != 0)).any(-1)
    steps = torch.arange(1, mel.shape[1] + 1, device=mel.device)
    return (loud * steps).amax(1)


class DecoderInside(EncoderInside):
    """Mixed into a model with a decoder: the student in the place of the encoder."""

    model: Any
    bridge: Bridges
    main_input_name: str

    def put_student(self, values: dict[str, Any], ear: type[Ear]) -> None:
        student = StudentConfig.from_json(values)
        self.put_encoder(student)
        self.encoder.main_input_name = self.main_input_name  # type: ignore[assignment]  # `generate` asks a part of this name for it
        assert student.host is not None
        self.bridge = Bridges.from_json(student.host["bridges"])
        self.model.encoder = ear(self)  # type: ignore[arg-type]

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.encoder


class WhisperForConditionalGeneration(DecoderInside, transformers.WhisperForConditionalGeneration):
    """Whisper with a student in it."""

    config_class = SottovoceWhisperConfig

    def __init__(self, config: SottovoceWhisperConfig) -> None:
        super().__init__(config)
        self.put_student(getattr(config, STUDENT), WhisperEar)
        self.register_buffer("silence", torch.zeros(config.max_source_positions, config.d_model))
        self.tail = float(
            getattr(config, STUDENT)["host"].get("tail", 0.0)
        )  # seconds of silence that the student hears behind a recording
        self.post_init()

    @functools.wraps(transformers.WhisperForConditionalGeneration.forward)  # `generate` reads its arguments
    def forward(  # type: ignore[override]
        self, input_features: Any = None, attention_mask: Any = None, *args: Any, encoder_outputs: Any = None, **kwargs: Any
    ) -> Any:
        if encoder_outputs is None and len(args) < 3:  # transformers does not show the mask to the encoder
            input_features = self.model._mask_input_features(input_features, attention_mask=attention_mask)
            encoder_outputs = self.model.encoder(input_features, attention_mask)
        if encoder_outputs is not None:
            kwargs["encoder_outputs"] = encoder_outputs
        return super().forward(input_features, attention_mask, *args, **kwargs)


class MoonshineForConditionalGeneration(DecoderInside, transformers.MoonshineForConditionalGeneration):
    """Moonshine with a student in it."""

    config_class = SottovoceMoonshineConfig

    def __init__(self, config: SottovoceMoonshineConfig) -> None:
        super().__init__(config)
        self.put_student(getattr(config, STUDENT), MoonshineEar)
        self.post_init()


class WhisperStudent(SottovoceModel):
    """The student alone, of a Whisper: waveforms to hidden states, as `SottovoceModel`."""

    config_class = SottovoceWhisperConfig  # type: ignore[assignment]


class MoonshineStudent(SottovoceModel):
    """The student alone, of a Moonshine: waveforms to hidden states, as `SottovoceModel`."""

    config_class = SottovoceMoonshineConfig  # type: ignore[assignment]
