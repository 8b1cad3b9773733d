"""CoLLD's loss against its definition written out, and what each option changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.types import Batch, Features, Loss
from sottovoce.objectives import EncoderShape, Needs, contrast
from sottovoce.objectives.colld import Colld

ROWS, FRAMES, DIM = 2, 9, 8


def features(layers: int, mask: Tensor | None = None, dim: int = DIM) -> Features:
    hidden = [torch.randn(ROWS, FRAMES, dim) for _ in range(layers + 1)]
    return Features(hidden, None, hidden[0], hidden[-1], [torch.randn(ROWS, FRAMES, dim) for _ in range(layers)], mask)


def a_mask() -> Tensor:
    mask = torch.zeros(ROWS, FRAMES, dtype=torch.bool)
    mask[0, 1:5] = mask[1, 3:9] = True
    return mask


def run(student: Features, teacher: Features, valid: Tensor | None = None, **config: Any) -> tuple[Colld, Loss]:
    torch.manual_seed(1)
    objective = Colld(
        Colld.Config(**config), EncoderShape(DIM, len(student.hidden) - 1), EncoderShape(teacher.last.shape[-1], len(teacher.ffn))
    ).eval()
    valid = torch.ones(ROWS, FRAMES, dtype=torch.bool) if valid is None else valid
    return objective, objective(student, teacher, objective.frames(valid, student.mask), Batch(torch.zeros(ROWS, 1)))


def counted(objective: Colld, student: Features) -> int:
    """What a batch in which all frames are valid is divided by."""
    batch = Batch(torch.zeros(ROWS, 1))
    return int(objective.denominator(objective.frames(torch.ones(ROWS, FRAMES, dtype=torch.bool), student.mask), batch))


def by_hand(ours: Tensor, target: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """InfoNCE, frame by frame, against all other masked frames of the row."""
    losses = []
    for row in range(ROWS):
        at = mask[row].nonzero().flatten().tolist()
        for t in at:
            cosines = torch.stack([F.cosine_similarity(ours[row, t], target[row, s], dim=0) for s in at]) / temperature
            losses.append(-torch.log_softmax(cosines, 0)[at.index(t)])
    return torch.stack(losses).sum()


def test_is_the_definition_at_masked_frames_of_every_layer() -> None:
    student, teacher = features(2, a_mask()), features(6, dim=10)
    objective, loss = run(student, teacher, distractors=0)
    assert objective.pairs == [(1, 3), (2, 6)]
    layers = [
        by_hand(head(student.hidden[mine]), teacher.ffn[theirs - 1], a_mask(), 0.1)
        for head, (mine, theirs) in zip(objective.heads, objective.pairs, strict=True)
    ]
    torch.testing.assert_close(loss.total, torch.stack(layers).mean())
    assert counted(objective, student) == 10


def test_frames_that_do_not_count_are_no_distractors_either() -> None:
    student, teacher = features(2, a_mask()), features(2)
    valid = torch.ones(ROWS, FRAMES, dtype=torch.bool)
    valid[1, 6:] = False
    before = run(student, teacher, valid, distractors=0)[1]
    for layer in [*student.hidden, *teacher.hidden, *teacher.ffn]:
        layer[1, 6:] = 7.0
        layer[0, 5:] = -7.0
    after = run(student, teacher, valid, distractors=0)[1]
    torch.testing.assert_close(before.total, after.total)


def test_the_block_output_can_be_the_target() -> None:
    student, teacher = features(2, a_mask()), features(2)
    objective, loss = run(student, teacher, target="block", layers=1, distractors=0)
    assert objective.pairs == [(2, 2)]
    assert objective.needs() == Needs(masked_input=True, layers=(2,))
    torch.testing.assert_close(loss.total, by_hand(objective.heads[0](student.hidden[2]), teacher.hidden[2], a_mask(), 0.1))


def test_the_controls_are_one_field_away() -> None:
    """L1 and cosine instead of contrast, at masked frames; and without a mask, at all frames."""
    student, teacher = features(1, a_mask()), features(1)
    objective, loss = run(student, teacher, hidden="distance")
    ours, target = objective.heads[0](student.hidden[1])[a_mask()], teacher.ffn[0][a_mask()]
    expected = (ours - target).abs().mean(-1).sum() - F.cosine_similarity(ours, target, dim=-1).sum()
    torch.testing.assert_close(loss.total, expected)
    clean = features(1)
    objective, loss = run(clean, teacher, hidden="distance", l1=0, cosine=0, mse=1, mask=False)
    assert objective.needs() == Needs(layers=(), taps=(1,))
    torch.testing.assert_close(loss.total, (objective.heads[0](clean.hidden[1]) - teacher.ffn[0]).square().mean(-1).sum())


def test_visible_frames_can_have_a_loss_of_their_own() -> None:
    student, teacher, mask = features(1, a_mask()), features(1), a_mask()
    hidden = run(student, teacher, distractors=0)[1]
    objective, both = run(student, teacher, distractors=0, visible="distance", visible_weight=0.5)
    ours, target = objective.heads[0](student.hidden[1])[~mask], teacher.ffn[0][~mask]
    extra = (ours - target).abs().mean(-1).sum() - F.cosine_similarity(ours, target, dim=-1).sum()
    torch.testing.assert_close(both.total, hidden.total + 0.5 * extra)
    assert counted(objective, student) == ROWS * FRAMES
    assert {"contrast", "accuracy", "visible_l1", "visible_cosine"} == set(both.logs)


def test_distractors_come_from_the_row_and_do_not_grow_with_its_length() -> None:
    there = torch.arange(400) < torch.tensor([[400], [7]])
    for random in (True, False):
        chosen = contrast.distractors(there, 100, random)
        assert chosen.shape == (2, 100)
        assert int(chosen[1].max()) < 7
        assert int(chosen[0].max()) > 300
    ours = torch.randn(2, 400, 4)
    loss, _ = contrast.info_nce(ours, torch.randn(2, 400, 4), there, contrast.distractors(there, 100, True), 0.1)
    assert loss.shape == (2, 400)
    assert torch.isfinite(loss[there]).all()


def test_a_frame_alone_has_nothing_to_be_told_from() -> None:
    there = torch.tensor([[True]])
    loss, right = contrast.info_nce(torch.randn(1, 1, 4), torch.randn(1, 1, 4), there, contrast.distractors(there, 5, True), 0.1)
    assert float(loss) == 0
    assert bool(right)


def test_a_row_without_masked_frames_adds_nothing() -> None:
    mask = a_mask()
    mask[0] = False
    student, teacher = features(1, mask), features(1)
    objective, loss = run(student, teacher)
    assert torch.isfinite(loss.total)
    assert counted(objective, student) == 6


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hidden": "none"}, "there is no loss"),
        ({"mask": False, "hidden": "none", "visible": "distance"}, "without a mask"),
        ({"masked_teacher": True}, "visible frames"),
        ({"temperature": 0.0}, "temperature"),
        ({"layers": 3}, "the student has 2"),
        ({"layer_weights": (1.0,)}, "one per compared layer"),
    ],
)
def test_what_cannot_be_is_said(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Colld(Colld.Config(**config), EncoderShape(8, 2), EncoderShape(8, 2))
