"""`sottovoce inspect`: a model's shape and where its parameters and compute are."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning import encoder_cost, total


def describe(source: str) -> dict[str, Any]:
    """Widths per layer, and parameters and MACs per second of audio per part, as plain data. ValueError for models of no known shape."""
    loaded = load_pretrained(source)
    config = loaded.shape
    costs = encoder_cost(config)
    layers = []
    for i, layer in enumerate(config.layers):
        row: dict[str, Any] = {"layer": i + 1, "heads": layer.num_heads, "head_dim": layer.head_dim, "ffn_dim": layer.ffn_dim}
        row |= {"attention": layer.attention, "ffn": layer.ffn, "kind": layer.kind}
        if layer.kind == "conformer":
            row |= {"ffn1": layer.ffn1, "ffn1_dim": layer.ffn1_dim, "glu_dim": layer.glu_dim}
        layers.append(row)
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
        "parts": {name: {"params": int(cost.params), "macs_per_s": float(cost.macs)} for name, cost in costs.items()},
        "total": {"params": int(everything.params), "macs_per_s": float(everything.macs)},
    }


def show(found: dict[str, Any]) -> None:
    """Prints `describe`'s findings as two tables."""
    console, parts, whole = Console(), found["parts"], found["total"]
    console.print(
        f"{found['source']}: {found['family']}, width {found['dim']}, {found['frame_rate']:g} frames per second", highlight=False
    )
    table = Table("part", "shape", "parameters", "share", "MMACs/s", "share ")
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    named = {f"frontend.convs.{i}": (f"conv {i + 1}", f"{conv['dim']} channels") for i, conv in enumerate(found["convs"])}
    named["frontend.fbank"] = ("filter bank", f"{found['frontend_dim']} per frame")
    times = f"{found['frontend_join']} x " if found["frontend_join"] > 1 else ""
    named["frontend.projection"] = ("projection", f"{times}{found['frontend_dim']} to {found['dim']}")
    for i, layer in enumerate(found["layers"]):
        heads = f"{layer['heads']} heads of {layer['head_dim']}" if layer["heads"] else "constant"
        named[f"layers.{i}.attention"] = (f"layer {i + 1} attention", heads if layer["attention"] else "removed")
        for part in ("ffn", "ffn1"):
            units = f"{layer[f'{part}_dim']} units" if layer.get(f"{part}_dim") else "constant"
            title = f"layer {i + 1} feed-forward{part.removeprefix('ffn')}"
            named[f"layers.{i}.{part}"] = (title, units if layer.get(part) else "removed")
        channels = layer.get("glu_dim")
        named[f"layers.{i}.glu"] = (f"layer {i + 1} convolution", f"{channels} channels" if channels else "removed")
    for name, cost in parts.items():
        table.add_row(*named.get(name, (name, "")), *_row(cost, whole))
    table.add_section()
    table.add_row("all", "", *_row(whole, whole))
    console.print(table)


def _row(cost: dict[str, float], whole: dict[str, float]) -> tuple[str, str, str, str]:
    share = {key: f"{cost[key] / whole[key]:.1%}" for key in cost}
    return f"{cost['params']:,}", share["params"], f"{cost['macs_per_s'] / 1e6:,.1f}", share["macs_per_s"]
