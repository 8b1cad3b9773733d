"""Students that sottovoce wrote, so that a student can teach, or be cut, again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import EncoderConfig, shapes
from sottovoce.encoder.score_head import ScoreHeads
from sottovoce.families.base import Family
from sottovoce.families.student_config import (
    ENCODER,
    HEAD_KEYS,
    HOST,
    KEYS,
    MODEL_TYPE,
    MODEL_TYPES,
    PROJECTIONS,
    SCORES,
    StudentConfig,
)


@FAMILIES.register("sottovoce")
class Sottovoce(Family):
    """Students that sottovoce wrote. Their config.json holds an `EncoderConfig`; the names of their tensors start with ``encoder.``"""

    model_types = MODEL_TYPES
    prefix = ENCODER.removesuffix(".")
    certain = True

    def encoder_config(self, hf: Mapping[str, Any]) -> EncoderConfig:
        config = StudentConfig.from_json(hf).encoder
        try:
            shapes(config)
        except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError) as problem:
            raise ValueError(
                f"config.json describes an encoder that cannot be built ({problem}); the folder is damaged"
            ) from None
        return config

    def read_keys(self) -> frozenset[str]:
        return frozenset((*KEYS, *HEAD_KEYS))

    def normalize(self, hf: Mapping[str, Any]) -> bool:
        return StudentConfig.from_json(hf).normalize

    def check_preprocessor(self, config: EncoderConfig, preprocessor: Mapping[str, Any]) -> None:
        """Of a student in Whisper, the extractor is that of the decoder's users; the student itself reads waveforms."""
        if config.frontend.log_mel is None or preprocessor.get("feature_extractor_type") != "WhisperFeatureExtractor":
            super().check_preprocessor(config, preprocessor)

    def trunk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix(ENCODER): x for name, x in tensors.items() if not name.startswith((PROJECTIONS, SCORES, *HOST))}

    def heads(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name.startswith(HOST)}

    def hf_name(self, ours: str) -> str:
        return ours

    def left_out(self, tensors: Iterable[str]) -> tuple[str, ...]:
        return ()

    def projections(self, tensors: Mapping[str, Tensor], student: StudentConfig) -> dict[str, Tensor]:
        """The distillation projections saved beside the encoder, as '<name>.weight' and '<name>.bias', float32. ValueError when they
        are not what config.json says of them, or not finite."""
        saved = {name.removeprefix(PROJECTIONS): x.float() for name, x in tensors.items() if name.startswith(PROJECTIONS)}
        if {name: tuple(x.shape) for name, x in saved.items()} != student.projection_shapes():
            raise ValueError(
                "the projections into the teacher's space are not those that config.json describes; the folder is damaged"
            )
        if bad := [name for name, x in saved.items() if not torch.isfinite(x).all()]:
            raise ValueError(f"{PROJECTIONS}{bad[0]} holds NaN or infinity")
        return saved

    def scores(self, tensors: Mapping[str, Tensor], student: StudentConfig) -> ScoreHeads:
        """The heads that score recordings, float32. ValueError when they are not what config.json says of them, or not finite."""
        saved = {name.removeprefix(SCORES): x.float() for name, x in tensors.items() if name.startswith(SCORES)}
        heads = ScoreHeads(student.encoder.dim, student.scores)
        if {name: x.shape for name, x in saved.items()} != {name: x.shape for name, x in heads.state_dict().items()}:
            raise ValueError("the score heads are not those that config.json describes; the folder is damaged")
        if bad := [name for name, x in saved.items() if not torch.isfinite(x).all()]:
            raise ValueError(f"{SCORES}{bad[0]} holds NaN or infinity")
        heads.load_state_dict(saved)
        return heads.eval().requires_grad_(False)

    def to_hf(
        self, config: EncoderConfig, state: Mapping[str, Tensor], mask_vector: Tensor | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The folder's config.json (its part that describes the encoder) and tensors. `mask_vector` is not kept."""
        tensors = {f"{ENCODER}{name}": tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
        return {"model_type": MODEL_TYPE, "encoder": config.to_dict()}, tensors
