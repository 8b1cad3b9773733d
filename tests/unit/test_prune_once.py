"""Pruning without training: every importance, choosing under a budget, least squares, scores on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sottovoce.core.registry import IMPORTANCES
from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder
from sottovoce.pruning import (
    Budget,
    BudgetConfig,
    choose,
    cut,
    encoder_cost,
    make_plan,
    named_tensors,
    prepare,
    prepare_config,
    total,
)
from sottovoce.pruning.importance.base import Evidence
from sottovoce.pruning.importance.clustering import ClusterImportance, ward
from sottovoce.pruning.moments import collect
from sottovoce.pruning.plan import PruningPlan, rebuild
from sottovoce.pruning.repair import readers, repaired
from sottovoce.reporting.collect import gather
from sottovoce.reporting.composition import picture
from sottovoce.train import api
from sottovoce.train.stages.prune_once import compared
from tests.unit.test_factorise import clips
from tests.unit.test_pruning_budget import TWELVE
from tests.unit.test_pruning_exactness import distance
from tests.unit.test_pruning_styles import all_units, make, waves
from tests.unit.test_train import FAST

KEPT = dict[str, list[int]]


def after_cut(encoder: Encoder, plan: PruningPlan, kept: KEPT, changed: dict[str, torch.Tensor] | None = None) -> Encoder:
    ones = {group.name: torch.zeros(group.size).index_fill(0, torch.tensor(kept[group.name]).long(), 1.0) for group in plan}
    return cut(rebuild(encoder, encoder.config, {**encoder.state_dict(), **(changed or {})}), plan, ones)


def half_kept(plan: PruningPlan) -> KEPT:
    random = torch.Generator().manual_seed(3)
    return {
        group.name: sorted(torch.randperm(group.size, generator=random)[: max(1, group.size // 2)].tolist()) for group in plan
    }


@pytest.mark.parametrize(("style", "unit", "module"), [
    ("hubert-base", "head", "layers.0.attention.out_proj"), ("hubert-base", "ffn", "layers.0.ffn.down_proj"),
    ("hubert-base", "conv", "frontend.convs.2.conv"), ("hubert-base", "conv", "frontend.projection"),
    ("joined", "conv", "frontend.projection"), ("whisper", "conv", "frontend.projection"),
    ("moonshine", "head", "layers.0.attention.out_proj"), ("moonshine", "ffn", "layers.0.ffn.down_proj"),
    ("mixed", "glu", "layers.0.convolution.out_proj"), ("mixed", "ffn", "layers.0.ffn1.down_proj"),
])  # fmt: skip
def test_least_squares_is_the_best_that_the_readers_can_do(style: str, unit: str, module: str) -> None:
    """Against torch's own solver, on what the module read; and better than the cut alone."""
    encoder = make(style)
    plan = make_plan(encoder.config, (unit,))
    kept = half_kept(plan)
    moments = collect(encoder, clips(), [module])
    whole = {module: moments[module], **{name: moments[module] for name in readers(plan, kept) if name != module}}
    only = PruningPlan(
        tuple(group for group in plan if module in {part.name.rpartition(".")[0] for part in group.slices if part.scale})
    )
    changed = repaired(encoder, only, {group.name: kept[group.name] for group in only}, whole, ridge=0.0)
    rows: list[torch.Tensor] = []
    layer = dict(encoder.named_modules())[module]
    from sottovoce.pruning.moments import windows

    def hear(_: object, inputs: tuple[torch.Tensor]) -> None:
        rows.append(windows(layer, inputs[0]) if isinstance(layer, torch.nn.Conv1d) else inputs[0].flatten(0, -2))

    handle = layer.register_forward_pre_hook(hear)
    with torch.no_grad():
        for wave in clips():
            encoder(wave)
    handle.remove()
    x = torch.cat(rows).double()
    weight, bias = (getattr(layer, name) for name in ("weight", "bias"))
    y = x @ weight.detach().double().flatten(1).t()
    index = torch.arange(weight[0].numel()).view(weight.shape[1:]).expand_as(weight)
    from sottovoce.pruning import cut_like

    columns = cut_like({f"{module}.weight": index}, only, kept)[f"{module}.weight"][0].flatten()
    inputs = torch.cat([x[:, columns], torch.ones(len(x), int(bias is not None))], 1)
    best = inputs @ torch.linalg.lstsq(inputs, y, driver="gelsd").solution
    ours = x[:, columns] @ changed[f"{module}.weight"].double().flatten(1)[:, columns].t()
    plain = x[:, columns] @ weight.detach().double().flatten(1)[:, columns].t()
    if bias is not None:
        ours += (changed[f"{module}.bias"] - bias.detach()).double()
    error, least, none = ((guess - y).square().mean() for guess in (ours, best, plain))
    assert error < 0.7 * none
    assert error < least * 1.02 + 1e-5 * y.square().mean()


