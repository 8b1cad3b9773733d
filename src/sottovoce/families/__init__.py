"""Teacher families: Hugging Face config and weight names <-> `encoder/`. One file per family; `hub.pretrained` picks."""

from sottovoce.families.base import Family

__all__ = ["Family"]
