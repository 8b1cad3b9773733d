"""Score heads: what they compute, that they stay with a student, and the task that asks them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import sottovoce
from sottovoce.cli import app
from sottovoce.core import ledger
from sottovoce.core.types import Batch, Vectors
from sottovoce.encoder import Encoder
from sottovoce.encoder.score_head import ScoreHead, ScoreHeads, ScoreShape
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.evaluation.suite.compare import compare
from sottovoce.evaluation.suite.run import Unmeasured, evaluate
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.hub.student import save_student
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.score import Score
from sottovoce.train import api
from sottovoce.train.recipe import load_recipe
from tests.conftest import tiny_shape
from tests.teacher_weights import distillmos, dnsmos

PLAIN = ScoreShape(("quality",), 3)
CHOICES = [PLAIN, ScoreShape(("quality",), 2, attention=6, bounds=(1.0, 5.0)), ScoreShape(("voice", "overall"), 0)]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(tiny_shape()).reset_parameters().eval()


def student(folder: Path, encoder: Encoder, **shapes: ScoreShape) -> Path:
    """A student with score heads on disk."""
    heads = ScoreHeads(encoder.config.dim, shapes)
    with torch.no_grad():
        for head in heads.values():
            head.project.weight.mul_(30)  # so that recordings differ
    save_student(folder, encoder, normalize=False, teacher="distillmos", scores=heads)
    return folder


# the head


@pytest.mark.parametrize("shape", CHOICES, ids=["mean", "attention", "front end"])
def test_padding_is_not_heard(shape: ScoreShape, encoder: Encoder) -> None:
    head, wave = ScoreHead(32, shape), torch.randn(2, 16_000)
    with torch.no_grad():
        both = head(encoder(wave, torch.tensor([16_000, 9_000])))
        alone = head(encoder(wave[1:, :9_000]))
    assert both.shape == (2, len(shape.names))
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


def test_the_mean_over_frames_is_mapped(encoder: Encoder) -> None:
    head = ScoreHead(32, PLAIN)
    with torch.no_grad():
        features = encoder(torch.randn(3, 8_000))
        torch.testing.assert_close(head(features), head.project(features.last.mean(1)))


def test_attention_weighs_frames_and_bounds_hold(encoder: Encoder) -> None:
    head = ScoreHead(32, CHOICES[1])
    with torch.no_grad():
        features = encoder(torch.randn(3, 8_000))
        x = features.hidden[2]
        assert head.attention is not None
        weights = head.attention[2](head.attention[0](x).relu()).softmax(1)
        expected = 1 + 4 * head.project((weights * x).sum(1)).sigmoid()
        torch.testing.assert_close(head(features), expected)
        head.project.bias.fill_(50)
        assert float(head(features).max()) <= 5


def test_a_long_recording_is_the_mean_over_windows_that_overlap(encoder: Encoder) -> None:
    heads = ScoreHeads(32, {"quality": dataclasses.replace(PLAIN, window=0.5)})
    wave = torch.randn(2, 20_000)
    with torch.no_grad():
        found = heads.rate(encoder, wave, torch.tensor([20_000, 6_000]))["quality"]
        starts = [0, 4_000, 8_000, 12_000]
        each = torch.cat([heads["quality"](encoder(wave[:1, start : start + 8_000])) for start in starts])
        torch.testing.assert_close(found[:1], each.mean(0, keepdim=True), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[1:], heads["quality"](encoder(wave[1:, :6_000])), atol=1e-4, rtol=1e-4)


# the objective


def test_the_objective_compares_with_the_teachers_scores(encoder: Encoder) -> None:
    objective = Score(Score.Config(l1=0.5), EncoderShape(32, 3), EncoderShape(2, 0))
    wave, targets = torch.randn(3, 8_000), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]])
    features = encoder(wave)
    loss = objective(features, Vectors(targets), features.valid(), Batch(wave))
    difference = objective.head(features) - targets
    torch.testing.assert_close(loss.total, (difference.square() + 0.5 * difference.abs()).mean(1).sum())
    assert int(objective.denominator(features.valid(), Batch(wave))) == 3


@pytest.mark.parametrize("wrong", [{"cosine": 1.0}, {"bounds": (5.0, 1.0)}, {"bounds": (1.0,)}, {"attention": -1}, {"mse": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|cosine"):
        Score.Config(**wrong)


# the folder


def test_a_students_folder_keeps_its_heads(tmp_path: Path, encoder: Encoder) -> None:
    folder = student(tmp_path / "student", encoder, quality=CHOICES[1], other=CHOICES[2])
    loaded, wave = sottovoce.load(folder), np.random.default_rng(0).normal(size=(2, 9_000)).astype(np.float32)
    scores = loaded.rate(wave, [9_000, 5_000])
    assert {label: tuple(x.shape) for label, x in scores.items()} == {"quality": (2, 1), "other": (2, 2)}
    assert load_pretrained(folder).scores is not None
    assert "evaluate PATH FILE" in (folder / "README.md").read_text()
    heads = ScoreHeads(32, {"quality": CHOICES[1], "other": CHOICES[2]})
    state = load_file(folder / "model.safetensors")
    heads.load_state_dict({name.removeprefix("scores."): x for name, x in state.items() if name.startswith("scores.")})
    torch.testing.assert_close(
        scores["quality"], heads.rate(encoder, torch.from_numpy(wave), torch.tensor([9_000, 5_000]))["quality"]
    )


def test_transformers_opens_the_heads(tmp_path: Path, encoder: Encoder) -> None:
    from transformers import AutoModel

    folder, wave = student(tmp_path / "student", encoder, quality=CHOICES[1]), torch.randn(1, 9_000)
    model: Any = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.rate(wave)["quality"], sottovoce.load(folder).rate(wave)["quality"], atol=1e-5, rtol=1e-5
        )


def test_a_model_without_heads_says_so(tmp_path: Path, encoder: Encoder) -> None:
    save_student(tmp_path, encoder, normalize=False, teacher="t")
    assert load_pretrained(tmp_path).scores is None
    assert "scores" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ValueError, match="recipe 'quality'"):
        sottovoce.load(tmp_path).rate(torch.randn(8_000))


@pytest.mark.parametrize("fault", ["missing", "shape", "nan", "layer", "names"])
def test_a_damaged_head_is_refused(fault: str, tmp_path: Path, encoder: Encoder) -> None:
    folder = student(tmp_path / "student", encoder, quality=PLAIN)
    state, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    name = "scores.quality.project.weight"
    if fault == "missing":
        del state[name]
    elif fault == "shape":
        state[name] = state[name][:, :5].clone()
    elif fault == "nan":
        state[name][0, 0] = torch.nan
    elif fault == "layer":
        config["scores"]["quality"]["layer"] = 9
    else:
        config["scores"]["quality"]["names"] = []
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="score"):
        load_pretrained(folder)


# training

SMALL = [
    "data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "data.valid_share=0.1",
    "student.dim=32", "student.depth=2", "student.heads=4", "student.mels=20", "student.subsampler=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def larger(speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of the recipe `quality`, of three updates."""
    folder = tmp_path_factory.mktemp("larger")
    own = [f"teachers.quality.source={distillmos(folder)}", "stages.first.steps=3", "stages.first.warmup=1"]
    return api.pretrain(recipe="quality", data=speech_folder, out=folder / "larger", device="cpu", overrides=[*SMALL, *own]).out


