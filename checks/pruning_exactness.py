"""Measures how exact cutting is, and how well budgets are met.

    python -m checks.pruning_exactness     # record `pruning_exactness`

Random weights (exactness does not depend on training) of 12 layers, width 192, 128 convolution channels, in five styles of model.
For every kind of unit, 40 % closed and the others soft: the largest difference between valid frames of any state, gated against
cut, and relative to the largest state. Where a plain mask at full width means the same (no layer norm over masked channels), the
cut encoder is compared with that as well (absolute_to_mask), which shares no code with it. For budgets: the share asked for
and the share measured after the cut.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch

from sottovoce.core import ledger
from sottovoce.core.registry import UNITS
from sottovoce.encoder import ConvConfig, Encoder, EncoderConfig, FrontendConfig, LayerConfig, PositionConfig, RelativeConfig
from sottovoce.pruning import Budget, BudgetConfig, GatedEncoder, encoder_cost, meet_budget, total

STEPS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
GROUP = FrontendConfig(tuple(ConvConfig(128, kernel, stride) for kernel, stride in STEPS))
LAYER = dataclasses.replace(GROUP, norm="layer", bias=True)
BASE = EncoderConfig(GROUP, 192, PositionConfig(128, 16), (LayerConfig(6, 32, 768),) * 12)
WAVLM = dataclasses.replace(
    BASE, layers=(LayerConfig(6, 32, 768, heads=tuple(range(6))),) * 12, relative=RelativeConfig(320, 800, 6)
)
STYLES = {
    "hubert-base": BASE,
    "hubert-large": dataclasses.replace(BASE, frontend=LAYER, norm_first=True),
    "wavlm-base": WAVLM,
    "wavlm-large": dataclasses.replace(WAVLM, frontend=dataclasses.replace(LAYER, bias=False), norm_first=True),
    "data2vec": dataclasses.replace(
        BASE, frontend=dataclasses.replace(LAYER, bias=False), position=PositionConfig(19, 16, depth=5, norm=True)
    ),
}


def make(config: EncoderConfig) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(config).reset_parameters().eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() == 1:  # so that biases and norms count
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif ".attention." in name or ".ffn." in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return encoder


def masked(gated: GatedEncoder, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Full-width tensors with the consumers' columns multiplied by the gate values, zeros included."""
    tensors: dict[str, torch.Tensor] = dict(gated.encoder.named_parameters())
    for group in gated.plan:
        for part in (part for part in group.slices if part.scale):
            shape = [-1 if axis == part.dim else 1 for axis in range(tensors[part.name].dim())]
            tensors[part.name] = tensors[part.name] * values[group.name].repeat_interleave(part.block).view(shape)
    return tensors


@torch.no_grad()
def difference(config: EncoderConfig, units: tuple[str, ...]) -> dict[str, float]:
    """Gated against cut, without and with padding."""
    gated = GatedEncoder(make(config), units).eval()
    values = {}
    for group in gated.plan:
        value = torch.rand(group.size) * 0.9 + 0.1
        value[torch.rand(group.size) < 0.4] = 0
        value[: group.minimum] = 0.5
        values[group.name] = value
    student = gated.cut(values)
    found = {}
    for name, lengths in (("absolute", None), ("absolute_padded", torch.tensor([16_000, 11_000]))):
        wave = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(1))
        a, b = gated(wave, lengths, values=values), student(wave, lengths)
        valid = a.valid()
        pairs = [(x[valid], y[valid]) for x, y in zip([*a.hidden, a.last], [*b.hidden, b.last], strict=True)]
        found[name] = max((x - y).abs().max().item() for x, y in pairs)
        found["largest_state"] = max(x.abs().max().item() for x, _ in pairs)
        if "conv" not in units:
            c = torch.func.functional_call(gated.encoder, masked(gated, values), (wave, lengths))
            found["absolute_to_mask"] = max(
                (x[valid] - y[valid]).abs().max().item() for x, y in zip(c.hidden, b.hidden, strict=True)
            )
    found["relative"] = max(found["absolute"], found["absolute_padded"]) / found["largest_state"]
    return found


def budget(config: EncoderConfig, unit: str, keep: float, spread: float) -> dict[str, object]:
    """Random gates, calibrated and cut; then the student is measured."""
    gated = GatedEncoder(make(config))
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=spread)
    began = time.perf_counter()
    report = meet_budget(gated.gates, Budget(BudgetConfig(unit, keep), config, gated.plan))  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    student = gated.cut()
    params = sum(tensor.numel() for tensor in student.state_dict().values())
    cost = total(encoder_cost(student.config))
    assert cost.params == params
    measured = float(getattr(cost, unit)) / float(getattr(total(encoder_cost(config)), unit))
    return {
        "keep": keep,
        "unit": unit,
        "spread": spread,
        "as_trained": report.before,
        "measured": measured,
        "relative_error": measured / keep - 1,
        "met": report.met,
        "shift": report.shift,
        "opened_singly": report.filled,
        "seconds": round(seconds, 2),
    }


def main() -> None:
    torch.set_num_threads(1)
    exactness = {}
    for style, config in STYLES.items():
        one_layer = config.position is not None and config.position.depth == 1
        kinds = tuple(kind for kind in UNITS.names() if kind != "glu" and (kind != "position" or one_layer))
        exactness[style] = {kind: difference(config, (kind,)) for kind in kinds} | {"all": difference(config, kinds)}
        print(
            style,
            {kind: (found["relative"], found.get("absolute_to_mask")) for kind, found in exactness[style].items()},
            flush=True,
        )
    budgets: dict[str, list[dict[str, object]]] = {}
    for style in ("hubert-base", "wavlm-large"):
        budgets[style] = []
        for unit in ("params", "macs"):
            for keep in (0.5, 0.25, 0.1):
                for spread in (0.1, 2.0, 6.0):
                    try:
                        row = budget(STYLES[style], unit, keep, spread)
                    except ValueError as problem:  # the fixed parts alone are larger
                        row = {"keep": keep, "unit": unit, "spread": spread, "refused": str(problem)}
                    budgets[style].append(row)
                    print(style, row, flush=True)
    found = {
        "name": "pruning_exactness",
        "what": (__doc__ or "").strip().split("\n")[0],
        **ledger.header("pruning-exactness"),
        "gated_vs_cut": exactness,
        "budgets": budgets,
    }
    ledger.write(Path(__file__).parent / ledger.RECORDS, found)


if __name__ == "__main__":
    main()
