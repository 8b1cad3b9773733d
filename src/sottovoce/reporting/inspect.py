"""`sottovoce inspect`: a model's shape and where its parameters and compute are."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from sottovoce.core.types import SAMPLE_RATE, Cost
from sottovoce.encoder import EncoderConfig
from sottovoce.families.generic import GenericEncoder
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
        "left_out": list(loaded.left_out),
        "unknown_keys": list(loaded.unknown),
    }


def _inside_transformers(loaded: Pretrained, encoder: GenericEncoder) -> dict[str, Any]:
    return {
        "source": loaded.source,
        "family": loaded.family,
        "model_type": loaded.hf_config["model_type"],
        "dim": loaded.dim,
        "depth": loaded.depth,
        "total": {"params": sum(parameter.numel() for parameter in encoder.parameters())},
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


def _lines_inside_transformers(found: dict[str, Any]) -> str:
    return (
        f"{found['source']}: model_type '{found['model_type']}', width {found['dim']}, {found['depth']} layers, "
        f"{found['total']['params']:,} parameters\n"
        "It runs inside transformers: it can teach a student of another design and be evaluated; it cannot be pruned, copied or exported."
    )


def _row(cost: dict[str, Any], whole: dict[str, float]) -> tuple[str, str, str, str]:
    share = {key: f"{cost[key] / whole[key]:.1%}" for key in whole}
    return f"{cost['params']:,}", share["params"], f"{cost['macs_per_s'] / 1e6:,.1f}", share["macs_per_s"]
