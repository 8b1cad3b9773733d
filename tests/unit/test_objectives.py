"""The objectives' arithmetic, and DPHuBERT's loss against the reference code's own numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Batch, Features, Loss
from sottovoce.encoder import Encoder
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.base import layer_index
from sottovoce.objectives.layer_to_layer import LayerToLayer
from sottovoce.objectives.masked_prediction import MaskedPrediction
from tests.conftest import tiny_shape


def features(layers: int, rows: int = 2, frames: int = 7, dim: int = 8) -> Features:
    hidden = [torch.randn(rows, frames, dim) for _ in range(layers + 1)]
    return Features(hidden, None, hidden[0], hidden[-1])


def test_layer_to_layer_is_the_papers_mean_when_nothing_is_padded() -> None:
    student, teacher = features(6), features(6)
    objective = LayerToLayer(LayerToLayer.Config(), EncoderShape(8, 6), EncoderShape(8, 6))
    loss = objective(student, teacher, torch.ones(2, 7, dtype=torch.bool), Batch(torch.zeros(2, 1)))
    ours = torch.stack([student.hidden[i] for i in (0, 2, 4, 6)], 1)
    theirs = torch.stack([teacher.hidden[i] for i in (0, 2, 4, 6)], 1)
    expected = (ours - theirs).abs().mean() - F.cosine_similarity(ours, theirs, dim=-1).mean()
    torch.testing.assert_close(loss.total / 14, expected)


def test_frames_that_do_not_count_change_nothing() -> None:
    student, teacher = features(3), features(3)
    objective = LayerToLayer(LayerToLayer.Config(layers=(("0",), ("3",))), EncoderShape(8, 3), EncoderShape(8, 3))
    frames = torch.ones(2, 7, dtype=torch.bool)
    frames[1, 4:] = False
    before = objective(student, teacher, frames, Batch(torch.zeros(2, 1)))
    student.hidden[3][1, 4:] = 99.0
    after = objective(student, teacher, frames, Batch(torch.zeros(2, 1)))
    assert torch.equal(before.total, after.total)
    assert int(objective.denominator(frames, Batch(torch.zeros(2, 1)))) == 11


def test_layers_may_weigh_more_than_others() -> None:
    """Weights are shares of an average: of each layer of the group, whatever they sum to."""
    torch.manual_seed(0)
    student, teacher = [torch.randn(1, 5, 8) for _ in range(4)], [torch.randn(1, 5, 8) for _ in range(4)]
    ours, theirs = (Features(x, None, x[0], x[-1]) for x in (student, teacher))
    frames = torch.ones(1, 5, dtype=torch.bool)
    config = LayerToLayer.Config(layers=(("1", "2"), ("3",)), weights=(0.1, 1.0), l1=0, cosine=0, mse=1)
    total = LayerToLayer(config, EncoderShape(8, 3), EncoderShape(8, 3))(ours, theirs, frames, Batch(torch.zeros(1, 1))).total
    squares = [(x - y).square().mean(-1).sum() for x, y in zip(student, teacher, strict=True)]
    torch.testing.assert_close(total, (0.1 * squares[1] + 0.1 * squares[2] + squares[3]) / 1.2)
    with pytest.raises(ValueError, match="2 numbers above 0"):
        LayerToLayer.Config(layers=(("1",), ("3",)), weights=(1.0,))


def test_projections_start_as_identity_and_groups_share_one() -> None:
    objective = LayerToLayer(LayerToLayer.Config(), EncoderShape(8, 12), EncoderShape(8, 12))
    maps, layers = objective.projections()
    assert layers == {"0": [0], "4-8-12": [4, 8, 12]}
    assert torch.equal(maps["4-8-12"].weight, torch.eye(8))
    assert not maps["0"].bias.any()


def test_layers_are_numbers_or_shares_of_the_depth() -> None:
    assert [layer_index(spec, 24) for spec in ("0", "1/3", "2/3", "1/1", "5")] == [0, 8, 16, 24, 5]
    with pytest.raises(ValueError, match=r"layers 0 .* to 12"):
        layer_index("13", 12)
    with pytest.raises(ValueError, match="is not a layer"):
        layer_index("last", 12)


def test_masked_prediction_learns_clusters_that_separate_sounds() -> None:
    objective = MaskedPrediction(MaskedPrediction.Config(clusters=4, fit_rounds=10), EncoderShape(8, 2), EncoderShape(8, 2))
    t = torch.arange(16_000) / 16_000
    wave = torch.stack([torch.sin(2 * torch.pi * hertz * t) for hertz in (200, 800, 2000, 5000)]) + 0.01 * torch.randn(4, 16_000)
    objective.fit([(Batch(wave), None)])
    labels = objective.labels(objective.sources(None, Batch(wave)))
    likeliest = labels.mode(1).values
    assert len(set(likeliest.tolist())) == 4
    assert ((labels == likeliest[:, None]).float().mean(1) > 0.9).all()


def test_labels_stand_on_the_encoders_frames() -> None:
    encoder = Encoder(tiny_shape())
    for samples in (400, 16_000, 33_333):
        wave = torch.randn(1, samples)
        objective = MaskedPrediction(MaskedPrediction.Config(), EncoderShape(32, 3), EncoderShape(32, 3))
        assert objective.sources(None, Batch(wave)).shape[1] == encoder(wave).last.shape[1]


def test_too_little_audio_for_the_clusters_is_said() -> None:
    objective = MaskedPrediction(MaskedPrediction.Config(clusters=500), EncoderShape(8, 2), EncoderShape(8, 2))
    with pytest.raises(ValueError, match="too few for 500 clusters"):
        objective.fit([(Batch(torch.randn(1, 16_000)), None)])


def test_utterance_contrast_tells_utterances_apart() -> None:
    """Rows with a common offset are distinguished from each other and from the queue; rows of noise are not."""
    torch.manual_seed(0)
    cls = OBJECTIVES.get("utterance_contrast")
    objective = cls(cls.Config(layer="1", queue=16), EncoderShape(32, 2), EncoderShape(32, 2))
    frames = torch.ones(4, 20, dtype=torch.bool)

    def loss(colour: float) -> Loss:
        hidden = [torch.randn(4, 20, 32) + colour * torch.randn(4, 1, 32) for _ in range(3)]
        features = Features(hidden, None, hidden[0], hidden[-1])
        return objective(features, None, frames, Batch(torch.zeros(4, 6480)))

    for _ in range(3):
        loss(0.0)
    assert int(objective.filled) == 16
    assert float(loss(5.0).logs["contrast_accuracy"]) / 4 > 0.8
    assert float(loss(0.0).logs["contrast_accuracy"]) / 4 < 0.5


def test_a_head_for_each_teacher_layer_reads_the_last_student_layer() -> None:
    """DistilHuBERT: mean over layers of L1 - log sigmoid(cos), whatever the depths and widths."""
    cls = OBJECTIVES.get("prediction_heads")
    student, teacher = features(2), features(12, dim=6)
    objective = cls(cls.Config(), EncoderShape(8, 2), EncoderShape(6, 12))
    loss = objective(student, teacher, torch.ones(2, 7, dtype=torch.bool), Batch(torch.zeros(2, 1)))
    each = []
    for index, head in zip((4, 8, 12), objective.heads, strict=True):
        ours, target = head(student.last), teacher.hidden[index]
        each.append((ours - target).abs().mean() - F.logsigmoid(F.cosine_similarity(ours, target, dim=-1)).mean())
    torch.testing.assert_close(loss.total / 14, torch.stack(each).mean())
    assert set(loss.logs) == {"layer_4", "layer_8", "layer_12"}


def test_a_distance_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="l1, cosine and mse"):
        LayerToLayer.Config(l1=0, cosine=0)


def test_masked_reconstruction_wants_the_spectrum_without_its_level() -> None:
    cls = OBJECTIVES.get("masked_reconstruction")
    objective = cls(cls.Config(layer="1"), EncoderShape(8, 2), EncoderShape(8, 2))
    wave = torch.randn(2, 16_000)
    objective.fit([(Batch(wave), None)])
    loud, quiet = objective.spectra(Batch(wave))[0], objective.spectra(Batch(0.1 * wave))[0]
    torch.testing.assert_close(loud, quiet, atol=1e-3, rtol=0)
    padded = torch.cat([wave, torch.zeros(2, 8000)], 1)
    torch.testing.assert_close(
        objective.spectra(Batch(padded, torch.tensor([16_000, 16_000])))[0][:, :49], loud, atol=1e-4, rtol=0
    )
    student, frames = features(2, frames=49), torch.zeros(2, 49, dtype=torch.bool)
    frames[0, :5] = True
    before = objective(student, None, frames, Batch(wave))
    wave[1] = 0  # a row of which no frame counts
    after = objective(student, None, frames, Batch(wave))
    torch.testing.assert_close(before.total, after.total)
    assert int(objective.denominator(frames, Batch(wave))) == 5


def test_labels_are_learned_and_rows_without_one_do_not_count() -> None:
    torch.manual_seed(0)
    cls = OBJECTIVES.get("label_classification")
    objective = cls(cls.Config(layer="1", classes=512, margin=0.2), EncoderShape(16, 2), EncoderShape(16, 2))
    voices = {name: torch.randn(16) for name in ("ann", "bob", "cy")}
    optimizer, frames = torch.optim.Adam(objective.parameters(), 0.01), torch.ones(4, 20, dtype=torch.bool)

    def loss(names: tuple[str, ...]) -> Loss:
        x = torch.stack([voices.get(name, torch.zeros(16)) for name in names])[:, None] + torch.randn(4, 20, 16)
        return objective(Features([x] * 3, None, x, x), None, frames, Batch(torch.zeros(4, 1), labels=names))

    for _ in range(60):
        optimizer.zero_grad()
        (loss(("ann", "bob", "cy", "")).total / 4).backward()
        optimizer.step()
    assert float(loss(("bob", "cy", "ann", "bob")).logs["accuracy"]) == 4
    torch.manual_seed(1)
    known = loss(("ann", "bob", "cy", "ann"))
    torch.manual_seed(1)
    unknown = loss(("ann", "", "", "ann"))
    assert 0 < float(unknown.total.detach()) < float(known.total.detach())
    assert float(loss(("", "", "", "")).total.detach()) == 0


def test_characters_are_learned_and_rows_that_cannot_be_aligned_do_not_count() -> None:
    torch.manual_seed(0)
    cls = OBJECTIVES.get("ctc")
    objective = cls(cls.Config(characters="abc "), EncoderShape(8, 2), EncoderShape(8, 2))
    sounds = {character: torch.randn(8) for character in "abc "}
    optimizer = torch.optim.Adam(objective.parameters(), 0.05)

    def batch(texts: tuple[str, ...], shown: tuple[str, ...]) -> tuple[Features, torch.Tensor, Batch]:
        x = torch.stack([torch.stack([sounds[c] for c in text for _ in range(2)]) for text in shown]) + 0.1 * torch.randn(1)
        frames = torch.ones(x.shape[:2], dtype=torch.bool)
        return Features([x] * 3, None, x, x), frames, Batch(torch.zeros(len(x), 1), texts=texts)

    for _ in range(80):
        student, frames, audio = batch(("A B  c.", "cab a"), ("a b c", "cab a"))
        loss = objective(student, None, frames, audio).total / objective.denominator(frames, audio)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    assert int(objective.denominator(frames, audio)) == 10
    for texts in (
        ("b", ""),
        ("b", "abcabcabcab"),
        ("b", "aaaaaa"),
    ):  # no text; 11 characters and 11 frames with repeats in 10 frames
        student, frames, audio = batch(texts, ("b    ", "abc a"))
        both = objective(student, None, frames, audio)
        student, frames, alone = batch(("b",), ("b    ",))
        assert int(objective.denominator(torch.ones(2, 10, dtype=torch.bool), audio)) == 1
        torch.testing.assert_close(both.total, objective(student, None, frames, alone).total, atol=0.05, rtol=0.5)


def test_accents_and_capitals_are_read_as_letters() -> None:
    cls = OBJECTIVES.get("ctc")
    objective = cls(cls.Config(characters="ae "), EncoderShape(8, 2), EncoderShape(8, 2))
    assert objective.spelled(" É\u00e0  xA") == [2, 1, 3, 1]
    with pytest.raises(ValueError, match="each once"):
        cls.Config(characters="aa")