def test_a_run_ends_with_a_student_that_scores(larger: Path) -> None:
    heads = load_pretrained(larger).scores
    assert heads is not None
    shape = heads.shapes["quality"]
    assert (shape.names, shape.bounds, shape.window, shape.layer) == (("quality",), (1.0, 5.0), 2.0, 2)
    assert 1 < float(sottovoce.load(larger).rate(torch.randn(20_000))["quality"]) < 5
    assert json.loads((larger / "run" / "result.json").read_text())["scores"] == {"quality": ["quality"]}


def test_a_pruned_student_goes_on_from_the_larger_ones_head(larger: Path, speech_folder: Path, tmp_path: Path) -> None:
    own = [f"teachers.quality.source={distillmos(tmp_path)}", "pruning.ramp=1"]
    own += [
        f"stages.{stage}.{key}" for stage in ("prune", "distill") for key in ("steps=1", "warmup=0", "lr=1e-9", "weight_decay=0")
    ]
    result = api.compress(
        larger, recipe="quality-pruned", keep=0.7, data=speech_folder, out=tmp_path / "pruned", device="cpu",
        overrides=[each for each in [*SMALL, *own] if not each.startswith("student.")],
    )  # fmt: skip
    assert result.met
    before, after = load_pretrained(larger).scores, load_pretrained(result.out).scores
    assert before is not None
    assert after is not None
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)