@pytest.mark.parametrize("style", ["hubert-base", "whisper", "moonshine", "w2v-bert"])
def test_repair_brings_the_student_nearer(style: str) -> None:
    encoder = make(style)
    plan = make_plan(encoder.config, ("head", "ffn"))
    kept = half_kept(plan)
    heard = clips(6)
    changed = repaired(encoder, plan, kept, collect(encoder, heard, readers(plan, kept)))
    plain, better = after_cut(encoder, plan, kept), after_cut(encoder, plan, kept, changed)
    with torch.no_grad():
        errors = [
            sum(float((student(wave).last - encoder(wave).last).square().mean()) for wave in heard) for student in (plain, better)
        ]
    assert errors[1] < 0.9 * errors[0]


def test_repair_of_nothing_changes_nothing() -> None:
    encoder = make("hubert-base")
    plan = make_plan(encoder.config, ("head", "ffn"))
    kept = {group.name: list(range(group.size)) for group in plan}
    assert readers(plan, kept) == []
    assert repaired(encoder, plan, kept, {}) == {}
    gone: KEPT = {**kept, "layers.1.ffn": [], "layers.1.head": []}
    changed = repaired(encoder, plan, gone, collect(encoder, clips(), readers(plan, gone)))
    student = after_cut(encoder, plan, gone, changed)  # what is left of a part is its mean
    assert torch.equal(student.layers[1].ffn.down_proj.bias, changed["layers.1.ffn.down_proj.bias"])


@pytest.mark.parametrize("unit", ["params", "macs", "latency"])
@pytest.mark.parametrize("units", [("conv", "head", "ffn"), ("attention", "feed_forward", "head", "ffn"), ("head", "low_rank")])
def test_choosing_meets_the_budget_and_prefers_high_scores(unit: str, units: tuple[str, ...]) -> None:
    shape = prepare_config(TWELVE, units)
    plan = make_plan(shape, units)
    random = torch.Generator().manual_seed(1)
    scores = {group.name: torch.rand(group.size, generator=random) for group in plan}
    budget = Budget(BudgetConfig(unit, 0.75), shape, plan)  # type: ignore[arg-type]
    for rule in ("as_is", "group", "cost"):
        kept, report = choose(compared(scores, budget, rule), budget)
        assert report.met, report.text
        assert report.before is None
        for group in plan:
            inside = scores[group.name][kept[group.name]]
            outside = scores[group.name][[unit for unit in range(group.size) if unit not in set(kept[group.name])]]
            assert not len(inside) or not len(outside) or inside.min() >= outside.max()
    if unit != "latency" and "low_rank" not in units:
        student = after_cut(Encoder(TWELVE), plan, kept)
        share = getattr(total(encoder_cost(student.config)), unit) / getattr(total(encoder_cost(TWELVE)), unit)
        assert share == pytest.approx(report.after, rel=1e-9)


def test_a_whole_budget_keeps_everything() -> None:
    plan = make_plan(TWELVE, ("head", "ffn"))
    kept, report = choose({group.name: torch.rand(group.size) for group in plan}, Budget(BudgetConfig("macs", 1.0), TWELVE, plan))
    assert report.met
    assert all(len(kept[group.name]) == group.size for group in plan)


def evidence(encoder: Encoder, units: tuple[str, ...]) -> Evidence:
    plan = make_plan(encoder.config, units)
    random = torch.Generator().manual_seed(5)

    def gradients(spread: float) -> Any:
        return ({group.name: torch.randn(group.size, generator=random) for group in plan} for _ in range(3))

    def origin(source: str) -> dict[str, torch.Tensor]:
        return {name: tensor + 0.1 if tensor.is_floating_point() else tensor for name, tensor in named_tensors(encoder).items()}

    return Evidence(encoder, plan, lambda modules: collect(encoder, clips(), modules, products=False), gradients, origin)


