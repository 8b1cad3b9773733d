"""One optimisation step of DPHuBERT's step 1 at HuBERT-Base shape: ours beside the same step on stock transformers modules.

    python benchmarks/train_step.py

Random weights, gates set near 75 % sparsity, a batch of 4 x 10 s, two threads. Both do the same work: teacher without gradient, student
with sampled gates on convolution channels, heads and feed-forward units, L1 + cosine on layers 0, 4, 8, 12, budget term, backward, clip,
AdamW; no dropout. The peer multiplies the gates onto stock transformers' HuBERT (SDPA) with hooks, as the reference does, computing
every unit. Each runs in a process of its own, in turns, because the peak of memory is a process's. Besides: the same with closed units cut
live, with all gates open, and a step of the second stage; and from these, what the whole schedule costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import turns
from torch import Tensor

Ask = Callable[[Tensor], list[Tensor]]  # waveforms to the front end's output and that of every layer

ROWS, SECONDS, LAYERS = 4, 10.0, (0, 4, 8, 12)


def gates(plan: Any, sparsity: float) -> Any:
    """log_alpha so that about (1 - sparsity) of each group is open and most gates are decided, as late in training."""
    from sottovoce.pruning import Gates

    made = Gates(plan)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in plan:
            # as in the published student: 432 of 512 channels
            share = 0.85 if group.kind == "conv" and sparsity else 1 - sparsity
            order = torch.rand(group.size, generator=generator).argsort().argsort() / group.size
            made.log_alpha[made.key(group)].copy_(torch.where(order < share, 6.0, -6.0))
    return made


def build(sparsity: float) -> tuple[Any, Any, Any, Any]:
    from sottovoce.encoder import Encoder
    from sottovoce.pruning import Budget, BudgetConfig, GatedEncoder
    from sottovoce.students.random import Random

    torch.manual_seed(0)
    shape = Random(Random.Config(dropout=0.0)).shape()  # as the peer
    teacher, student = Encoder(shape).reset_parameters().eval().requires_grad_(False), Encoder(shape)
    student.load_state_dict(teacher.state_dict())
    gated = GatedEncoder(student)
    gated.gates = gates(gated.plan, sparsity)
    return teacher, gated.train(), Budget(BudgetConfig("params", 0.15), shape, gated.plan), shape


def distance(wave: Tensor, student: Ask, teacher: Ask, maps: torch.nn.ModuleList) -> Tensor:
    """L1 and cosine between some layers of both; `maps`: one for the front end's output, one for layers."""
    with torch.no_grad():
        theirs = teacher(wave)
    ours, total = student(wave), torch.zeros(())
    for i, layer in enumerate(LAYERS):
        x, y = maps[min(i, 1)](ours[layer]), theirs[layer]
        total = total + (x - y).abs().mean() - F.cosine_similarity(x, y, dim=-1).mean()
    return total / len(LAYERS)


def heads() -> torch.nn.ModuleList:
    return torch.nn.ModuleList(torch.nn.Linear(768, 768) for _ in range(2))


def first_stage(
    wave: Tensor, student: Ask, teacher: Ask, weights: Iterable[Tensor], gates: Any, budget: Any, sparsity: float
) -> Callable[[], None]:
    """An update of `weights` and `gates`. student: with gates sampled anew whenever it is asked."""
    from sottovoce.pruning import Lagrangian

    lagrangian, maps = Lagrangian(), heads()
    weights = [*weights, *maps.parameters()]
    groups = [
        {"params": weights, "lr": 2e-4},
        {"params": list(gates.parameters()), "lr": 0.02},
        {"params": list(lagrangian.parameters()), "lr": 0.02, "maximize": True},
    ]

    def loss() -> Tensor:
        return distance(wave, student, teacher, maps) + lagrangian(budget.sparsity(gates), sparsity)

    return turns.update(loss, weights, torch.optim.AdamW(groups, weight_decay=0.0, fused=True))


def states(encoder: Any) -> Ask:
    """Of one of our encoders."""
    return lambda wave: encoder(wave).hidden


def ours(wave: Tensor, sparsity: float, live: bool = False) -> Any:
    """live: units whose gates are closed for good have left student, gates and optimiser."""
    from sottovoce.inference.packed import fastest
    from sottovoce.pruning import shrink, units_to_keep

    teacher, gated, budget, _ = build(sparsity)
    if live:
        kept = units_to_keep(gated, budget, below=0.05)
        assert kept is not None
        gated = shrink(gated, kept)
        budget = budget.of(gated.encoder.config, gated.plan)
    return first_stage(wave, states(gated), states(fastest(teacher)), gated.encoder.parameters(), gated.gates, budget, sparsity)


