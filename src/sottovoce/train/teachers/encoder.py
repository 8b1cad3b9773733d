"""A teacher that answers with the features of a speech encoder."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.core.types import SAMPLE_RATE, Answer, Batch, Features
from sottovoce.encoder import Encoder
from sottovoce.encoder.silence import followed
from sottovoce.encoder.window import cut
from sottovoce.evaluation.subjects.fingerprints import fingerprint
from sottovoce.evaluation.subjects.sources import frame_rate
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.inference.packed import fastest
from sottovoce.objectives import EncoderShape
from sottovoce.train.teachers.base import Teacher, TeacherSettings, prepared

if TYPE_CHECKING:
    from sottovoce.hosts.base import Host


@TEACHER_KINDS.register("encoder")
class EncoderTeacher(Teacher):
    """A speech encoder of any width and frame rate: anything that TEACHER can name."""

    pretrained: Pretrained

    @dataclass(frozen=True)
    class Config(Teacher.Config):
        """tail: seconds of silence that a teacher with a window (Whisper) hears after a recording, instead of the rest of its window. Much
        faster for short recordings; its answers differ somewhat (experiments/universal). Empty: the whole
        window. Teachers without a window hear recordings as they are."""

        tail: float | None = None

        def __post_init__(self) -> None:
            if self.tail is not None and not 0 <= self.tail < float("inf"):
                raise ValueError(f"tail must be 0 or more seconds, not {self.tail:g}")

    def __init__(self, config: Any, settings: TeacherSettings, pretrained: Pretrained | None = None) -> None:
        """pretrained: the model, if it is loaded already; otherwise ``config.source`` is loaded."""
        super().__init__(config, settings)
        self.pretrained = pretrained or load_pretrained(config.source)
        shape = self.pretrained.config
        # frames a second; measured for models that run inside transformers
        self.rate = SAMPLE_RATE / shape.frontend.stride if shape is not None else frame_rate(self.pretrained.encoder)
        self.pretrained.encoder.to(settings.device).eval().requires_grad_(False)

    @property
    def tail(self) -> int | None:
        """Samples of silence after a recording; ``None`` without a window, and for the rest of the window."""
        shape, seconds = self.pretrained.config, self.config.tail
        return round(seconds * SAMPLE_RATE) if shape is not None and shape.window and seconds is not None else None

    @property
    def shape(self) -> EncoderShape:
        return EncoderShape(self.pretrained.dim, self.pretrained.depth, round(SAMPLE_RATE / self.rate))

    @cached_property
    def listener(self) -> nn.Module:
        """The encoder in the form that answers. It is made at the first answer, so that a student that starts from the teacher starts from
        its unrounded weights."""
        return self.ready(self.pretrained.encoder)

    @cached_property
    def brief(self) -> nn.Module:
        """The encoder without its window, in the form that answers."""
        encoder = self.pretrained.encoder
        assert isinstance(encoder, Encoder)
        encoder = copy.copy(encoder)  # the same weights
        encoder.config = dataclasses.replace(encoder.config, window=0)
        return self.ready(encoder)

    def ready(self, encoder: nn.Module) -> nn.Module:
        """The encoder as it is to compute: rounded, packed or compiled."""
        if self.precision == "bf16":
            encoder = encoder.to(torch.bfloat16)
        if self.packed:
            return fastest(encoder)
        if self.settings.compile:
            encoder.compile(dynamic=True)  # for audio of any length
        return encoder

    @cached_property
    def host(self) -> Host | None:
        """The recogniser or classifier that the encoder lives in, opened when it is first asked for; ``None`` for a bare encoder."""
        from sottovoce.hosts.load import load_host  # imports transformers

        host = load_host(self.config.source)
        if host is None:
            return None
        encoder = self.pretrained.encoder
        assert isinstance(encoder, Encoder)
        host.encoder, host.pretrained = encoder, self.pretrained  # one copy of its weights
        return host.to(self.settings.device)

    @torch.no_grad()
    def listen(self, batch: Batch) -> Features:
        host = self.host
        assert host is not None
        assert isinstance(self.listener, Encoder)
        host.encoder = self.listener
        return host.listen(batch)

    @torch.no_grad()
    def answer(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Answer:
        return self.features(batch, mask, taps)

    @property
    def gives_maps(self) -> bool:
        return self.pretrained.config is not None and not self.pretrained.config.window

    @torch.no_grad()
    def with_maps(self, batch: Batch, taps: bool = False) -> Features:
        return self.features(batch, taps=taps, maps=True)

    def features(self, batch: Batch, mask: Tensor | None = None, taps: bool = False, maps: bool = False) -> Features:
        """Its features of a decoded batch."""
        batch = prepared(batch, self.normalize)
        extra: dict[str, Any] = {name: True for name, wanted in (("taps", taps), ("maps", maps)) if wanted}
        if mask is not None:
            vector = self.pretrained.mask_vector
            if vector is None:
                raise ValueError(
                    f"{self.config.source} was saved without its mask vector (masked_spec_embed), so it cannot be asked about "
                    "masked audio; set masked_teacher to false"
                )
            frames = int(
                self.pretrained.shape.frontend.frames(batch.wave.shape[1])
            )  # the student may have one frame more or fewer
            mask = nn.functional.pad(mask, (0, frames - mask.shape[1]))
            extra |= {"mask": mask, "mask_vector": vector.to(mask.device)}
        if self.tail is None:
            features = self.listener(batch.wave, batch.lengths, **extra)
            assert isinstance(features, Features)
            return features
        return self.followed_by_silence(batch, extra)

    def followed_by_silence(self, batch: Batch, extra: Mapping[str, Any]) -> Features:
        """Features of recordings that `tail` samples of silence follow; of the recordings alone."""
        assert self.tail is not None
        front, samples = self.pretrained.shape.frontend, batch.wave.shape[1]
        wave, lengths = followed(batch.wave, batch.lengths, self.tail)
        if (mask := extra.get("mask")) is not None:
            extra = {**extra, "mask": nn.functional.pad(mask, (0, int(front.frames(wave.shape[1])) - mask.shape[1]))}
        features = self.brief(wave, lengths, **extra)
        frames = None if batch.lengths is None else front.frames(batch.lengths).clamp(min=0)
        assert isinstance(features, Features)
        return cut(features, int(front.frames(samples)), frames, mask)

    def fingerprint(self) -> str:
        config = dataclasses.replace(self.config, source="")  # the folder does not count
        text = f"{self.name} {config} {fingerprint(self.pretrained.encoder, self.normalize)} {self.precision}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]
