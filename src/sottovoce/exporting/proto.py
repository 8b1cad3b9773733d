"""ONNX graphs in memory and on disk: what all that makes or changes one shares."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sottovoce.core.extras import optional

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PARTS: tuple[str, ...] = ("layers", "position", "frontend")  # what int8 can be used for
INPUTS, OUTPUTS = ("wave", "lengths"), ("hidden_states", "frames")
LARGEST = 2_000_000_000  # bytes: protobuf, and so a single file, ends at 2 GiB
SCOPES = "pkg.torch.onnx.name_scopes"

library = partial(optional, extra="onnx", purpose="an ONNX file")


def scope(node: NodeProto) -> str:
    """The module that a node comes from, e.g. "encoder.layers.0.ffn.up_proj", also in a host; "" where it is not known."""
    text = next((item.value for item in node.metadata_props if item.key == SCOPES), "")
    names = [name.strip(" '\"[]").removeprefix("host.") for name in text.split(",")]
    return max((name for name in names if name.startswith("encoder")), key=len, default="")


def weights(model: ModelProto) -> dict[str, Any]:
    """Initializers by name."""
    return {item.name: item for item in model.graph.initializer}


def drop_unused(model: ModelProto) -> None:
    """Takes out weights that no node reads."""
    used = {name for node in model.graph.node for name in node.input} | {item.name for item in model.graph.output}
    for item in [item for item in model.graph.initializer if item.name not in used]:
        model.graph.initializer.remove(item)


def size(model: ModelProto) -> int:
    """Bytes of all weights."""
    return sum(len(item.raw_data) for item in model.graph.initializer)


def save(model: ModelProto, path: Path) -> None:
    """One file; weights beside it, in PATH.data, only where one file cannot hold them."""
    large = size(model) > LARGEST
    library("onnx").save_model(model, path, save_as_external_data=large, location=path.name + ".data" if large else None)
