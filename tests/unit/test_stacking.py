"""A student that grows while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder
from sottovoce.students.layers import take
from sottovoce.train import api
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, Recipe, load_recipe
from sottovoce.train.run import Stopped
from sottovoce.train.stages.stack import COPIES, Stack, Stacking, ends
from sottovoce.train.state import TrainState
from sottovoce.train.work import Work
from tests.conftest import one_teacher, tiny_shape

SMALL = ["student.dim=32", "student.heads=4", "student.ffn_dim=48", "student.position_groups=4", "student.depth=6"]
FAST = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32"]
STAGE = ["stages.distill.steps=9", "stages.distill.warmup=1", "stages.distill.start=3", "stages.distill.accumulate=1"]


def recipe(*options: str) -> Recipe:
    return load_recipe("interleaved-stacking", [*SMALL, *STAGE, *options], fixed={"teacher": "x"})


def stage(*options: str) -> Stack:
    first = recipe(*options).build_stages()[0]
    assert isinstance(first, Stack)
    return first


def test_layers_are_copied_where_each_method_says() -> None:
    assert [COPIES["interleaved"](b, 3) for b in (1, 2)] == [[0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 3, 3, 4, 5, 5]]
    assert COPIES["top"](2, 3) == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert COPIES["middle"](3, 2) == [0, 1, 2, 3, 2, 3, 4, 5]


def test_updates_are_shared_among_depths() -> None:
    assert ends(Stack.Config(steps=330_000), 4) == [33_000, 99_000, 198_000, 330_000]
    assert ends(Stack.Config(steps=330_000, updates="equal"), 4) == [82_500, 165_000, 247_500, 330_000]


def test_a_deeper_student_keeps_what_objectives_have_learned() -> None:
    teachers, parts = one_teacher(), recipe().objectives
    encoder = Encoder(tiny_shape(3)).reset_parameters()
    learner = Learner(encoder, parts, teachers, Masking()).eval()
    for parameter in learner.objectives.parameters():
        torch.nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    names = learner.put(take(encoder, [0, 0, 1, 1, 2, 2]), [0, 0, 1, 1, 2, 2])
    after = learner.state_dict()
    assert len(learner.encoder.layers) == 6
    assert names["objectives.layer_to_layer.maps.4.weight"] == "objectives.layer_to_layer.maps.2.weight"
    assert names["student.layers.3.ffn.up_proj.weight"] == "student.layers.1.ffn.up_proj.weight"
    assert all(torch.equal(after[new], before[old]) for new, old in names.items())
    drawn = learner.draw(Batch(torch.randn(1, 8000)))
    assert float(learner(drawn, learner.targets(drawn))["layer_to_layer"].total.detach()) > 0


def test_a_map_for_each_layer_cannot_grow() -> None:
    options = ["objectives.layer_to_layer=false", "objectives.colld.mask=false", "objectives.colld.hidden=distance"]
    encoder = Encoder(tiny_shape(3)).reset_parameters()
    learner = Learner(encoder, recipe(*options).objectives, one_teacher(), Masking())
    with pytest.raises(ValueError, match="shares of the depth"):
        learner.put(take(encoder, [0, 0, 1, 1, 2, 2]), [0, 0, 1, 1, 2, 2])


def test_moments_of_the_optimiser_are_copied_with_the_layers() -> None:
    work, teachers = Work(Encoder(tiny_shape(6)).reset_parameters()), one_teacher()
    kind = stage()
    kind.prepare(work, teachers)
    learner = kind.trainee(work, teachers)
    assert len(learner.encoder.layers) == 3
    torch.testing.assert_close(learner.encoder.layers[0].ffn_norm.weight, work.encoder.layers[1].ffn_norm.weight)

    class World:
        rank, size, device = 0, 1, torch.device("cpu")

    stream: Any = iter(())
    world: Any = World()
    state = TrainState(kind, learner, Stacking(learner, kind.config, 6), stream, world, 1)
    for parameter in learner.parameters():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    old = {name: state.optimizer.state[parameter] for name, parameter in learner.named_parameters()}
    state.step = 3
    state.phase.after_update(state)
    new = {name: state.optimizer.state[parameter] for name, parameter in learner.named_parameters()}
    assert state.phase.logs() == {"depth": 6.0}
    maps = "objectives.layer_to_layer.maps"
    for ours, theirs in (("student.layers.5.", "student.layers.2."), (f"{maps}.2.", f"{maps}.1.")):
        for name in (name for name in new if name.startswith(ours)):
            torch.testing.assert_close(new[name]["exp_avg"], old[theirs + name.removeprefix(ours)]["exp_avg"])
    steps = [value["step"].data_ptr() for value in new.values()]
    assert len(set(steps)) == len(steps)  # a counter of its own for each copy


def test_a_stopped_run_ends_as_the_undisturbed_one(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"recipe": "interleaved-stacking", "data": speech_folder, "device": "cpu", "larger": True}
    options["overrides"] = [*SMALL, *STAGE, *FAST, "save_minutes=0", "log_every=1", "stages.evaluate=false"]
    api.compress(teacher_folder, out=tmp_path / "whole", **options)
    grown = Stacking.after_update

    def stopping(self: Stacking, state: TrainState) -> None:
        grown(self, state)
        if state.step == 5:
            raise Stopped("here")

    monkeypatch.setattr(Stacking, "after_update", stopping)
    with pytest.raises(Stopped):
        api.compress(teacher_folder, out=tmp_path / "again", **options)
    monkeypatch.setattr(Stacking, "after_update", grown)
    api.compress(teacher_folder, out=tmp_path / "again", **options)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again"))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert any(name.startswith("layers.5.") or ".layers.5." in name for name in one)


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(ValueError, match="divisor"):
        stage("stages.distill.start=4").prepare(Work(Encoder(tiny_shape(6))), one_teacher())
    with pytest.raises(ValueError, match="more steps"):
        stage("stages.distill.steps=1", "stages.distill.start=1", "objectives.layer_to_layer.layers=[['1/1']]",
              "objectives.layer_to_layer.weights=[]").prepare(Work(Encoder(tiny_shape(6))), one_teacher())  # fmt: skip
    with pytest.raises(ValueError, match="must be the first that trains"):
        load_recipe("teacher-fed", ["stages.whole.kind=stack"], fixed={"teacher": "x"})
