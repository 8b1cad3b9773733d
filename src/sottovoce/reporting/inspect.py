"""`sottovoce inspect`: a model's shape and where its parameters and compute are."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from sottovoce.core.types import SAMPLE_RATE, Cost
from sottovoce.encoder import EncoderConfig
from sottovoce.families.generic import GenericEncoder
from sottovoce.families.student_config import STUDENT
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.pruning import encoder_cost, kinds, total


def inspect(source: str) -> dict[str, Any]:
    """Widths per layer, and parameters and MACs per second of audio per part, as plain data. Of a model that runs inside transformers,
    whose parts are not known, there are no "layers" and "parts"."""
    loaded = load_pretrained(source)
    if isinstance(loaded.encoder, GenericEncoder):
        return _inside_transformers(loaded, loaded.encoder)
    config = loaded.shape
    costs = encoder_cost(config)
    layers = [
        {"layer": i + 1, "kind": layer.kind, **dataclasses.asdict(layer), "heads": layer.num_heads}
        for i, layer in enumerate(config.layers)
    ]
    labels = _front(config)
    for kind in kinds():
        for name, (title, shape) in kind.labels(config).items():
            before = labels.get(name)
            labels[name] = (title, shape) if before is None else (before[0], f"{before[1]}; {shape}")
    frontend = config.frontend
    everything = total(costs)
    return {
        "source": source,
        "family": loaded.family,
        "dim": config.dim,
        "frame_rate": 16_000 / frontend.stride,
        "convs": [{"dim": conv.dim, "kernel": conv.kernel, "stride": conv.stride} for conv in frontend.convs],
        "frontend_dim": frontend.width,
        "frontend_join": frontend.join,
        "window_seconds": config.window / SAMPLE_RATE or None,
        "layers": layers,
        "parts": {name: _part(cost, *labels.get(name, (name, ""))) for name, cost in costs.items()},
        "total": {"params": int(everything.params), "macs_per_s": float(everything.macs)},
        **_host(source, loaded),
        "unknown_keys": list(loaded.unknown),
    }


def _host(source: str, loaded: Pretrained) -> dict[str, Any]:
    """ "host": what lies around the encoder, and what it costs; "left_out": heads that are no host.

    params: of the rest, without the encoder. macs_per_s: of its layers that read every frame. macs_per_token: of those of a decoder that
    run for each token. Attention between tokens and frames is not counted.
    """
    left_out = list(loaded.left_out)
    if not left_out and "host" not in (loaded.hf_config.get(STUDENT) or loaded.hf_config):
        return {"host": None, "left_out": left_out}
    from sottovoce.hosts.load import load_host

    host = load_host(source)
    if host is None:
        return {"host": None, "left_out": left_out}
    rate = SAMPLE_RATE / loaded.shape.frontend.stride
    linear = {name: module for name, module in host.rest.named_modules() if isinstance(module, nn.Linear)}
    bridge = sum(weight.numel() for weight in host.bridge.parameters())
    decodes, join = host.answers == "tokens", host.bridge.join
    reads = ("encoder_attn.k_proj", "encoder_attn.v_proj") if decodes else (host.first, "tdnn.")
    frames = sum(module.weight.numel() for name, module in linear.items() if any(part in name for part in reads))
    adapter, stride = (0.0, 1) if decodes else (host.rest.base_model.macs(), host.rest.base_model.stride)
    tokens = sum(module.weight.numel() for name, module in linear.items() if not any(part in name for part in reads))
    found = {
        "kind": host.name,
        "class": host.hf["architectures"][0],
        "auto_class": host.auto_class,
        "params": bridge + sum(weight.numel() for weight in host.rest.parameters()),
        "macs_per_s": rate * (bridge + join * (adapter + frames / stride)),
        **({"macs_per_token": float(tokens)} if decodes else {}),
    }
    return {"host": found, "left_out": []}


def _inside_transformers(loaded: Pretrained, encoder: GenericEncoder) -> dict[str, Any]:
    return {
        "source": loaded.source,
        "family": loaded.family,
        "model_type": loaded.hf_config["model_type"],
        "dim": loaded.dim,
        "depth": loaded.depth,
        "total": {"params": sum(parameter.numel() for parameter in encoder.parameters())},
        "host": None,
        "left_out": list(loaded.left_out),
        "unknown_keys": list(loaded.unknown),
    }


def _part(cost: Cost, title: str, shape: str) -> dict[str, Any]:
    return {"title": title, "shape": shape, "params": int(cost.params), "macs_per_s": float(cost.macs)}


def _front(config: EncoderConfig) -> dict[str, tuple[str, str]]:
    """Title and shape of the parts that have no units."""
    frontend = config.frontend
    times = f"{frontend.join} x " if frontend.join > 1 else ""
    return {
        "frontend.fbank": ("filter bank", f"{frontend.inputs} per frame"),
        "frontend.log_mel": ("log-mel", f"{frontend.inputs} per frame"),
        "frontend.projection": ("projection", f"{times}{frontend.width} to {config.dim}"),
    }


def show(found: dict[str, Any]) -> None:
    """Prints what `inspect` returned: two tables, or a few lines for a model that runs inside transformers."""
    console, whole = Console(), found["total"]
    if found["left_out"]:
        console.print(f"left out, because the encoder does not use it: {', '.join(found['left_out'])}", highlight=False)
    if "parts" not in found:
        console.print(_lines_inside_transformers(found), highlight=False)
        return
    parts = found["parts"]
    console.print(
        f"{found['source']}: {found['family']}, width {found['dim']}, {found['frame_rate']:g} frames per second", highlight=False
    )
    if found["window_seconds"]:
        console.print(
            f"It hears {found['window_seconds']:g} s at a time: shorter recordings are padded, longer ones cut into windows "
            "without overlap. A student need not.",
            highlight=False,
        )
    table = Table("part", "shape", "parameters", "share", "MMACs/s", "share ")
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    for part in parts.values():
        table.add_row(part["title"], part["shape"], *_row(part, whole))
    table.add_section()
    table.add_row("all", "", *_row(whole, whole))
    console.print(table)
    if host := found["host"]:
        tokens = f", {host['macs_per_token'] / 1e6:,.1f} MMAC for each token" if "macs_per_token" in host else ""
        console.print(
            f"It lives in a {host['class']} ({host['auto_class']}), whose other parts have {host['params']:,} parameters and take "
            f"{host['macs_per_s'] / 1e6:,.1f} MMAC per second of audio{tokens}.",
            highlight=False,
        )


def _lines_inside_transformers(found: dict[str, Any]) -> str:
    return (
        f"{found['source']}: model_type '{found['model_type']}', width {found['dim']}, {found['depth']} layers, "
        f"{found['total']['params']:,} parameters\n"
        "It runs inside transformers: it can teach a student of another design and be evaluated; it cannot be pruned, copied or exported."
    )


def _row(cost: dict[str, Any], whole: dict[str, float]) -> tuple[str, str, str, str]:
    share = {key: f"{cost[key] / whole[key]:.1%}" for key in whole}
    return f"{cost['params']:,}", share["params"], f"{cost['macs_per_s'] / 1e6:,.1f}", share["macs_per_s"]
