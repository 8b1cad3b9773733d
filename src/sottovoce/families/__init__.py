"""Teacher families: Hugging Face config and weight names <-> `encoder/`. One file per family; `load_pretrained` picks."""

from .base import Family
from .load import Pretrained, load_pretrained

__all__ = ["Family", "Pretrained", "load_pretrained"]
