"""Objectives of single methods: SKILL, STaR, DiceHuBERT, RobustDistiller, correlation of features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.types import Batch, Features
from sottovoce.data.augment import Augment
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.cluster_distribution import ClusterDistribution
from sottovoce.objectives.denoising import Denoising
from sottovoce.objectives.feature_correlation import FeatureCorrelation, correlation
from sottovoce.objectives.layer_groups import LayerGroups, average_linkage
from sottovoce.objectives.temporal_relation import TemporalRelation

NOTHING = Batch(torch.zeros(2, 1))


def features(hidden: list[Tensor], lengths: Tensor | None = None) -> Features:
    return Features(hidden, lengths, hidden[0], hidden[-1])


def random_features(layers: int, frames: int = 7, dim: int = 8) -> Features:
    return features([torch.randn(2, frames, dim) for _ in range(layers + 1)])


def test_average_linkage_joins_what_is_alike() -> None:
    likeness = torch.eye(5)
    for i, j, value in [(0, 1, 0.9), (1, 2, 0.5), (0, 2, 0.5), (3, 4, 0.8), (2, 3, 0.6)]:
        likeness[i, j] = likeness[j, i] = value
    assert average_linkage(likeness, 2) == [[0, 1, 2], [3, 4]]  # 2 is nearest to 3, but not to 3 and 4
    assert average_linkage(likeness, 3) == [[0, 1], [2], [3, 4]]


def test_groups_of_alike_layers_are_found_and_kept() -> None:
    """Layers 1, 2 and 4 are rotations of one another, 3 is another signal."""
    base, other = torch.randn(2, 300, 8), torch.randn(2, 300, 8)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    teacher = features([torch.randn(2, 300, 8), base, 2 * base @ turn, other, base @ turn.T])
    objective = LayerGroups(LayerGroups.Config(groups=2), EncoderShape(6, 2), EncoderShape(8, 4))
    assert objective.group.tolist() == [0, 0, 1, 1]
    objective.fit([(NOTHING, teacher)])
    assert objective.group.tolist() == [1, 1, 0, 1]
    assert objective.pairs() == [("0", 0, [0]), ("groups", 1, [3]), ("groups", 2, [1, 2, 4])]
    maps, layers = objective.projections()
    assert layers == {"0": [0], "groups": [1, 2]}
    assert set(maps) == set(layers)
    again = LayerGroups(LayerGroups.Config(groups=2), EncoderShape(6, 2), EncoderShape(8, 4))
    again.load_state_dict(objective.state_dict())  # as a resumed run does, without fit
    assert again.pairs() == objective.pairs()


def test_a_group_is_learned_by_its_mean() -> None:
    student, teacher = random_features(4), random_features(4)
    config = LayerGroups.Config(groups=2, front=False, l1=0, cosine=0, mse=1)
    loss = LayerGroups(config, EncoderShape(8, 4), EncoderShape(8, 4))(
        student, teacher, torch.ones(2, 7, dtype=torch.bool), NOTHING
    )
    means = [(teacher.hidden[i] + teacher.hidden[i + 1]) / 2 for i in (1, 3)]
    expected = sum((student.hidden[layer] - mean).square().mean(-1).sum() for layer, mean in zip((2, 4), means, strict=True)) / 2
    torch.testing.assert_close(loss.total, expected)
    with pytest.raises(ValueError, match="5 groups of the teacher's 4 layers"):
        LayerGroups(LayerGroups.Config(groups=5), EncoderShape(8, 4), EncoderShape(8, 4))


def test_relations_of_frames_do_not_depend_on_the_basis() -> None:
    teacher = random_features(3, dim=6)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    student = features([x @ turn for x in teacher.hidden])
    objective = TemporalRelation(TemporalRelation.Config(), EncoderShape(6, 3), EncoderShape(6, 3))
    loss = objective(student, teacher, torch.ones(2, 7, dtype=torch.bool), NOTHING)
    assert float(loss.total) < 1e-8


def test_relations_are_means_over_pairs_of_valid_frames() -> None:
    student, teacher = random_features(1, dim=4), random_features(1, dim=6)
    objective = TemporalRelation(TemporalRelation.Config(intra=0.5, front=False), EncoderShape(4, 1), EncoderShape(6, 1))
    frames = torch.ones(2, 7, dtype=torch.bool)
    frames[1, 5:] = False
    loss = objective(student, teacher, frames, NOTHING)
    expected = torch.zeros(())
    for row, end in ((0, 7), (1, 5)):
        (s0, s1), (t0, t1) = ([layer[row, :end] for layer in each.hidden] for each in (student, teacher))
        expected = expected + (s1 @ s1.T / 4 - t1 @ t1.T / 6).square().mean()
        expected = expected + 0.5 * (s0 @ s1.T / 4 - t0 @ t1.T / 6).square().mean()
    torch.testing.assert_close(loss.total, expected)
    assert int(objective.denominator(frames, NOTHING)) == 2
    with pytest.raises(ValueError, match="one of them above 0"):
        TemporalRelation.Config(layerwise=0, intra=0)


def test_attention_maps_are_compared_over_valid_frames() -> None:
    ours, theirs = (
        [torch.randn(2, 7, 7).softmax(-1) for _ in range(2 * k)] for k in (1, 2)
    )  # the student has 2 layers, the teacher 4
    student, teacher = (replace(random_features(len(maps)), maps=maps) for maps in (ours, theirs))
    objective = TemporalRelation(
        TemporalRelation.Config(layerwise=0, intra=0, attention=3.0), EncoderShape(8, 2), EncoderShape(8, 4)
    )
    assert objective.needs().maps
    frames = torch.ones(2, 7, dtype=torch.bool)
    frames[1, 5:] = False
    expected = torch.zeros(())
    for i, j in ((0, 1), (1, 3)):
        for row, end in ((0, 7), (1, 5)):
            far = ours[i][row, :end, :end] - theirs[j][row, :end, :end]
            expected = expected + 3 * far.square().sum(-1).mean() / 2
    torch.testing.assert_close(objective(student, teacher, frames, NOTHING).total, expected)
    with pytest.raises(ValueError, match="frame rate"):
        TemporalRelation(TemporalRelation.Config(attention=1.0), EncoderShape(8, 2), EncoderShape(16, 4, join=2))


@pytest.mark.parametrize("similarity", ["cosine", "distance"])
def test_the_student_learns_the_distribution_over_clusters(similarity: str) -> None:
    config = ClusterDistribution.Config(clusters=4, similarity=similarity, temperature=0.5, student="linear", fit_rounds=5)
    objective = ClusterDistribution(config, EncoderShape(8, 3), EncoderShape(6, 3))
    student, teacher = random_features(3), random_features(3, dim=6)
    objective.fit([(NOTHING, teacher)])
    x = (teacher.last - objective.mean) / objective.deviation
    logits = -torch.cdist(x, objective.centroids.expand(2, -1, -1)).square()
    if similarity == "cosine":
        logits = F.cosine_similarity(x[:, :, None], objective.centroids, dim=-1)
    p, q = (logits / 0.5).softmax(-1), (objective.project(student.last) / 0.1).softmax(-1)
    frames = torch.rand(2, 7) > 0.4
    loss = objective(student, teacher, frames, NOTHING)
    torch.testing.assert_close(loss.total, ((p * (p / q).log()).sum(-1) * frames).sum(), rtol=1e-4, atol=1e-4)


def test_hard_targets_are_the_likeliest_clusters() -> None:
    config = ClusterDistribution.Config(clusters=4, hard=True, fit_rounds=5)
    objective = ClusterDistribution(config, EncoderShape(8, 3), EncoderShape(6, 3))
    student, teacher = random_features(3), random_features(3, dim=6)
    objective.fit([(NOTHING, teacher)])
    loss = objective(student, teacher, torch.ones(2, 7, dtype=torch.bool), NOTHING)
    y = F.cosine_similarity(objective.project(student.last)[:, :, None], objective.centroids, dim=-1) / 0.1
    labels = objective.target(teacher.last).argmax(-1)
    torch.testing.assert_close(loss.total, F.cross_entropy(y.flatten(0, 1), labels.flatten(), reduction="sum"))
    assert not objective.needs().masked_input
    masked = ClusterDistribution(ClusterDistribution.Config(mask=True), EncoderShape(8, 3), EncoderShape(6, 3))
    assert masked.needs().masked_input
    with pytest.raises(ValueError, match="from 1 on"):
        ClusterDistribution(ClusterDistribution.Config(layer="0"), EncoderShape(8, 3), EncoderShape(6, 3))


def test_denoising_wants_the_clean_spectrum_of_the_noisy_one() -> None:
    objective = Denoising(Denoising.Config(hidden=4, depth=1, dropout=0.0), EncoderShape(8, 2, 320), EncoderShape(8, 2)).eval()
    wave = torch.randn(2, 16_000)
    student, frames = random_features(2, frames=49), torch.ones(2, 49, dtype=torch.bool)
    with torch.no_grad():
        objective.mask[1].weight.zero_()
        objective.mask[1].bias.zero_()  # the mask is 1/2 everywhere
        exact = objective(student, None, frames, Batch(wave, heard=2 * wave))
        same = objective(student, None, frames, Batch(wave))
    assert float(exact.total) < 1e-2
    expected = 0.5 * objective.magnitudes(wave, 49).mean((-2, -1)).sum()
    torch.testing.assert_close(same.total, expected)


def test_denoising_does_not_see_padding() -> None:
    objective = Denoising(Denoising.Config(hidden=4, dropout=0.0), EncoderShape(8, 2, 320), EncoderShape(8, 2)).eval()
    x, wave = torch.randn(1, 49, 8), torch.randn(1, 16_000)
    short = features([x[:, :20]] * 3, torch.tensor([20]))
    padded = features([x] * 3, torch.tensor([20]))
    frames = torch.arange(49)[None] < 20
    whole = objective(padded, None, frames, Batch(wave)).total
    torch.testing.assert_close(whole, objective(short, None, frames[:, :20], Batch(wave)).total)


def test_rooms_keep_the_level_and_draw_nothing_where_there_are_none() -> None:
    wave = torch.randn(3, 8_000)
    augment = Augment(share=1.0, equalizer_db=0.0, rooms=1.0, voices=0.0)
    torch.manual_seed(1)
    heard = augment(wave, None)
    torch.testing.assert_close(heard.square().sum(1), wave.square().sum(1))
    assert not torch.allclose(heard, wave, atol=1e-2)
    torch.manual_seed(2)
    Augment(share=1.0, equalizer_db=0.0, voices=0.0)(wave, None)
    after = torch.rand(1)
    torch.manual_seed(2)
    torch.rand(3), torch.randint(2**31, ())  # all that noise draws
    assert torch.equal(after, torch.rand(1))
    with pytest.raises(ValueError, match="rt60"):
        Augment(rt60=(0.5, 0.1))


def test_correlation_is_over_pieces_of_counted_frames() -> None:
    config = FeatureCorrelation.Config(layers=("1",), pool=2, cross=0.3, own=0.2, off_diagonal=7, diagonal=5, cosine=0)
    objective = FeatureCorrelation(config, EncoderShape(8, 1), EncoderShape(6, 1))
    student = features([torch.randn(3, 6, 8) for _ in range(2)])
    teacher = features([torch.randn(3, 6, 6) for _ in range(2)])
    frames = torch.ones(3, 6, dtype=torch.bool)
    frames[2, 3:] = False  # its second piece has one frame, its third none
    loss = objective(student, teacher, frames, NOTHING)
    pieces = []
    for x in (objective.heads[0](student.last), teacher.last):
        rows = [x[:2].unflatten(1, (3, 2)).mean(2).flatten(0, 1), x[2, :2].mean(0)[None], x[2, 2][None]]
        pieces.append(torch.cat(rows))
    ours, theirs = pieces
    c = torch.corrcoef(torch.cat([ours, theirs], dim=1).T)
    cross, own = c[:6, 6:], c[:6, :6]
    beside = ~torch.eye(6, dtype=torch.bool)
    expected = (
        (cross.diagonal() - 1).square().sum() / 5 + 0.3 * cross[beside].square().sum() / 7 + 0.2 * own[beside].square().sum() / 7
    )
    torch.testing.assert_close(loss.total, 3 * expected, rtol=1e-4, atol=1e-4)
    assert objective.needs().compares_rows


def test_one_piece_has_no_correlation_but_a_gradient() -> None:
    x = torch.randn(1, 4, requires_grad=True)
    c = correlation(x, torch.randn(1, 4))
    assert not c.any()
    c.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
