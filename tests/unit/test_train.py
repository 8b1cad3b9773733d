"""Training as a user lives it: resume, stop, refuse, and the arithmetic of one update."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import sottovoce
from sottovoce.core.types import Batch, Features
from sottovoce.encoder import Encoder
from sottovoce.evaluation.subjects.sources import origin_of
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.colld import Colld
from sottovoce.train import api, optim
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, ObjectiveChoice, load_recipe
from sottovoce.train.stages.train import Train
from sottovoce.train.targets import Teachers
from sottovoce.train.teachers import Teacher, TeacherSettings
from tests.conftest import one_teacher, tiny_shape

FAST = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32"]
STEPS = [
    "stages.prune.steps=8",
    "stages.prune.warmup=2",
    "stages.distill.steps=6",
    "stages.distill.warmup=1",
    "pruning.ramp=4",
    "log_every=1",
    "save_minutes=0",
]


def small(teacher: Path, data: Path, out: Path, extra: list[str] | None = None, **options: Any) -> api.Result:
    overrides = [*FAST, *STEPS, *(extra or [])]
    return api.compress(teacher, recipe="dphubert", data=data, out=out, keep=0.5, device="cpu", overrides=overrides, **options)


def test_a_run_leaves_a_student_that_meets_its_budget(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    result = small(teacher_folder, speech_folder, tmp_path / "s", budget="macs")
    assert result.met
    record = json.loads((tmp_path / "s/run/result.json").read_text())
    assert record["budget"]["after"] == pytest.approx(0.5, rel=0.01)
    assert [stage["stage"] for stage in record["stages"]] == ["prune", "cut", "distill", "evaluate"]
    rows = [json.loads(line) for line in (tmp_path / "s/run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["stage"] == "prune" and "loss" in row] == list(range(1, 9))
    assert not list((tmp_path / "s/run").glob("checkpoint*"))
    origin = origin_of(tmp_path / "s")
    assert origin is not None
    assert {key: origin[key] for key in ("recipe", "keep", "seed", "teacher", "data")} == {
        "recipe": "dphubert", "keep": 0.5, "seed": 2022, "teacher": teacher_folder.name, "data": speech_folder.name,
    }  # fmt: skip
    assert origin["hours"] == record["data"]["hours"] > 0


def test_stages_may_use_different_objectives(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    """One stage without an objective, the next with it: found clusters, kept projections, an exportable end."""
    both = ["objectives.masked_prediction.clusters=20", "objectives.masked_prediction.fit_frames=1000"]
    extra = [*both, "stages.prune.objectives=[layer_to_layer]", "stages.distill.objectives=[masked_prediction]"]
    result = small(teacher_folder, speech_folder, tmp_path / "s", extra)
    work = load_file(tmp_path / "s/run/distill.safetensors")
    assert work["objectives.objectives.masked_prediction.centroids"].any()
    maps = load_file(tmp_path / "s/model.safetensors")
    assert not torch.equal(maps["projections.0.weight"], torch.eye(32))
    assert {stage["stage"] for stage in result.record["stages"]} >= {"prune", "distill"}


def test_a_student_can_be_compressed_again(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    small(teacher_folder, speech_folder, tmp_path / "one")
    result = small(tmp_path / "one", speech_folder, tmp_path / "two")
    assert result.met
    first, second = (json.loads((tmp_path / n / "run/result.json").read_text())["cost"]["params"] for n in ("one", "two"))
    assert second == pytest.approx(0.5 * first, rel=0.01)


SCRIPT = """
import sys
from sottovoce.train import api
from sottovoce.train.run import Stopped
import torch
import yaml
torch.set_num_threads(1)
teacher, data, out, *overrides = sys.argv[1:]
try:
    api.compress(teacher, recipe="dphubert", data=data, out=out, keep=0.5, device="cpu", overrides=overrides)
except Stopped as problem:
    print(problem, file=sys.stderr)
    sys.exit(143)
