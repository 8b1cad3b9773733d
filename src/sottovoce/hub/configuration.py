"""A student's config.json, as transformers sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from sottovoce.encoder.config import EncoderConfig


class SottovoceConfig(PreTrainedConfig):
    """encoder: an `EncoderConfig` as a dict. normalize: whether waveforms get zero mean and unit variance per row first.

    projections: name -> student layers that share this trained projection into the teacher's space, of `teacher_dim` channels;
    empty when none was saved. teacher_frames: how many of its frames each of the student's stands for. teacher: what the student
    was made from. `hidden_size` and `num_hidden_layers` follow from `encoder`.
    """

    model_type = "sottovoce"

    def __init__(
        self,
        encoder: Mapping[str, Any] | None = None,
        normalize: bool = False,
        projections: Mapping[str, Sequence[int]] | None = None,
        teacher_dim: int | None = None,
        teacher: str | None = None,
        teacher_frames: int = 1,
        **kwargs: Any,
    ) -> None:
        self.encoder = dict(encoder or {})  # transformers builds a config without arguments to compare with
        self.normalize = normalize
        self.projections = {name: list(layers) for name, layers in (projections or {}).items()}
        self.teacher_dim = teacher_dim
        self.teacher = teacher
        self.teacher_frames = teacher_frames
        super().__init__(**{name: value for name, value in kwargs.items() if name not in ("hidden_size", "num_hidden_layers")})
        self.hidden_size = self.encoder.get("dim", 0)
        self.num_hidden_layers = len(self.encoder.get("layers", ()))

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one frame to the next."""
        return EncoderConfig.from_dict(self.encoder).frontend.stride