@pytest.mark.parametrize("style", ["hubert-base", "wavlm-large", "whisper", "moonshine", "mixed", "w2v-bert"])
@pytest.mark.parametrize("name", IMPORTANCES.names())
def test_scores_every_unit_of_every_style(name: str, style: str) -> None:
    units = tuple(unit for unit in all_units(style) if unit not in ("position", "low_rank"))
    given = evidence(make(style), units)
    scores = IMPORTANCES.get(name)().scores(given)
    assert scores.keys() == {group.name for group in given.plan}
    for group in given.plan:
        score = scores[group.name]
        assert score.shape == (group.size,)
        assert bool((score >= 0).all() and score.isfinite().all())
    varied = [score for score in scores.values() if len(score) > 3]
    assert sum(len(score.unique()) > 1 for score in varied) == len(varied) or name == "movement"


def test_units_that_nothing_reads_are_refused_by_name() -> None:
    encoder = prepare(make("hubert-base"), ("position",))
    for name in ("activation", "clustering"):
        with pytest.raises(ValueError, match="none read those of kind 'position'"):
            IMPORTANCES.get(name)().scores(evidence(encoder, ("position",)))
    assert len(IMPORTANCES.get("magnitude")().scores(evidence(encoder, ("position",)))["position"]) == 4


def test_activation_is_the_energy_that_a_unit_adds() -> None:
    encoder = make("hubert-base")
    score = IMPORTANCES.get("activation")().scores(evidence(encoder, ("ffn",)))["layers.1.ffn"]
    heard = []
    layer = encoder.layers[1].ffn.down_proj
    layer.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0][0]))
    with torch.no_grad():
        for wave in clips():
            encoder(wave)
        x = torch.cat(heard)
        added = x[:, 7, None] * layer.weight[:, 7]  # (frames, D)
    torch.testing.assert_close(score[7], added.square().sum(1).mean().sqrt())


def test_clusters_nest_and_equal_units_go_first() -> None:
    points = torch.tensor([[0.0, 0], [0, 0], [5, 5], [5, 5.1], [9, 0]])
    scores, joins = ward(points)
    assert sorted(scores.argsort()[:2].tolist()) in ([0, 2], [0, 3], [1, 2], [1, 3])
    assert float(scores[[0, 1]].min()) == 0
    assert len(joins) == 4
    two = [i for i in range(5) if float(scores[i]) in scores.sort().values[-2:].tolist()]
    centre = points.mean(0)
    from itertools import combinations

    def within(groups: list[list[int]]) -> float:
        return sum(float((points[g] - points[g].mean(0)).square().sum()) for g in groups)

    members = {unit: [unit] for unit in two}
    for unit in set(range(5)) - set(two):
        at = unit
        while at not in members:
            at = joins[at]
        members[at].append(unit)
    least = min(within([list(a), [i for i in range(5) if i not in a]]) for n in (1, 2) for a in combinations(range(5), n))
    assert within(list(members.values())) == pytest.approx(least)
    lost = float(scores.sort().values[2])
    assert lost == pytest.approx(within(list(members.values())) / float((points - centre).square().sum()), rel=1e-5)


def test_joining_equal_units_changes_nothing() -> None:
    """Two feed-forward units that are the same: one of them, read with both weights, says the same."""
    encoder = make("hubert-base")
    ffn = encoder.layers[0].ffn
    with torch.no_grad():
        for tensor in (ffn.up_proj.weight, ffn.up_proj.bias):
            tensor[1] = tensor[0]
        ffn.down_proj.weight[:, 1] = ffn.down_proj.weight[:, 0]
    plan = make_plan(encoder.config, ("ffn:layers.0.*",))
    importance = ClusterImportance()
    scores = importance.scores(Evidence(encoder, plan, None, None, None))  # type: ignore[arg-type]
    kept = sorted(scores["layers.0.ffn"].argsort()[1:].tolist())
    changed = importance.rewritten(named_tensors(encoder), plan["layers.0.ffn"], kept)
    student = after_cut(encoder, plan, {"layers.0.ffn": kept}, dict(changed))
    with torch.no_grad():
        assert distance(encoder(*waves(True)), student(*waves(True))) < 1e-5
    assert importance.rewritten(named_tensors(encoder), plan["layers.0.ffn"], []) == {}
    assert (
        ClusterImportance().rewritten(named_tensors(encoder), plan["layers.0.ffn"], kept).keys() == changed.keys()
    )  # scores from disk


def run(teacher: Path, data: Path, out: Path, *overrides: str, recipe: str = "training-free", **options: Any) -> api.Result:
    given = [*FAST, "stages.prune.clips=6", *overrides]
    return api.compress(teacher, recipe=recipe, data=data, out=out, device="cpu", keep=0.6, overrides=given, **options)