"""


def start(teacher: Path, data: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(teacher), str(data), str(out), *FAST, *STEPS]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(path: Path, text: str, limit: float = 90.0) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never said {text}")


@pytest.mark.parametrize("moment", ['"prune", "step": 3', '"distill", "step": 2'])
def test_a_killed_run_ends_as_the_undisturbed_one(moment: str, teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "a", tmp_path / "b"
    small(teacher_folder, speech_folder, undisturbed)
    process = start(teacher_folder, speech_folder, killed)
    wait_for(killed / "run/metrics.jsonl", moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "run/result.json").exists()
    small(teacher_folder, speech_folder, killed)
    ours, theirs = load_file(killed / "model.safetensors"), load_file(undisturbed / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (killed / "run/metrics.jsonl").read_text().count('"step": 3,') == (
        undisturbed / "run/metrics.jsonl"
    ).read_text().count('"step": 3,')


def test_sigterm_saves_and_says_how_to_go_on(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    process = start(teacher_folder, speech_folder, tmp_path / "s")
    wait_for(tmp_path / "s/run/metrics.jsonl", '"prune", "step": 2')
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "run the same command again" in errors
    assert (tmp_path / "s/run/checkpoint-a.pt").exists()


def test_two_runs_in_one_folder_are_refused(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    process = start(teacher_folder, speech_folder, tmp_path / "s")
    try:
        wait_for(tmp_path / "s/run/metrics.jsonl", '"prune", "step": 1')
        with pytest.raises(ValueError, match="another run is working"):
            small(teacher_folder, speech_folder, tmp_path / "s")
    finally:
        process.kill()
        process.wait()


def test_another_recipe_in_the_same_folder_is_refused_and_fresh_starts_over(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    small(teacher_folder, speech_folder, tmp_path / "s")
    with pytest.raises(ValueError, match=r"other settings .*seed"):
        small(teacher_folder, speech_folder, tmp_path / "s", seed=5)
    assert small(teacher_folder, speech_folder, tmp_path / "s", seed=5, fresh=True).record["seed"] == 5


def test_a_run_of_a_version_whose_recipes_had_fewer_fields_goes_on(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(teacher_folder, speech_folder, tmp_path / "s")
    path = tmp_path / "s/run/recipe.yaml"
    settings = yaml.safe_load(path.read_text())
    assert settings.pop("compile") is False
    assert settings["student"].pop("join") == 1
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    small(teacher_folder, speech_folder, tmp_path / "s")
    assert "is finished" in capsys.readouterr().err
    path.write_text(yaml.safe_dump({**settings, "seed": 5}, sort_keys=False))
    with pytest.raises(ValueError, match=r"other settings .*seed"):
        small(teacher_folder, speech_folder, tmp_path / "s")
    path.write_text(yaml.safe_dump({**settings, "what_went": 5}, sort_keys=False))  # a field that is no more
    with pytest.raises(ValueError, match=r"other settings .*what_went"):
        small(teacher_folder, speech_folder, tmp_path / "s")


@pytest.mark.parametrize("where", ["thesis.txt", "run/thesis.txt"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_other_things_in_it_is_refused(
    where: str, fresh: bool, teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("five years of work")
    with pytest.raises(ValueError, match="is not empty"):
        small(teacher_folder, speech_folder, tmp_path, fresh=fresh)
    assert (tmp_path / where).read_text() == "five years of work"


def test_a_mistake_does_not_bind_the_folder(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        small(teacher_folder, tmp_path / "nowhere", tmp_path / "s")
    assert small(teacher_folder, speech_folder, tmp_path / "s").met


def test_a_missing_stage_file_is_named_and_its_stage_done_again(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small(teacher_folder, speech_folder, tmp_path / "s")
    before = load_file(tmp_path / "s/model.safetensors")
    for name in ("cut.safetensors", "distill.json", "distill.safetensors", "evaluate.json", "result.json"):
        (tmp_path / "s/run" / name).unlink()
    small(teacher_folder, speech_folder, tmp_path / "s")
    assert "cut.safetensors is damaged or missing: cut is done again" in capfd.readouterr().err
    after = load_file(tmp_path / "s/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_held_out_audio_a_student_still_comes_out(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    result = small(teacher_folder, speech_folder, tmp_path / "s", ["data.valid_share=0"])
    assert "fidelity" not in result.record
    assert sottovoce.load(tmp_path / "s")(torch.randn(1, 4000)).last.shape[-1] == 32


def test_a_budget_that_the_cut_misses_is_said(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    result = api.compress(
        teacher_folder, data=speech_folder, out=tmp_path / "s", keep=0.95, overrides=[*FAST, *STEPS, "pruning.units=[head]"]
    )
    assert not result.met
    with pytest.raises(api.MissedBudget, match="units are too coarse"):
        result.check()


def test_with_restarts_nothing_presses_while_the_target_is_met(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    small(teacher_folder, speech_folder, tmp_path / "s", ["pruning.restarts=true", "pruning.gate_lr=1"])
    rows = [json.loads(line) for line in (tmp_path / "s/run/metrics.jsonl").read_text().splitlines()]
    pruned = [row for row in rows if "lambda1" in row]
    assert any(row["sparsity"] >= row["target"] for row in pruned)
    assert any(row["sparsity"] < row["target"] for row in pruned)
    assert all((row["lambda1"] == 0) == (row["sparsity"] >= row["target"]) for row in pruned)


def test_gates_that_do_not_arrive_are_said_with_what_helps(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(teacher_folder, speech_folder, tmp_path / "s", ["pruning.gate_lr=1e-4"])
    said = capsys.readouterr().err
    assert "far from the budget of 50.0 %" in said
    assert "raise pruning.multiplier_lr" in said


def test_a_budget_for_a_recipe_that_does_not_prune_is_refused() -> None:
    with pytest.raises(ValueError, match="need a recipe that prunes"):
        api.resolve("layer-to-layer-random", keep=0.5)


def test_a_budget_that_cannot_be_met_is_refused_before_training(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"cannot keep only 0.01"):
        api.compress(teacher_folder, data=speech_folder, out=tmp_path / "s", keep=0.01, overrides=FAST, long=True)


def test_accumulation_gives_the_gradient_of_one_large_batch(speech_folder: Path) -> None:
    recipe = load_recipe("dphubert", ["objectives.layer_to_layer.layers=[['0'],['3']]"])
    teachers = one_teacher()
    wave = torch.randn(4, 6000)
    gradients = []
    for parts in ((wave,), (wave[:1], wave[1:])):
        torch.manual_seed(1)
        learner = Learner(Encoder(tiny_shape()).reset_parameters(), recipe.objectives, teachers, Masking()).eval()
        drawn = [learner.draw(Batch(part)) for part in parts]
        counts = torch.stack([learner.denominators(each) for each in drawn]).sum(0)
        for each in drawn:
            learner.total(learner(each, learner.targets(each)), counts).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_clipping_keeps_weights_gates_and_multipliers_apart() -> None:
    weight, gate, multiplier = (torch.nn.Parameter(torch.zeros(3)) for _ in range(3))
    groups = [optim.group("weights", [weight], 2e-4), optim.group("gates", [gate], 0.02)]
    groups.append(optim.group("multipliers", [multiplier], 0.02, maximize=True))
    made = optim.make_optimizer(groups, Train.Config(steps=1))
    weight.grad, gate.grad, multiplier.grad = torch.full((3,), 100.0), torch.full((3,), 1e-3), torch.full((3,), 50.0)
    optim.clip(made, 1.0)
    assert weight.grad.norm() == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(gate.grad, torch.full((3,), 1e-3))
    assert torch.equal(multiplier.grad, torch.full((3,), 50.0))
    optim.set_rates(made, 1.0)
    made.step()
    assert (multiplier > 0).all()  # ascends
    assert (weight < 0).all()


def test_the_schedule_rises_and_falls_linearly() -> None:
    config = Train.Config(steps=100, warmup=10)
    assert optim.schedule(0, config) == pytest.approx(0.1)
    assert optim.schedule(9, config) == pytest.approx(1.0)
    assert optim.schedule(55, config) == pytest.approx(0.5)
    assert 0 < optim.schedule(99, config) < 0.02


def test_masks_cover_about_the_asked_share_in_spans() -> None:
    learner = Learner(Encoder(tiny_shape()), load_recipe("pretrain-tiny").objectives, Teachers({}), Masking(share=0.5, span=10))
    mask = learner.draw(Batch(torch.zeros(20, 160_000))).mask
    assert mask is not None
    assert 0.3 < mask.float().mean() < 0.5  # overlapping spans cover less than the sum of their lengths
    padded = torch.nn.functional.pad(mask.int(), (1, 1))
    starts, ends = (padded.diff(dim=1) == 1).nonzero()[:, 1], (padded.diff(dim=1) == -1).nonzero()[:, 1]
    assert ((ends - starts >= 10) | (ends == mask.shape[1])).all()


def test_any_other_transformers_model_can_teach_a_student_of_another_design(speech_folder: Path, tmp_path: Path) -> None:
    from transformers import SEWConfig, SEWModel

    config = SEWConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4, conv_stride=(5, 2, 2, 2, 2, 2, 2), conv_kernel=(10, 3, 3, 3, 3, 2, 2), squeeze_factor=1,
    )  # fmt: skip
    SEWModel(config).save_pretrained(tmp_path / "teacher")
    student = ["student.dim=32", "student.heads=4", "student.depth=4", "student.ffn_dim=48", "student.position_groups=4"]
    options = [*student, "student.conv_dims=[8,8,8,8,8,8,8]", "stages.distill.steps=3", "stages.distill.warmup=1", *FAST]
    api.compress(tmp_path / "teacher", recipe="layer-to-layer-random", data=speech_folder, out=tmp_path / "s", overrides=options)
    mapped = sottovoce.load(tmp_path / "s", space="teacher")(torch.randn(1, 8000))
    assert mapped.hidden[-1].shape[-1] == 24
    with pytest.raises(ValueError, match="weights cannot be copied"):
        small(tmp_path / "teacher", speech_folder, tmp_path / "p")


@pytest.mark.parametrize("family", ["wav2vec2_bert", "wav2vec2_conformer"])
def test_conformers_are_compressed_like_the_others(family: str, speech_folder: Path, tmp_path: Path) -> None:
    from sottovoce.core.registry import FAMILIES
    from sottovoce.hub.pretrained import save_pretrained

    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": [12] * 7}
    config = FAMILIES.get(family)().encoder_config({**shape, "conv_depthwise_kernel_size": 5})
    save_pretrained(tmp_path / "teacher", Encoder(config).reset_parameters(), family, normalize=False)
    units = ["pruning.units=[conv,head,ffn,glu]", "pruning.gates.drop=0.5"]  # so that all kinds are likely to lose some
    result = small(tmp_path / "teacher", speech_folder, tmp_path / "s", units, budget="macs")
    assert result.met
    student = sottovoce.load(tmp_path / "s")
    assert sum(layer.glu_dim for layer in student.config.layers) < 48
    assert sottovoce.load(tmp_path / "s", space="teacher")(torch.randn(1, 8000)).hidden[-1].shape == (1, 24, 24)


def test_features_are_put_on_the_students_frames() -> None:
    hidden = [torch.arange(20.0).view(1, 10, 2)] * 2
    features = Features(hidden, None, hidden[0], hidden[1])
    assert features.on_frames(9).last.shape[1] == 9
    longer = features.on_frames(11).last
    assert torch.equal(longer[:, 10], longer[:, 9])
    with pytest.raises(ValueError, match="frame rates differ"):
        features.on_frames(20)


def test_the_teachers_frames_are_joined_where_the_student_has_fewer() -> None:
    x = torch.arange(22.0).view(1, 11, 2)
    joined = Features([x], None, x, x).on_frames(5, join=2).last
    assert joined.shape == (1, 5, 4)
    assert torch.equal(joined[0, 3], torch.tensor([12.0, 13, 14, 15]))
    with pytest.raises(ValueError, match="11 times 2: their frame rates differ"):
        Features([x], None, x, x).on_frames(11, join=2)


def test_a_student_may_have_half_the_frames(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    """Time reduction: trained and pruned like any other; in the teacher's space it has the teacher's frames."""
    result = small(teacher_folder, speech_folder, tmp_path / "s", ["student.join=2"], budget="macs")
    assert result.met
    wave = torch.randn(2, 16_000)
    student, teacher = sottovoce.load(tmp_path / "s"), sottovoce.load(teacher_folder)
    assert (student(wave).last.shape[1], teacher(wave).last.shape[1]) == (24, 49)
    there = sottovoce.load(tmp_path / "s", space="teacher")
    found = there(wave, [16_000, 9_000])
    assert found.hidden[-1].shape == (2, 48, 32)
    assert found.lengths is not None
    assert found.lengths.tolist() == [48, 26]
    assert (student.frame_rate, there.frame_rate) == (25.0, 50.0)


def test_a_masked_teacher_speaks_at_the_frames_that_the_student_sees() -> None:
    """ARMHuBERT's rule: masked frames want the clean teacher, the others the teacher on masked audio (arXiv 2305.11685)."""
    seen: list[torch.Tensor | None] = []

    class Parrot(Teacher):
        Config = Teacher.Config
        shape = EncoderShape(32, 3)

        def answer(self, batch: Batch, mask: torch.Tensor | None = None, taps: bool = False) -> Features:
            seen.append(mask)
            x = torch.full((len(batch.wave), 49, 32), 0.0 if mask is None else 1.0)
            return Features([x] * 4, None, x, x, [x] * 3)

    wanted = Colld.Config(masked_teacher=True, visible="distance")
    teachers = Teachers({"parrot": Parrot(Parrot.Config(), TeacherSettings(torch.device("cpu")))}, "parrot")
    learner = Learner(Encoder(tiny_shape()), {"colld": ObjectiveChoice("colld", wanted)}, teachers, Masking())
    drawn = learner.draw(Batch(torch.randn(2, 16_000)))
    targets = learner.targets(drawn)
    assert drawn.mask is not None
    assert seen[0] is None
    assert seen[1] is drawn.mask
    mixed = targets["parrot", "masked"]
    assert isinstance(mixed, Features)
    for layer in [*mixed.hidden, *mixed.ffn]:
        assert torch.equal(layer[..., 0] == 0.0, drawn.mask)
    assert set(learner(drawn, targets)) == {"colld"}


def test_compiled_is_trained_alike(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher (in half precision, or it would be packed on a CPU) and the student of the second stage, traced but not translated."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    given = ["teacher_precision=bf16"]
    plain = small(teacher_folder, speech_folder, tmp_path / "plain", given)
    result = small(teacher_folder, speech_folder, tmp_path / "compiled", [*given, "compile=true"])
    assert result.met
    ours, theirs = (sottovoce.load(each.out).encoder.state_dict() for each in (result, plain))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-3, rtol=1e-2)


def test_a_teacher_in_half_precision_teaches(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    result = small(teacher_folder, speech_folder, tmp_path / "s", ["teacher_precision=bf16"])
    assert result.met
