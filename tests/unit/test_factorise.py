"""Low rank in closed form: exact at full rank, LiteASR's rule below it, within its budget, the same when it is interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.core.config import ConfigError
from sottovoce.encoder import Encoder
from sottovoce.pruning.factors import directions, matching, projections
from sottovoce.pruning.moments import collect
from sottovoce.train import api
from sottovoce.train.recipe import load_recipe
from sottovoce.train.stages.factorise import Factorise, factorised
from tests.interruption import ends_the_same
from tests.unit.test_pruning_exactness import distance
from tests.unit.test_pruning_styles import make, waves
from tests.unit.test_train import FAST


def looked_at(encoder: Encoder, clips: list[torch.Tensor]) -> dict:
    """Directions of all projections."""
    found = {each.name: each for each in projections(encoder.config)}
    wide = [name for name, each in found.items() if each.outputs > (each.width if each.reads else each.dim)]
    moments = collect(encoder, clips, wide, [name for name in found if name not in wide])
    state = encoder.state_dict()
    return {name: directions(state[f"{name}.weight"], state.get(f"{name}.bias"), moments[name], name in wide) for name in found}


def clips(count: int = 3) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    return [0.1 + torch.randn(1, 1600 + 320 * i, generator=random) for i in range(count)]


@pytest.mark.parametrize("style", ["hubert-base", "whisper", "moonshine", "mixed"])
def test_full_rank_is_exact_also_on_audio_that_was_not_heard(style: str) -> None:
    encoder = make(style)
    full = {each.name: each.full for each in projections(encoder.config)}
    student = factorised(encoder, looked_at(encoder, clips(1)), full)
    with torch.no_grad():
        assert distance(encoder(*waves(True)), student(*waves(True))) < 2e-4


def test_it_is_the_principal_components_of_the_outputs() -> None:
    """LiteASR's own formula, on the outputs as they are: W -> (W V) V^T, b -> mean + (b - mean) V V^T."""
    encoder, name = make("hubert-base"), "layers.0.ffn.down_proj"
    layer, heard = encoder.layers[0].ffn.down_proj, []
    handle = layer.register_forward_hook(lambda module, inputs, output: heard.append((inputs[0][0], output[0])))
    with torch.no_grad():
        for wave in clips():
            encoder(wave)
        handle.remove()
        x, y = (torch.cat(part).double() for part in zip(*heard, strict=True))
        _, _, v = torch.linalg.svd(y - y.mean(0), full_matrices=False)
        v = v[:9].t()
        expected = y.mean(0) + (y - y.mean(0)) @ v @ v.t()
        along = looked_at(encoder, clips())
        student = factorised(encoder, along, {name: 9})
        torch.testing.assert_close(student.layers[0].ffn.down_proj(x.float()), expected.float(), rtol=1e-3, atol=1e-3)
        variance = (y - y.mean(0)).square().sum()
        lost = (y - expected).square().sum() / variance
        torch.testing.assert_close(along[name].left_out()[9], lost, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("of_inputs", [True, False])
def test_directions_from_inputs_are_those_from_outputs(of_inputs: bool) -> None:
    random = torch.Generator().manual_seed(4)
    x = torch.randn(300, 12, generator=random) @ torch.randn(12, 12, generator=random) + 1
    linear = torch.nn.Linear(12, 12)
    y = linear(x).detach().double()
    from sottovoce.pruning.moments import Moments

    rows = x if of_inputs else y.float()
    moments = Moments(0, torch.zeros(12), torch.zeros(12), torch.zeros(12, 12))
    moments.add(rows)
    found = directions(linear.weight.detach(), linear.bias.detach(), moments, of_inputs)
    assert found.mean is not None
    torch.testing.assert_close(found.mean, y.mean(0), rtol=1e-4, atol=1e-4)
    values = torch.linalg.eigvalsh(torch.cov(y.t(), correction=0)).flip(0)
    torch.testing.assert_close(found.variances, values, rtol=1e-3, atol=1e-3 * float(values[0]))


def run(teacher: Path, data: Path, out: Path, *overrides: str, recipe: str = "liteasr", **options: object) -> api.Result:
    given = [*FAST, "stages.factorise.multiple=1", "stages.factorise.clips=6", *overrides]
    return api.compress(teacher, recipe=recipe, data=data, out=out, device="cpu", overrides=given, **options)


@pytest.mark.parametrize(("unit", "keep"), [("params", 0.8), ("macs", 0.95)])
def test_one_threshold_meets_the_budget(
    unit: str, keep: float, teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    result = run(teacher_folder, speech_folder, tmp_path / "s", budget=unit, keep=keep)
    assert result.met
    assert result.record["budget"]["after"] == pytest.approx(keep, rel=0.01)
    report = json.loads((tmp_path / "s/run/factorise.json").read_text())
    assert report["ranks"]
    assert "Training reached" not in result.record["budget"]["text"]
    again = run(teacher_folder, speech_folder, tmp_path / "t", budget=unit, keep=keep)
    ours, theirs = load_file(result.out / "model.safetensors"), load_file(again.out / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_by_variance_it_keeps_what_was_asked_for(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    options = ["stages.factorise.rank=variance", "stages.factorise.attention=0.9", "stages.factorise.other=0.9"]
    result = run(teacher_folder, speech_folder, tmp_path / "s", *options)
    few = json.loads((tmp_path / "s/run/factorise.json").read_text())["ranks"]
    assert "budget" not in result.record
    assert few
    with pytest.raises(ConfigError, match="need a recipe that prunes"):
        run(teacher_folder, speech_folder, tmp_path / "t", *options, keep=0.5)


def test_mistakes_are_said_before_anything_runs(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no projection"):
        run(teacher_folder, speech_folder, tmp_path / "s", "stages.factorise.layers=[nothing]")
    with pytest.raises(ValueError, match=r"cannot keep only 0\.1"):
        run(teacher_folder, speech_folder, tmp_path / "t", keep=0.1)
    with pytest.raises(ConfigError, match="no stage of this recipe trains"):
        load_recipe("liteasr", steps=10, fixed={"teacher": "x"})
    assert Factorise.Config().lost("layers.0.attention.q_proj") == pytest.approx(0.01)
    assert not matching(make("hubert-base").config, ["*.convolution.*"])


def test_a_factored_student_is_trained_and_resumed(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["stages.distill.steps=4", "stages.distill.warmup=1", "save_minutes=0"]

    def repaired(out: str) -> api.Result:
        return run(teacher_folder, speech_folder, tmp_path / out, *options, recipe="liteasr-repaired", keep=0.85)

    ends_the_same(repaired, monkeypatch)


def test_ranks_found_in_closed_form_can_be_learned_further(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    """Principal directions instead of singular ones, then gates on them."""
    mine = tmp_path / "both.yaml"
    mine.write_text(
        "include: liteasr.yaml\nobjectives: {layer_to_layer: {layers: [['0'], ['1/1']]}}\n"
        "pruning: {units: [head, low_rank], ramp: 2, budget: {keep: 0.7}}\n"
        "stages: {factorise: {rank: variance}, evaluate: false, prune: {kind: prune, steps: 4}, cut: {kind: cut}}\n"
    )
    result = run(teacher_folder, speech_folder, tmp_path / "s", recipe=str(mine))
    assert result.met
