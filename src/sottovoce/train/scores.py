"""Heads that score recordings: those of a student that the run starts from, and those that go into the student's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from sottovoce.encoder.score_head import ScoreHead, ScoreHeads, ScoreShape
from sottovoce.train.learner import Learner
from sottovoce.train.run import Run
from sottovoce.train.work import Work


def inherited(run: Run) -> Mapping[str, Tensor]:
    """The tensors of objectives that a copy of a student with score heads starts with: those of the heads with the same labels."""
    origin, recipe = run.teachers.origin, run.recipe
    if origin is None or origin.scores is None or not recipe.student.cls.is_teacher:
        return {}
    tensors: dict[str, Tensor] = {}
    for label, head in origin.scores.heads():
        module = recipe.objectives[label].cls.kept if label in recipe.objectives else ""
        if module:
            tensors |= {f"objectives.{label}.{module}.{name}": tensor.clone() for name, tensor in head.state_dict().items()}
    return tensors


def kept_heads(run: Run, work: Work) -> ScoreHeads | None:
    """The trained heads of objectives that keep one, for use: with the names of their teachers' scores and the longest recordings of the
    run as their window. ``None`` without any."""
    recipe = run.recipe
    if not any(choice.cls.kept for choice in recipe.objectives.values()):
        return None
    learner = Learner(work.encoder, recipe.objectives, run.teachers, recipe.masking, host=recipe.host)
    learner.recall(work.objectives)
    shapes: dict[str, ScoreShape] = {}
    states: dict[str, Tensor] = {}
    for label, choice in recipe.objectives.items():
        if not choice.cls.kept:
            continue
        head = learner.objectives[label].get_submodule(choice.cls.kept)
        assert isinstance(head, ScoreHead)
        names = run.teachers[learner.teacher_of[label]].scores
        own = head.shape if len(names) != len(head.shape.names) else replace(head.shape, names=names)
        shapes[label] = replace(own, window=recipe.data.max_seconds)
        states |= {f"{label}.{name}": tensor for name, tensor in head.state_dict().items()}
    heads = ScoreHeads(work.encoder.config.dim, shapes)
    heads.load_state_dict(states)
    return heads.eval().requires_grad_(False)
