"""THE encoder: one module for every teacher and every student, described by data (`EncoderConfig`)."""

from sottovoce.encoder.config import (
    ContextConfig,
    ConvConfig,
    ConvolutionConfig,
    DistanceConfig,
    DropoutConfig,
    EncoderConfig,
    FbankConfig,
    FrontendConfig,
    LayerConfig,
    LogMelConfig,
    PositionConfig,
    ProjectionConfig,
    RelativeConfig,
)
from sottovoce.encoder.encoder import Encoder, shapes
from sottovoce.encoder.frontend import normalize

__all__ = [
    "ContextConfig",
    "ConvConfig",
    "ConvolutionConfig",
    "DistanceConfig",
    "DropoutConfig",
    "Encoder",
    "EncoderConfig",
    "FbankConfig",
    "FrontendConfig",
    "LayerConfig",
    "LogMelConfig",
    "PositionConfig",
    "ProjectionConfig",
    "RelativeConfig",
    "normalize",
    "shapes",
]