def test_sizes_are_set_by_one_option() -> None:
    sizes = []
    for dim in (64, 88, 120, 152, 176):
        shape = load_recipe("quality", [f"student.dim={dim}"]).student.build().shape()
        assert {layer.ffn_dim for layer in shape.layers} == {2 * dim}
        sizes.append(sum(x.numel() for x in Encoder(shape).parameters()))
    assert sizes == sorted(sizes)
    assert sizes[2] < 950_000  # with its head below 1M
    assert sizes[0] < 350_000


# the task


@pytest.fixture
def rated(speech_folder: Path, tmp_path: Path, encoder: Encoder) -> tuple[Path, Path, list[float]]:
    """A student, a manifest whose ratings are twice its scores, and its scores."""
    folder = student(tmp_path / "student", encoder, quality=PLAIN)
    speech = sottovoce.load(folder)
    files, scores, rows = sorted(speech_folder.glob("*.wav"))[:8], [], ["path\tscore"]
    for file in files:
        import soundfile

        scores.append(float(speech.rate(soundfile.read(file, dtype="float32")[0])["quality"]))
        rows.append(f"{file}\t{2 * scores[-1]}")
    manifest = tmp_path / "rated.tsv"
    manifest.write_text("\n".join(rows) + "\n")
    return folder, manifest, scores


def quality_of(models: list[str], data: Any, out: Path, **options: Any) -> list[dict[str, Any]]:
    return [each.record for each in evaluate(models, tasks=["quality-score"], data=data, out=out, cache_gb=0, **options)]


def kept(out: Path, record: dict[str, Any]) -> dict[str, float]:
    """The scores of a record in the folder of results, by recording."""
    rows = ledger.read_all(out / "scores" / record["details"]["scores"])
    return {row["recording"]: row["scores"]["quality"] for row in rows}


def test_correlation_with_human_ratings(rated: tuple[Path, Path, list[float]], tmp_path: Path) -> None:
    folder, manifest, scores = rated
    (record,) = quality_of([str(folder)], manifest, tmp_path / "out")
    measures = record["measures"]
    assert list(measures) == ["pearson", "spearman", "score"]
    assert measures["pearson"]["value"] == pytest.approx(1, abs=1e-4)
    assert measures["spearman"]["value"] == 1
    assert measures["score"]["value"] == pytest.approx(np.mean(scores), abs=1e-3)
    assert list(record["details"]["recordings"].values()) == [[pytest.approx(score, abs=1e-3)] for score in scores]
    assert sorted(kept(tmp_path / "out", record).values()) == pytest.approx(sorted(scores), abs=1e-3)


def test_some_ratings_are_missing_and_some_are_wrong(rated: tuple[Path, Path, list[float]], tmp_path: Path) -> None:
    folder, manifest, _ = rated
    lines = manifest.read_text().splitlines()
    lines[1], lines[2] = lines[1].split("\t")[0] + "\t", lines[2].split("\t")[0] + "\tgood"
    manifest.write_text("\n".join(lines) + "\n")
    (record,) = quality_of([str(folder)], manifest, tmp_path / "out")
    assert record["details"]["rated"] == 6
    assert record["data"]["skipped"] == 1
    assert record["measures"]["score"]["items"] == 7
    assert record["measures"]["pearson"]["value"] == pytest.approx(1, abs=1e-4)


