"""THE encoder: one module for every teacher and every student, described by data (`EncoderConfig`)."""

from .config import ConvConfig, DropoutConfig, EncoderConfig, FrontendConfig, LayerConfig, PositionConfig, RelativeConfig
from .encoder import Encoder
from .frontend import normalize

__all__ = [
    "ConvConfig",
    "DropoutConfig",
    "Encoder",
    "EncoderConfig",
    "FrontendConfig",
    "LayerConfig",
    "PositionConfig",
    "RelativeConfig",
    "normalize",
]
