"""Merging students that were distilled apart from one start: the alternative to several teachers in one run.

Task arithmetic: Ilharco et al. 2023, arXiv 2212.04089. TIES: Yadav et al. 2023, arXiv 2306.01708. For speech models: Ritter-Gutierrez
et al. 2025, arXiv 2505.13270 and 2506.11403.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sottovoce.core.config import plain
from sottovoce.encoder import Encoder
from sottovoce.hub.card import Card
from sottovoce.hub.pretrained import Pretrained, load_pretrained, refuse_overlap
from sottovoce.hub.student import save_student
from sottovoce.train.recipe import Recipe, build_recipe, present_form
from sottovoce.train.run import RECIPE, read_recipe
from sottovoce.train.sequence import first_student

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class MergeConfig:
    """rule: of `RULES`. weights: one per student; empty: equal ones that sum to 1. keep: with ties, the share of each student's changes
    that stays (0.3 in arXiv 2505.13270). scale: with ties, what the merged change is multiplied by."""

    rule: str = "average"
    weights: tuple[float, ...] = ()
    keep: float = 0.3
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"there is no rule '{self.rule}' to merge by; use {', '.join(RULES)}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is a share above 0 and at most 1, not {self.keep:g}")
        if self.rule == "ties" and self.weights:
            raise ValueError("ties takes no weights; use --keep and --scale")


def average(start: State, students: Sequence[State], config: MergeConfig) -> dict[str, Tensor]:
    """The weighted mean of the students; weights are divided by their sum."""
    shares = [weight / sum(config.weights) for weight in config.weights]
    return {name: _sum([share * state[name] for share, state in zip(shares, students, strict=True)]) for name in start}


def arithmetic(start: State, students: Sequence[State], config: MergeConfig) -> dict[str, Tensor]:
    """Task arithmetic: ``start + sum_i weight_i (student_i - start)``. Unlike those of the average, the weights need not sum to 1."""
    pairs = list(zip(config.weights, students, strict=True))
    return {name: x + _sum([weight * (state[name] - x) for weight, state in pairs]) for name, x in start.items()}


def ties(start: State, students: Sequence[State], config: MergeConfig) -> dict[str, Tensor]:
    """TIES: the largest `keep` of each student's changes stay; of each number, the changes of the sign with the larger sum are averaged."""
    sizes = [x.numel() for x in start.values()]
    base = torch.cat([x.flatten() for x in start.values()])
    changes = torch.stack([torch.cat([state[name].flatten() for name in start]) - base for state in students])
    for change in changes:
        count = max(1, round(config.keep * len(change)))
        change[change.abs() < change.abs().kthvalue(len(change) - count + 1).values] = 0
    agree = changes.sign() == changes.sum(0).sign()
    merged = (changes * agree).sum(0) / (agree & (changes != 0)).sum(0).clamp(min=1)
    parts = (base + config.scale * merged).split(sizes)
    return {name: part.view_as(x) for (name, x), part in zip(start.items(), parts, strict=True)}


RULES: dict[str, Callable[[State, Sequence[State], MergeConfig], dict[str, Tensor]]] = {
    "average": average,
    "arithmetic": arithmetic,
    "ties": ties,
}


def merge(students: Sequence[str | Path], out: str | Path, config: MergeConfig | None = None, origin: str | Path = "") -> None:
    """Merges students of one shape that started from the same weights, and writes the result to `out`.

    The start is built again from the recipes in the students' folders; origin: a model that has those weights, where that cannot be done.
    The result has no projections into a teacher's space, because each student's lead into its own teacher's. ValueError for fewer than two
    students, for different shapes, and for students that did not start from the same weights.
    """
    config = config or MergeConfig()
    if len(students) < 2:
        raise ValueError("merging needs at least two students; name them as sottovoce merge A B --out FOLDER")
    weights = config.weights or (1 / len(students),) * len(students)
    if len(weights) != len(students) or sum(weights) <= 0:
        raise ValueError(f"weights must be {len(students)} numbers with a sum above 0, one per student")
    refuse_overlap(Path(out), [str(source) for source in students])
    models = [load_pretrained(source) for source in students]
    first = models[0]
    for model in models[1:]:
        if model.shape != first.shape or model.normalize != first.normalize:
            raise ValueError(
                f"{model.source} and {first.source} have different shapes or inputs; merge students of one recipe that does not prune"
            )
    start = _common_start(students, first, origin)
    assert isinstance(first.encoder, Encoder)
    filled = MergeConfig(config.rule, () if config.rule == "ties" else tuple(weights), config.keep, config.scale)
    with torch.no_grad():
        merged = RULES[config.rule](start, [model.encoder.state_dict() for model in models], filled)
    first.encoder.load_state_dict(merged)
    names = [Path(source).name for source in students]
    teachers = list(dict.fromkeys(str(model.hf_config.get("teacher") or model.source) for model in models))
    save_student(
        out,
        first.encoder,
        normalize=first.normalize,
        preprocessor=first.preprocessor,
        teacher=" and ".join(teachers),
        card=Card(title=f"Merged from {' and '.join(names)}", recipe=f"`sottovoce merge {' '.join(names)}`: {plain(filled)}"),
    )


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def _common_start(students: Sequence[str | Path], first: Pretrained, origin: str | Path) -> State:
    """The weights that all students started from. ValueError if they did not start from the same, or if these are of another shape."""
    if origin:
        model = load_pretrained(origin)
        if model.shape != first.shape:
            raise ValueError(f"{origin} has another shape than the students, so they did not start from it")
        return model.encoder.state_dict()
    starts = [_start(Path(source)) for source in students]
    for source, state in zip(students, starts, strict=True):
        if state.keys() != starts[0].keys() or any(not torch.equal(x, starts[0][name]) for name, x in state.items()):
            raise ValueError(
                f"{source} and {students[0]} did not start from the same weights; set the same student.teacher and seed"
            )
    expected = first.encoder.state_dict()
    if any(name not in starts[0] or starts[0][name].shape != x.shape for name, x in expected.items()):
        raise ValueError("the students have another shape than their start; merge students of a recipe that does not prune")
    return {name: starts[0][name] for name in expected}


def _start(folder: Path) -> State:
    """The weights of a student before its training, built again from its recipe."""
    path = folder / "run" / RECIPE
    if not path.is_file():
        raise ValueError(f"{folder} has no {path.relative_to(folder)}, so its start is not known; give it as --origin")
    had = read_recipe(path)
    recipe = build_recipe(present_form({key: value for key, value in had.items() if key in Recipe.__dataclass_fields__}))
    try:
        teacher = load_pretrained(recipe.teacher) if recipe.teacher else None
    except ValueError as problem:
        raise ValueError(f"the start of {folder} cannot be built ({problem}); give it as --origin") from None
    torch.manual_seed(recipe.seed)
    encoder = first_student(recipe, teacher)
    return encoder.state_dict()