def test_agreement_with_a_quality_model(rated: tuple[Path, Path, list[float]], tmp_path: Path) -> None:
    folder, manifest, _ = rated
    judge = f"distillmos:{distillmos(tmp_path)}"
    student, teacher = quality_of([str(folder)], manifest, tmp_path / "out", vs=[judge])
    assert list(student["measures"]) == ["pearson", "spearman", "agreement", "rank_agreement", "distance", "score"]
    assert list(teacher["measures"]) == ["pearson", "spearman", "score"]
    own, theirs = (kept(tmp_path / "out", record) for record in (student, teacher))
    pairs = np.array([[own[name], theirs[name]] for name in own])
    assert student["measures"]["agreement"]["value"] == pytest.approx(np.corrcoef(pairs.T)[0, 1], abs=1e-3)
    assert student["measures"]["distance"]["value"] == pytest.approx(np.abs(pairs[:, 0] - pairs[:, 1]).mean(), abs=2e-3)
    assert teacher["model"]["name"] == "distillmos"
    assert student["details"]["reference"]["name"] == "distillmos"
    (again, _) = quality_of([str(folder)], manifest, tmp_path / "out", vs=[judge])
    assert again == student, "what is measured already is not measured again"


def test_which_of_two_students_scores_more_like_the_quality_model(
    rated: tuple[Path, Path, list[float]], encoder: Encoder, tmp_path: Path
) -> None:
    folder, manifest, _ = rated
    other = student(tmp_path / "other", encoder, quality=CHOICES[1])
    judge = f"distillmos:{distillmos(tmp_path)}"
    of = {"data": manifest, "tasks": ["quality-score"], "out": tmp_path / "out"}
    record = compare(str(folder), str(other), vs=judge, **of)
    found = record["tasks"]["quality-score"]["measures"]
    one, two, _ = quality_of([str(folder), str(other)], manifest, tmp_path / "out", vs=[judge])
    assert record["reference"]["name"] == "distillmos"
    for name, sign in (("agreement", 1), ("distance", -1)):
        apart = one["measures"][name]["value"] - two["measures"][name]["value"]
        assert found[name]["better"]["value"] == pytest.approx(sign * apart, abs=2e-3)
    assert "agreement" not in compare(str(folder), str(other), **of)["tasks"]["quality-score"]["measures"]
    with pytest.raises(ValueError, match="name a third"):
        compare(str(folder), str(other), vs=str(other), **of)


