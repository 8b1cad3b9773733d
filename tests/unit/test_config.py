"""Recipes: what a person writes, and what they are told when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sottovoce.core.config import ConfigError, build, overlay, override, plain, read_yaml
from sottovoce.train.recipe import Recipe, load_recipe


def test_a_misspelt_key_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'stages.prune.stepz'; did you mean 'steps'"):
        load_recipe("dphubert", ["stages.prune.stepz=3"])


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as problem:
        load_recipe("dphubert", ["pruning.budget.keep=lots", "data.min_seconds=[1]", "sead=3"])
    assert len(str(problem.value).splitlines()) == 3


def test_unknown_objective_and_recipe_are_named() -> None:
    with pytest.raises(ConfigError, match=r"layer_to_layr.*did you mean 'layer_to_layer'"):
        load_recipe("dphubert", ["objectives.layer_to_layr.l1=2"])
    with pytest.raises(ConfigError, match="did you mean 'dphubert'"):
        load_recipe("dphuber")


def test_overrides_reach_components_and_scientific_notation_is_a_number() -> None:
    recipe = load_recipe("dphubert", ["objectives.layer_to_layer.cosine_kind=log_sigmoid", "stages.prune.lr=3e-4"])
    assert recipe.objectives["layer_to_layer"].config.cosine_kind == "log_sigmoid"
    assert recipe.stages["prune"].config.lr == pytest.approx(3e-4)


def test_steps_scale_the_whole_schedule() -> None:
    recipe = load_recipe("dphubert", steps=300)
    prune, distill = (recipe.stages[name].config for name in ("prune", "distill"))
    assert (prune.steps, distill.steps) == (200, 100)
    assert (prune.warmup, distill.warmup, recipe.pruning.ramp) == (60, 20, 20)


def test_what_is_written_on_the_command_line_is_not_scaled() -> None:
    recipe = load_recipe("dphubert", ["pruning.ramp=50", "pruning.gate_lr=0.001"], steps=301)
    assert (recipe.pruning.ramp, recipe.pruning.gate_lr) == (50, 0.001)
    assert recipe.pruning.multiplier_lr > 0.02  # raised, so that a short schedule can move at all
    assert recipe.steps == 301
    with pytest.raises(ConfigError, match="at least one update each"):
        load_recipe("dphubert", steps=1)


def test_a_users_recipe_includes_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("include: dphubert.yaml\npruning: {budget: {keep: 0.4}}\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe.pruning.budget.keep == 0.4
    assert recipe.stages["prune"].config.steps == 50_000


def test_a_recipe_survives_a_round_trip_through_plain_data() -> None:
    recipe = load_recipe("dphubert-demo")
    assert build(Recipe, plain(recipe)) == recipe


def test_dphubert_carries_the_papers_values() -> None:
    recipe = load_recipe("dphubert")
    prune, distill = recipe.stages["prune"].config, recipe.stages["distill"].config
    assert (prune.steps, prune.warmup, prune.lr, prune.clip) == (50_000, 15_000, 2e-4, 10.0)
    assert (distill.steps, distill.warmup, distill.lr) == (25_000, 5_000, 1e-4)
    assert recipe.pruning.units == ("conv", "head", "ffn")
    assert (recipe.pruning.budget.unit, recipe.pruning.budget.keep, recipe.pruning.ramp) == ("params", 0.25, 5000)
    assert (recipe.pruning.gate_lr, recipe.pruning.multiplier_lr) == (0.02, 0.02)


def test_include_overlays_key_by_key_and_false_takes_away(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("objectives: {layer_to_layer: {l1: 2.0}}\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\nobjectives: {layer_to_layer: {mse: 1.0}}\n")
    assert read_yaml(tmp_path / "b.yaml") == {"objectives": {"layer_to_layer": {"l1": 2.0, "mse": 1.0}}, "seed": 1}
    with pytest.raises(ConfigError, match="at least one objective"):
        load_recipe("dphubert", ["objectives.layer_to_layer=false"])


def test_an_override_without_a_value_says_how_to_write_one() -> None:
    with pytest.raises(ConfigError, match="write key=value"):
        override({}, ["seed"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stages.cut=false"], "next stage must be of kind cut"),
        (["stages.prune.prune=false", "stages.prune.kind=train"], "put one of kind prune there"),
        (["stages.prune.steps=300"], "warmup .15000. is longer than the stage"),
        (["stages.prune.steps=300", "stages.prune.warmup=10"], "ramp .5000. is longer"),
        (["stages.prune.accumulate=0"], "at least 1"),
        (["stages.prune.betas=[0.9]"], "two numbers"),
        (["stages.prune.lr=.nan"], "above 0"),
        (["stages.prune.lr=1/0"], "expected a number"),
        (["log_every=0"], "at least 1"),
        (["masking.span=0"], "span"),
        (["objective_weights.layer_to_layr=2"], "did you mean 'layer_to_layer'"),
        (["format=huggingface"], "or a family"),
        (["stages.result.kind=evaluate"], "cannot be a stage's name"),
        (["stages.evaluate.tasks=[fidelty]"], "did you mean 'fidelity'"),
        (
            ["stages.evaluate.tasks=[ks]"],
            r"ks reads the keyword in a column 'label', .* give its data, e.g. tasks: {ks: {data: FILE}}",
        ),
        (["stages.prune.kind=prun"], "did you mean 'prune'"),
        (["student.norm=grup", "student.name=random"], "not one of group, layer"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe("dphubert", overrides)


def test_text_stays_text_on_the_command_line() -> None:
    recipe = load_recipe("dphubert", ["data.where.language=no", "data.where.speaker=007"])
    assert recipe.data.where == {"language": "no", "speaker": "007"}
    assert load_recipe("dphubert", fixed={"teacher": "runs: old/a #2"}).teacher == "runs: old/a #2"


def test_a_component_can_be_named_short_and_have_fields_set(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("include: dphubert.yaml\nstudent: random\nstages: {prune: false, cut: false}\n")
    assert load_recipe(tmp_path / "r.yaml", ["student.dim=384"]).student.config.dim == 384
    assert load_recipe(tmp_path / "r.yaml", ["student.name=copy"], steps=5).student.name == "copy"


def test_include_without_a_name_and_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include:\nseed: 3\n")
    assert read_yaml(tmp_path / "a.yaml") == {"seed": 3}
    (tmp_path / "b.yaml").write_text("include: c.yaml\n")
    (tmp_path / "c.yaml").write_text("include: b.yaml\n")
    with pytest.raises(ConfigError, match="includes itself"):
        read_yaml(tmp_path / "b.yaml")


def test_another_component_takes_nothing_over():
    base = {"student": {"name": "random", "dim": 192}}
    assert overlay(base, {"student": {"name": "copy"}}) == {"student": {"name": "copy"}}
    assert overlay(base, {"student": {"name": "random", "depth": 2}})["student"] == {"name": "random", "dim": 192, "depth": 2}
    assert overlay(base, {"student": {"dim": 64}})["student"] == {"name": "random", "dim": 64}