def test_scores_are_computed_once_kept_and_read(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    objective = ["stages.prune.importance.name=fisher"]
    first = run(teacher_folder, speech_folder, tmp_path / "a", *objective)
    assert first.met
    assert "scores read" not in capsys.readouterr().err
    (cached,) = (tmp_path / "cache/scores").iterdir()
    own = load_file(tmp_path / "a/run/prune-scores.safetensors")
    assert all(torch.equal(score, own[name]) for name, score in load_file(cached).items())
    smaller = run(teacher_folder, speech_folder, tmp_path / "b", *objective, "pruning.budget.round_to=8")
    assert "scores read" in capsys.readouterr().err
    assert smaller.met
    cached.write_bytes(b"damaged")
    again = run(teacher_folder, speech_folder, tmp_path / "c", *objective)
    assert "scores read" not in capsys.readouterr().err
    ours, theirs = load_file(first.out / "model.safetensors"), load_file(again.out / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (shown,) = gather([tmp_path / "a"]).runs
    drawn = picture(shown)
    assert drawn is not None
    assert drawn.compared


def test_it_may_follow_training_and_be_followed_by_it(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Movement since the start of the run, after a stage that trains; and a run that was killed while it pruned ends the same."""
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "moved.yaml"
    recipe.write_text(
        "include: dphubert.yaml\nstages: {prune: false, cut: false, distill: {steps: 3, warmup: 0}, evaluate: false,\n"
        "  once: {kind: prune_once, importance: movement, clips: 4}, repair: {kind: train, steps: 2}}\n"
        "augment: {share: 1.0}\n"
    )
    options: dict[str, Any] = {"recipe": str(recipe), "data": speech_folder, "device": "cpu", "keep": 0.6, "overrides": FAST}
    undisturbed = api.compress(teacher_folder, out=tmp_path / "a", **options)
    assert undisturbed.met
    from sottovoce.train.stages import prune_once

    with monkeypatch.context() as patch:
        patch.setattr(prune_once, "choose", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            api.compress(teacher_folder, out=tmp_path / "b", **options)
    resumed = api.compress(teacher_folder, out=tmp_path / "b", **options)
    ours, theirs = load_file(resumed.out / "model.safetensors"), load_file(undisturbed.out / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    report = json.loads((tmp_path / "b/run/once.json").read_text())
    assert report["repaired"] > 0


def test_rounds_go_down_step_by_step(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "rounds.yaml"
    recipe.write_text(
        "include: training-free.yaml\nstages: {prune: {keep: 0.8}, evaluate: false, again: {kind: prune_once, clips: 6}}\n"
    )
    result = run(teacher_folder, speech_folder, tmp_path / "a", recipe=str(recipe))
    first, last = (json.loads((tmp_path / f"a/run/{stage}.json").read_text())["budget"] for stage in ("prune", "again"))
    assert first["after"] == pytest.approx(0.8, rel=0.05)
    assert last["after"] == pytest.approx(0.6, rel=0.05)
    assert result.met == last["met"]
    with pytest.raises(ValueError, match="keep must be a share"):
        run(teacher_folder, speech_folder, tmp_path / "b", "stages.prune.keep=1.5")
    with pytest.raises(ValueError, match="need a recipe that prunes"):
        run(teacher_folder, speech_folder, tmp_path / "c", "stages.prune.keep=0.8")


def test_mistakes_are_said(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no objectives"):
        run(
            teacher_folder,
            speech_folder,
            tmp_path / "a",
            "stages.prune.importance.name=taylor",
            "objectives.layer_to_layer=false",
        )
    with pytest.raises(ValueError, match="take low_rank out"):
        run(
            teacher_folder,
            speech_folder,
            tmp_path / "b",
            "stages.prune.importance.name=movement",
            "pruning.units=[head,ffn,low_rank]",
        )
    with pytest.raises(ValueError, match="names 'nothing'"):
        run(teacher_folder, speech_folder, tmp_path / "c", "stages.prune.objectives=[nothing]")


def test_rows_of_a_batch_are_no_longer_than_the_longest() -> None:
    """Otherwise targets from disk, which end where the recording does, are shorter than what the student gives."""
    batch = Batch(torch.arange(30.0).view(3, 10), torch.tensor([10, 4, 6]), heard=torch.zeros(3, 10))
    some = batch.rows([1, 2])
    assert torch.equal(some.wave, batch.wave[1:, :6])
    assert some.heard is not None
    assert some.heard.shape == (2, 6)
