"""A student's config.json, as transformers sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from sottovoce.encoder.config import EncoderConfig
from sottovoce.families.student_config import MODEL_TYPE


class SottovoceConfig(PreTrainedConfig):
    """`StudentConfig` as a configuration of transformers: the same fields, with `encoder` as a dict. `hidden_size` and
    `num_hidden_layers` follow from it.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        encoder: Mapping[str, Any] | None = None,
        normalize: bool = False,
        projections: Mapping[str, Sequence[int]] | None = None,
        teacher_dim: int | None = None,
        teacher: str | None = None,
        teacher_frames: int = 1,
        host: Mapping[str, Any] | None = None,
        scores: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = dict(encoder or {})  # transformers builds a config without arguments to compare with
        self.normalize = normalize
        self.projections = {name: list(layers) for name, layers in (projections or {}).items()}
        self.teacher_dim = teacher_dim
        self.teacher = teacher
        self.teacher_frames = teacher_frames
        self.host = None if host is None else dict(host)
        self.scores = {label: dict(shape) for label, shape in (scores or {}).items()}
        super().__init__(**{name: value for name, value in kwargs.items() if name not in ("hidden_size", "num_hidden_layers")})
        self.hidden_size = self.encoder.get("dim", 0)
        self.num_hidden_layers = len(self.encoder.get("layers", ()))

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one frame to the next; of a student in a host, from one of its outputs to the next."""
        host = self.host or {}
        joined = math.prod(bridge["join"] for bridge in host.get("bridges", ()))
        return EncoderConfig.from_dict(self.encoder).frontend.stride * int(host.get("stride", 1)) // joined
