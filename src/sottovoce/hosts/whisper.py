"""Whisper (Radford et al., arXiv 2212.04356)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.registry import HOSTS
from sottovoce.core.types import SAMPLE_RATE, Batch, Features
from sottovoce.encoder import Encoder
from sottovoce.encoder.config import EncoderConfig, LogMelConfig
from sottovoce.encoder.silence import TAIL, fill, followed, silence_answer
from sottovoce.hosts.base import SILENCE
from sottovoce.hosts.decoders import DecoderHost
from sottovoce.hosts.rest import States


@dataclass(frozen=True)
class WholeWindow(Features):
    """Features of a whole window: behind the end of a recording they are what the encoder says of the padding, which a decoder may read."""


@HOSTS.register("whisper")
class WhisperHost(DecoderHost):
    """Whisper with its decoder, which reads as many frames as 30 s have, whatever the recording's length.

    Frames after the end are those of the encoder's padded window where it gives them (`listen`); where it does not, because it heard the
    recording alone, they are its answer to silence at the same places. Then it hears `tail` seconds of silence behind the recording.
    """

    model_types = ("whisper",)
    silence: Tensor | None
    tail: float

    def complete(self, tensors: Mapping[str, Tensor]) -> None:
        super().complete(tensors)
        self.frames = int(self.hf["max_source_positions"])
        self.register_buffer("silence", tensors.get(SILENCE))
        self.tail = float(self.told.get("tail", 0.0 if SILENCE in tensors else TAIL))  # students of older versions heard none

    @classmethod
    def objection(cls, own: EncoderConfig, student: EncoderConfig) -> str:
        if student.frontend.log_mel == own.frontend.log_mel:
            return ""
        return (
            "a Whisper is given log-mel features, and the student's front end makes others from the waveform; take a student with "
            "Whisper's front end, such as a copy or layers of the teacher, or set host.keep to false"
        )

    def listen(self, batch: Batch) -> Features:
        encoder = self.encoder
        if not encoder.config.window:
            tail, most = round(self.tail * SAMPLE_RATE), self.frames * self.pretrained.shape.frontend.stride
            wave, lengths = followed(batch.wave, batch.lengths, tail, hop=LogMelConfig.hop, most=most)
            return super().listen(replace(batch, wave=wave, lengths=lengths))
        samples, window = batch.wave.shape[1], encoder.config.window
        if samples > window:
            raise ValueError(
                f"a recording of {samples} samples is longer than the {window} that Whisper's decoder hears at once; cut it"
            )
        wave = batch.wave
        if batch.lengths is not None:
            wave = wave * (torch.arange(samples, device=wave.device) < batch.lengths[:, None]).to(wave.dtype)
        out = encoder.run(F.pad(wave, (0, window - samples)), None, None, None, False)
        frames = encoder.config.frontend.frames
        ends = torch.full((len(wave),), samples, device=wave.device) if batch.lengths is None else batch.lengths
        return WholeWindow(out.hidden, frames(ends), out.embedded, out.last)

    def states(self, features: Features) -> States:
        states = super().states(features)
        if isinstance(features, WholeWindow):
            return States(states.last)
        return States(fill(states.last, states.lengths, self.answer()))

    def answer(self) -> Tensor:
        """(W, D') of a window: what the encoder that the decoder was trained with says of silence. Computed once; kept with students."""
        if self.silence is None:
            assert isinstance(self.pretrained.encoder, Encoder)
            self.silence = silence_answer(self.pretrained.encoder, self.frames * self.pretrained.shape.frontend.stride)
        return self.silence

    def asked(self, task: str, language: str, beams: int = 1) -> dict[str, Any]:
        """`Host.asked`. A model of one language transcribes, whatever the language; others find out the language where it is not known."""
        config = self.rest.generation_config
        if not getattr(config, "is_multilingual", False):
            return super().asked(task, language, beams)
        known = getattr(config, "lang_to_id", {})
        if language and f"<|{language}|>" not in known:
            raise ValueError(
                f"{self.pretrained.source} knows no language '{language}'; give another, or 'auto', with which it finds out the language"
            )
        return {**super().asked("transcribe", language, beams), "task": task, "language": language or None}

    def given(self, tokens: Tensor) -> Any:
        config = self.rest.generation_config
        ids = {config.decoder_start_token_id, getattr(config, "no_timestamps_token_id", None)}
        for known in ("lang_to_id", "task_to_id"):
            ids |= set((getattr(config, known, None) or {}).values())
        start = torch.tensor(sorted(ids - {None}), device=tokens.device)
        return torch.isin(tokens, start).long().cumprod(1).sum(1, keepdim=True)

    def spelled(self, text: str, **options: Any) -> list[int]:
        return super().spelled(f" {text.strip()}", **options)  # as Whisper writes

    def start(self, **options: Any) -> list[int]:
        if getattr(self.rest.generation_config, "is_multilingual", False) and not options.get("language"):
            raise ValueError("texts for a multilingual Whisper need their language; set host.language, such as en")
        task = {"task": options.get("task") or "transcribe"} if options.get("language") else {}
        self.tokenizer.set_prefix_tokens(language=options.get("language"), predict_timestamps=False, **task)
        return list(self.tokenizer.prefix_tokens)

    @torch.no_grad()
    def greedy(self, features: Features, batch: Batch, **options: Any) -> Tensor:
        """`Host.greedy`, without time stamps. options: of transformers' ``generate``, such as ``language`` and ``task``."""
        options = {"return_timestamps": False, "return_dict_in_generate": True, **options}
        tokens: Tensor = self.generated(features, **options).sequences
        return tokens
