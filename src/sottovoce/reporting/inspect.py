"""`sottovoce inspect`: a model's shape and where its parameters and compute are."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.table import Table

from sottovoce.core.types import Cost
from sottovoce.encoder import EncoderConfig
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning import encoder_cost, kinds, total


def inspect(source: str) -> dict[str, Any]:
    """Widths per layer, and parameters and MACs per second of audio per part, as plain data. ValueError for models of no known shape."""
    loaded = load_pretrained(source)
    config = loaded.shape
    costs = encoder_cost(config)
    layers = [
        {"layer": i + 1, "kind": layer.kind, **dataclasses.asdict(layer), "heads": layer.num_heads}
        for i, layer in enumerate(config.layers)
    ]
    labels = {name: label for kind in kinds() for name, label in kind.labels(config).items()} | _front(config)
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
        "layers": layers,
        "parts": {name: _part(cost, *labels.get(name, (name, ""))) for name, cost in costs.items()},
        "total": {"params": int(everything.params), "macs_per_s": float(everything.macs)},
    }


def _part(cost: Cost, title: str, shape: str) -> dict[str, Any]:
    return {"title": title, "shape": shape, "params": int(cost.params), "macs_per_s": float(cost.macs)}


def _front(config: EncoderConfig) -> dict[str, tuple[str, str]]:
    """Title and shape of the parts that have no units."""
    frontend = config.frontend
    times = f"{frontend.join} x " if frontend.join > 1 else ""
    return {
        "frontend.fbank": ("filter bank", f"{frontend.width} per frame"),
        "frontend.projection": ("projection", f"{times}{frontend.width} to {config.dim}"),
    }


def show(found: dict[str, Any]) -> None:
    """Prints what `inspect` returned, as two tables."""
    console, parts, whole = Console(), found["parts"], found["total"]
    console.print(
        f"{found['source']}: {found['family']}, width {found['dim']}, {found['frame_rate']:g} frames per second", highlight=False
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


def _row(cost: dict[str, Any], whole: dict[str, float]) -> tuple[str, str, str, str]:
    share = {key: f"{cost[key] / whole[key]:.1%}" for key in whole}
    return f"{cost['params']:,}", share["params"], f"{cost['macs_per_s'] / 1e6:,.1f}", share["macs_per_s"]
