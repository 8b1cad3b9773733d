"""Opens a host: a checkpoint of transformers with a head that is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sottovoce.core.registry import HOSTS
from sottovoce.encoder import Encoder
from sottovoce.hosts.base import Host, host_config
from sottovoce.hosts.rest import class_of
from sottovoce.hub.pretrained import load_checkpoint


def load_host(source: str | Path) -> Host | None:
    """The host at `source`, a folder or hub id, with its encoder in it; ``None`` for a bare encoder and for a head that is not known.

    >>> host = load_host("openai/whisper-base")
    >>> host.transcribe(wave, lengths)              # (B, S) raw 16 kHz floats -> texts

    ValueError as in `hub.pretrained.load_pretrained`, and if the weights of the rest do not fit its config.json.
    """
    checkpoint = load_checkpoint(source)
    kind = kind_of(host_config(checkpoint.pretrained.hf_config))
    if kind is None or not checkpoint.heads or not isinstance(checkpoint.pretrained.encoder, Encoder):
        return None
    try:
        host: Host = kind(checkpoint)
    except ValueError as problem:
        raise ValueError(f"{source}: {problem}") from None
    return host


def kind_of(hf: Mapping[str, Any]) -> type[Host] | None:
    """The kind of host that a config.json names; ``None`` for an encoder alone and for models of other kinds."""
    model_type, names = hf.get("model_type"), hf.get("architectures") or ()
    for name in HOSTS.names():
        kind: type[Host] = HOSTS.get(name)
        if kind.model_types and model_type not in kind.model_types:
            continue
        cls = class_of(str(model_type), kind.suffix)
        if cls is not None and cls.__name__ in names:
            return kind
    return None
