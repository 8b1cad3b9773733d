"""Tiny random weights for teachers that are read from a package's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sottovoce.train.teachers import distillmos as quality
from sottovoce.train.teachers.campplus import SpeakerNetwork


def campplus(folder: Path) -> Path:
    """CAM++ of a few channels and one layer per block, whose vectors have 6 numbers."""
    torch.manual_seed(3)
    sizes = {
        "head.conv1.weight": (4, 1, 3, 3),
        "xvector.tdnn.linear.weight": (8, 40, 5),
        "xvector.dense.linear.weight": (6, 2, 1),
    }
    for block in (1, 2, 3):
        sizes |= {
            f"xvector.block{block}.tdnnd1.linear1.weight": (8, 2, 1),
            f"xvector.block{block}.tdnnd1.cam_layer.linear_local.weight": (4, 8, 3),
        }
    network = SpeakerNetwork({name: torch.empty(size) for name, size in sizes.items()})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    path = folder / "campplus.pt"
    torch.save(network.state_dict(), path)
    return path


def distillmos(folder: Path) -> Path:
    """Distill-MOS of a few channels and one layer, under the checkpoint's names."""
    torch.manual_seed(3)
    sizes = {f"cnn.{2 * i}.weight": (2, 2, 3, 3) for i in range(6)}
    sizes |= {"project.weight": (8, 8), "positions": (1, 384, 8), "transformer.layers.0.self_attn.in_proj_weight": (24, 8)}
    state = quality.QualityNetwork({name: torch.empty(size) for name, size in sizes.items()}).state_dict()
    state["positions"].normal_()
    theirs = {
        "cnn.": "cnn.cnn.",
        "norm.": "transformer_pool_attn.transformer.norm.",
        "positions": "transformer_pool_attn.transformer.position_encoding.pe",
        "project.": "transformer_pool_attn.transformer.linear_proj.",
        "transformer.": "transformer_pool_attn.transformer.transformer_encoder.",
    }
    named = {}
    for name, tensor in state.items():
        start = next((ours for ours in theirs if name.startswith(ours)), None)
        named[f"transformer_pool_attn.{name}" if start is None else theirs[start] + name[len(start) :]] = tensor
    path = folder / "distillmos.pt"
    torch.save({"model": named}, path)
    return path


def dnsmos(folder: Path) -> Path:
    """A graph that gives level, level and 1 as its three numbers; the test is skipped without onnx and ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Abs", ["input_1"], ["size"]),
        helper.make_node("ReduceMean", ["size"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["level", "level", "one"], ["scores"], axis=1),
    ]
    given, found = (
        helper.make_tensor_value_info(name, kind, shape) for name, shape in (("input_1", [1, None]), ("scores", [1, 3]))
    )
    one = helper.make_tensor("one", kind, [1, 1], [1.0])
    graph = helper.make_graph(nodes, "levels", [given], [found], [one])
    path = folder / "dnsmos.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def router(folder: Path) -> str:
    """Two quality models: what a router's source says."""
    return f"distillmos:{distillmos(folder)}+dnsmos:{dnsmos(folder)}"


WRITERS: dict[str, Callable[[Path], Path | str]] = {
    "campplus": campplus,
    "distillmos": distillmos,
    "dnsmos": dnsmos,
    "router": router,
}  # kind of teacher -> what writes its weights into a folder