def distil(wave: Tensor, sparsity: float, stock: bool = False) -> Any:
    """A step of the second stage: the student cut, no gates. stock: teacher of transformers, and every kernel PyTorch's own."""
    from sottovoce.inference.packed import fastest

    teacher, gated, _, _ = build(sparsity)
    student, maps = gated.cut(), heads()
    weights = [*student.parameters(), *maps.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0, fused=True)
    if stock:
        os.environ["SOTTOVOCE_KERNELS"] = "torch"
        ask = hidden_states(stock_model().eval().requires_grad_(False))
    else:
        ask = states(fastest(teacher))
    return turns.update(lambda: distance(wave, states(student), ask, maps), weights, optimizer)


def stock_model() -> Any:
    """transformers' HubertModel (SDPA) without dropout."""
    from transformers import HubertConfig, HubertModel

    rates = ("layerdrop", "hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")
    return HubertModel(HubertConfig(apply_spec_augment=False, attn_implementation="sdpa", **dict.fromkeys(rates, 0.0)))


def hidden_states(model: Any) -> Ask:
    """Of a model of transformers."""
    front: list[Tensor] = []
    model.feature_projection.register_forward_hook(lambda m, a, out: front.append(out[0] if isinstance(out, tuple) else out))

    def ask(wave: Tensor) -> list[Tensor]:
        front.clear()
        found = model(wave, output_hidden_states=True).hidden_states
        return [front[0], *found[1:]]

    return ask


def peer(wave: Tensor, sparsity: float) -> Any:
    """transformers' model, gates multiplied onto activations by hooks; the same gates, budget and optimiser."""
    _, gated, budget, _ = build(sparsity)
    teacher, student = stock_model().eval().requires_grad_(False), stock_model().train()
    student.load_state_dict(teacher.state_dict())
    values: dict[str, Tensor] = {}
    for i, block in enumerate(student.feature_extractor.conv_layers):
        block.register_forward_hook(lambda m, a, out, n=f"frontend.convs.{i}": out * values[n][:, None])
    for i, layer in enumerate(student.encoder.layers):
        layer.attention.out_proj.register_forward_pre_hook(
            lambda m, a, n=f"layers.{i}.head": (a[0] * values[n].repeat_interleave(64),)
        )
        layer.feed_forward.output_dense.register_forward_pre_hook(lambda m, a, n=f"layers.{i}.ffn": (a[0] * values[n],))
    plain = hidden_states(student)

    def ask(wave: Tensor) -> list[Tensor]:
        values.update(gated.gates.sample())
        return plain(wave)

    return first_stage(wave, ask, hidden_states(teacher), student.parameters(), gated.gates, budget, sparsity)


def worker(name: str, steps: int, threads: int, sparsity: float) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    turns.timed(WORKERS[name](torch.randn(ROWS, int(SECONDS * 16_000)), sparsity), steps)


WORKERS = {
    "ours": ours,  # gates near the target, as through most of the first stage
    "transformers": peer,
    "live": partial(ours, live=True),
    "start": lambda wave, sparsity: ours(wave, 0.0),  # all gates open, as at the beginning
    "distill": distil,
    "distill-stock": partial(distil, stock=True),
}
STEPS = {
    "start": 2_500,
    "ours": 2_500 + 45_000,
    "distill": 25_000,
}  # of DPHuBERT: half of the ramp counts as open, half as closed


def schedule(seconds: dict[str, float], gates: str) -> float:
    """Of all of DPHuBERT's updates at this batch, when most of them cost as `gates` does."""
    return STEPS["start"] * seconds["start"] + STEPS["ours"] * seconds[gates] + STEPS["distill"] * seconds["distill"]


def chosen(threads: int) -> dict[str, str]:
    """The kernels that the workers found faster."""
    from sottovoce.encoder import kernels

    torch.set_num_threads(threads)
    return kernels.choices()


def main() -> None:
    parser = turns.options(__doc__, WORKERS, steps=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sparsity", type=float, default=0.75)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.steps, options.threads, options.sparsity)
        return
    found = turns.in_turns(WORKERS, options.rounds)
    from sottovoce.core import ledger
    from sottovoce.timing.machine import header

    took = {name: row["median"] for name, row in found.items()}
    whole = {
        "stock": 50_000 * took["transformers"] + STEPS["distill"] * took["distill-stock"],
        "closed units skipped": schedule(took, "ours"),
        "closed units cut live": schedule(took, "live"),
    }
    record = {
        "name": "train-step",
        **header("train-step", options.threads),
        "threads": options.threads,
        "kernels": chosen(options.threads),
        "shape": "HuBERT Base, random weights",
        "batch": {"rows": ROWS, "seconds": SECONDS},
        "sparsity": options.sparsity,
        "results": found,
        "speedup": round(took["transformers"] / took["ours"], 2),
        "speedup_live": round(took["transformers"] / took["live"], 2),
        "schedule": {name: {"share": round(cost / whole["stock"], 3)} for name, cost in whole.items()},
    }
    ledger.write(options.out, record)
    print(
        f"{record['speedup']}x faster than stock transformers, {record['speedup_live']}x with live cutting; {record['schedule']}"
    )


if __name__ == "__main__":
    main()