def test_nothing_is_scored_twice(rated: tuple[Path, Path, list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest, _ = rated
    (first,) = quality_of([str(folder)], manifest, tmp_path / "out")
    monkeypatch.setattr(ScoreHeads, "rate", lambda *given: pytest.fail("scored again"))
    (again,) = quality_of([str(folder)], manifest, tmp_path / "out", fresh=True)
    assert again["measures"] == first["measures"]


def test_a_models_score_is_chosen_by_name(speech_folder: Path, tmp_path: Path, encoder: Encoder) -> None:
    folder = student(tmp_path / "student", encoder, quality=CHOICES[2])
    assert quality_of([str(folder)], speech_folder, tmp_path / "out")[0]["details"]["rater"]["score"] == "overall"
    (voice,) = quality_of([str(folder)], speech_folder, tmp_path / "other", overrides=["score=voice"])
    assert voice["details"]["rater"]["score"] == "voice"
    with pytest.raises(Unmeasured, match="has no score 'vice'; did you mean 'voice'"):
        quality_of([str(folder)], speech_folder, tmp_path / "third", overrides=["score=vice"])


def test_three_scores_of_dnsmos(speech_folder: Path, tmp_path: Path) -> None:
    (record,) = quality_of([f"dnsmos:{dnsmos(tmp_path)}"], sorted(speech_folder.glob("*.wav"))[:2], tmp_path / "out")
    assert record["details"]["rater"]["names"] == ["voice", "background", "overall"]


def test_mistakes_are_said_before_anything_runs(
    rated: tuple[Path, Path, list[float]], tmp_path: Path, teacher_folder: Path
) -> None:
    folder, manifest, _ = rated
    with pytest.raises(ValueError, match="has no head that scores recordings"):
        quality_of([str(teacher_folder)], manifest, tmp_path / "out")
    with pytest.raises(ValueError, match="has a rating in column 'sore'; did you mean 'score'"):
        quality_of([str(folder)], manifest, tmp_path / "out", overrides=["field=sore"])
    with pytest.raises(ValueError, match="name a model to measure"):
        evaluate([], tasks=["lid"], data=manifest, out=tmp_path / "out")
    judge = f"distillmos:{distillmos(tmp_path)}"
    with pytest.raises(ValueError, match="has no features"):
        evaluate([judge], tasks=["lid"], data=manifest, out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"does not hold the weights|no tensors"):
        open_subject(f"distillmos:{manifest}")
    assert not (tmp_path / "out").exists()


def test_files_are_scored_on_the_command_line(rated: tuple[Path, Path, list[float]], speech_folder: Path, tmp_path: Path) -> None:
    folder, _, scores = rated
    files = [str(file) for file in sorted(speech_folder.glob("*.wav"))[:3]]
    run = CliRunner().invoke(app, ["evaluate", str(folder), *files, "--task", "quality-score", "--out", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    for file, score in zip(files, scores[:3], strict=True):
        assert f"{Path(file).name}  {score:.2f}" in run.output
    (record,) = ledger.read_all(tmp_path / "out" / "records.jsonl")
    assert list(record["measures"]) == ["score"]


# exported


@pytest.fixture
def exported(encoder: Encoder, speech_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A student with two heads, one of them with a window of half a second, and its file for ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    narrow = ScoreShape(("voice", "overall"), 2, attention=6, bounds=(1.0, 5.0), window=0.5)
    folder = student(tmp_path / "student", encoder, quality=PLAIN, parts=narrow)
    return folder, sottovoce.export(folder, out=tmp_path / "exported", data=speech_folder, seconds=8)


def test_an_exported_file_gives_the_scores(exported: tuple[Path, Path]) -> None:
    folder, file = exported
    wave, lengths = 0.1 * torch.randn(3, 30_000), torch.tensor([30_000, 12_345, 7_000])
    ours, theirs = open_subject(str(file)).rater, open_subject(str(folder)).rater
    assert ours.names == theirs.names == ("quality.quality", "parts.voice", "parts.overall")
    torch.testing.assert_close(ours.rate(Batch(wave, lengths)), theirs.rate(Batch(wave, lengths)), atol=1e-4, rtol=0)
    check = json.loads((file.parent / "model.check.json").read_text())
    assert check["scores"].keys() == {"quality", "parts"}
    assert max(check["scores"].values()) < 1e-4
    about = json.loads((file.parent / "model.json").read_text())
    assert about["outputs"]["score_parts"].startswith("float32 (batch, 2), voice, overall; of recordings above 0.5 s")
    features = open_subject(str(file)).encoder(wave, lengths)
    torch.testing.assert_close(features.last, sottovoce.load(folder)(wave, lengths).last, atol=1e-4, rtol=0)


def test_an_exported_file_is_measured_as_its_student(exported: tuple[Path, Path], speech_folder: Path, tmp_path: Path) -> None:
    folder, file = exported
    both = evaluate([str(folder), str(file)], tasks=["quality-score"], data=speech_folder, out=tmp_path / "out", cache_gb=0)
    values = [result.record["measures"]["score"]["value"] for result in both]
    assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_the_example_scores_long_recordings_in_windows(exported: tuple[Path, Path], tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    folder, file = exported
    wave = 0.1 * torch.randn(29_000).clamp(-3, 3)
    soundfile.write(tmp_path / "long.wav", wave.numpy(), 16_000, subtype="FLOAT")
    script = Path(__file__).parents[2] / "examples" / "onnx_quality.py"
    done = subprocess.run([sys.executable, str(script), str(file), str(tmp_path / "long.wav")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = {line.split()[-2]: float(line.split()[-1]) for line in done.stdout.splitlines()}
    expected = sottovoce.load(folder).rate(wave)
    assert said["quality"] == pytest.approx(float(expected["quality"][0, 0]), abs=6e-3)
    assert said["voice"] == pytest.approx(float(expected["parts"][0, 0]), abs=6e-3)


def test_executorch_says_that_it_leaves_scores_out(encoder: Encoder, speech_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    folder = student(tmp_path / "student", encoder, quality=PLAIN)
    told: list[str] = []
    sottovoce.export(folder, to="executorch", out=tmp_path / "out", data=speech_folder, seconds=4, window=0.5, say=told.append)
    assert any("quality is left out" in line for line in told)
