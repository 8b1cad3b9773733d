"""How probes learn: solved to convergence, for passes over the data, or for a benchmark's number of updates; and what is not finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sottovoce.core.registry import TASKS
from sottovoce.core.types import Features
from sottovoce.data import Recordings
from sottovoce.evaluation.features.pieces import NOT_FINITE
from sottovoce.evaluation.features.store import FeatureStore, Piece
from sottovoce.evaluation.heads.linear import MeanPool, Scaled
from sottovoce.evaluation.heads.probe import Examples, NotFinite, Probe, fit, sweep
from sottovoce.evaluation.heads.schedule import L2, Schedule, Training
from sottovoce.evaluation.heads.solver import layers_first, minimise, solve
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.suite.config import single
from tests.unit.probing_helpers import SYMBOLS, Levels, levels_subject, recording

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples[list[int]]:
    """120 recordings of three symbols; one of three classes, which the first symbol tells for two thirds, and chance for the rest: no
    weights fit all of them, so that the loss has a minimum even without L2."""
    folder, random = tmp_path_factory.mktemp("solver"), np.random.default_rng(0)
    items, targets = [], []
    for i in range(120):
        symbols = random.integers(1, 7, 3).tolist()
        items.append(recording(folder, str(i), symbols, {}))
        targets.append([int(symbols[0] % 3 if random.random() < 0.67 else random.integers(3))])
    subject = levels_subject()
    features = FeatureStore(folder / "features").get(subject, [Piece(item) for item in items], "pooled")
    return Examples(features, targets, [""] * len(items))


def head() -> MeanPool:
    return MeanPool(SYMBOLS, 256, [3])


def loss(outputs: list[Tensor], lengths: Tensor, targets: list[list[int]]) -> Tensor:
    return F.cross_entropy(outputs[0], torch.tensor(targets)[:, 0])


def scores(probe: Probe, examples: Examples[list[int]]) -> tuple[float, float]:
    """Mean loss and accuracy."""
    rows = examples.features.batch(range(len(examples)))
    with torch.no_grad():
        outputs = probe(rows)
        right = outputs[0].argmax(-1) == torch.tensor(examples.targets)[:, 0]
        return float(loss(outputs, rows.lengths, examples.targets)), float(right.float().mean())


class TestSolver:
    def test_ends_where_a_long_schedule_of_adam_does(self, examples: Examples[list[int]]) -> None:
        probe = Probe(2, SYMBOLS, Scaled(head()))
        minimise(probe, layers_first(examples.features), loss, examples.targets, 1e-9)
        solved, accuracy = scores(probe, examples)

        def judge(probe: Probe) -> float:
            return -scores(probe, examples)[0]

        schedule = Schedule((0.02,), 3000, batch=len(examples), evaluate_every=500)
        long, _ = fit(head, loss, judge, examples, schedule, 1, 0.02, CPU)
        trained, reached = scores(long, examples)
        assert solved == pytest.approx(trained, abs=2e-3)
        assert accuracy == pytest.approx(reached, abs=0.02)
        assert 0.55 < accuracy < 0.95

    def test_the_strength_is_the_best_on_dev_and_every_trial_is_recorded(self, examples: Examples[list[int]]) -> None:
        judged: list[float] = []
        wanted = [0.1, 0.5, 0.2, 0.4, 0.9]

        def judge(probe: Probe) -> float:
            judged.append(wanted[len(judged)])
            return judged[-1]

        probe, trials = solve(head, loss, judge, examples, L2, False, 1, CPU)
        assert probe is not None
        assert [trial["l2"] for trial in trials] == [1e-1, 1e-2, 1e-3, 1e-4]  # two were no better than the second
        assert [trial["chosen"] for trial in trials] == [False, True, False, False]
        assert trials[1]["dev"] == 0.5
        again, _ = solve(head, loss, lambda probe: wanted[0], examples, [1e-1], False, 7, CPU)
        assert again is not None
        assert trials[0]["loss"] == pytest.approx(scores(again, examples)[0], abs=1e-5)  # nothing depends on the seed

    def test_weaker_strengths_fit_better(self, examples: Examples[list[int]]) -> None:
        _, trials = solve(head, loss, lambda probe: -scores(probe, examples)[0], examples, L2, True, 1, CPU)
        losses = [trial["loss"] for trial in trials]
        assert losses == sorted(losses, reverse=True)

    def test_more_outputs_than_the_projection_keep_its_rank(self, examples: Examples[list[int]]) -> None:
        assert isinstance(Scaled(MeanPool(40, 8, [20])).projector, torch.nn.Linear)
        assert isinstance(Scaled(MeanPool(40, 8, [5, 3])).projector, torch.nn.Identity)
        narrow, _ = solve(
            lambda: MeanPool(SYMBOLS, 2, [3]), loss, lambda p: scores(p, examples)[1], examples, [1e-4], False, 1, CPU
        )
        assert narrow is not None
        assert scores(narrow, examples)[1] > 0.55

    def test_a_loss_that_is_not_finite_is_no_result(self, examples: Examples[list[int]]) -> None:
        def broken(outputs: list[Tensor], lengths: Tensor, targets: list[list[int]]) -> Tensor:
            return loss(outputs, lengths, targets) * float("nan")

        probe, trials = solve(head, broken, lambda probe: 1.0, examples, L2, False, 1, CPU)
        assert probe is None
        assert trials[0]["dev"] is None
        assert "nan" in trials[0]["left_out"]


class TestSchedules:
    def test_passes_scale_with_the_data_and_never_exceed_the_benchmark(self) -> None:
        short, superb = Training(passes=10, batch=8, lrs=(1e-3,)), Training(steps=1000)
        for items, steps in ((16, 200), (800, 1000), (400, 500)):
            assert Training().schedule(items, short, superb).steps == steps
        found = Training(passes=20, batch=4, patience=3).schedule(40, short, superb)
        assert (found.steps, found.batch, found.patience, found.lrs) == (200, 4, 3, (1e-3,))

    def test_steps_are_what_they_were(self) -> None:
        """A record of an earlier version says all of these, so that it can still count."""
        assert Training(steps=5) == Training((1e-4,), 5, 32, 2_000, 10, 1.0, None, False, 0)

    @pytest.mark.parametrize(
        ("training", "says"),
        [
            ({"steps": 5, "passes": 2}, "no place beside"),
            ({"l2": ()}, "at least one strength"),
            ({"passes": 0}, "above 0"),
        ],
    )
    def test_says_what_is_wrong(self, training: dict[str, object], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            Training(**training)  # type: ignore[arg-type]

    def test_a_field_that_the_solver_does_not_use_is_refused(self) -> None:
        ks, pr = TASKS.get("ks"), TASKS.get("pr")
        with pytest.raises(ValueError, match=r"training\.lrs .* solved to convergence; set training\.steps"):
            ks(ks.Config(training=Training(lrs=(1e-3,))))
        ks(ks.Config(training=Training(lrs=(1e-3,), passes=3)))
        with pytest.raises(ValueError, match=r"training\.l2 is for heads"):
            pr(pr.Config(training=Training(l2=(1.0,)))).schedule(100, Workbench(FeatureStore()))

    def test_superb_is_the_benchmarks_and_steps_take_the_rest_from_it(self) -> None:
        def training(task: str, *overrides: str, schedule: str | None = None) -> Training:
            found: Training = single(task, "x.tsv", overrides, schedule).tasks[task].task.config.training
            return found

        assert training("ks", schedule="superb") == Training((1e-4,), 200_000, 32, 5_000, 10, 1.0, None, False, 0)
        assert training("pr", schedule="superb") == Training((1e-2,), 100_000, 32, 1_000, 10, 1.0, None, False, 0)
        assert training("er", schedule="superb").steps == 30_000
        assert training("pr", "training.steps=7").lrs == (1e-2,)
        assert training("pr", "training.steps=7", "training.lrs=[0.5]", schedule="superb").lrs == (0.5,)
        assert training("pr") == Training()

    def test_records_of_steps_outlive_the_change_of_the_default(self) -> None:
        assert TASKS.get("ks").version_of(1, {"training": {"steps": 10}}) == TASKS.get("ks").version
        assert TASKS.get("ks").version_of(1, {"training": {"steps": None}}) == 1
        assert TASKS.get("asv").version_of(1, {"training": {"steps": 10}}) == 1  # its interval has changed since
        assert TASKS.get("asv").version_of(2, {"training": {"steps": 10}}) == 3


def words(folder: Path, count: int = 36) -> Recordings:
    """Recordings of one of three symbols, which is their label."""
    splits = ("train", "train", "dev", "test")
    return Recordings(
        recording(folder, str(i), [1 + i % 3] * 2, {"label": f"w{i % 3}", "split": splits[i // 3 % 4], "score": str(i % 3)})
        for i in range(count)
    )


def run(name: str, recordings: Recordings, folder: Path, said: list[str] | None = None, **settings: object) -> Outcome:
    cls = TASKS.get(name)
    bench = Workbench(FeatureStore(folder / "bank"), seeds=(1, 2), say=(said if said is not None else []).append)
    made: Outcome = cls(cls.Config(**settings)).measure(levels_subject(), recordings, bench)
    return made


class TestTasks:
    def test_a_linear_head_is_solved_by_default(self, tmp_path: Path) -> None:
        said: list[str] = []
        outcome = run("ks", words(tmp_path), tmp_path, said)
        assert outcome.measures[0].value == 100
        assert outcome.details["schedule"]["name"] == "solved"
        assert all("l2" in trial for trial in outcome.trials)
        assert any("solved to convergence" in text for text in said)
        assert outcome.measures[0].per_seed == (100.0,)  # nothing random: one probe serves all seeds

    def test_passes_are_said(self, tmp_path: Path) -> None:
        said: list[str] = []
        outcome = run("ks", words(tmp_path), tmp_path, said, training=Training(passes=1, batch=9))
        assert outcome.details["schedule"]["name"] == "passes"
        assert any("200 updates of 9" in text and "--schedule superb" in text for text in said)

    def test_trials_that_diverge_are_named_left_out_and_counted(self, tmp_path: Path) -> None:
        said: list[str] = []
        training = Training(lrs=(1e30, 1e-2), steps=40, batch=9, evaluate_every=20)
        outcome = run("ks", words(tmp_path), tmp_path, said, training=training)
        assert outcome.measures[0].value > 30
        assert outcome.details["left_out"] == {"trials": 1, "of": 3, "seeds": []}
        assert outcome.trials[0]["dev"] is None
        assert any("seed 1, lr 1e+30" in text and "left out" in text for text in said)
        with pytest.raises(ValueError, match=r"no trial of ks gives a finite score \(seed 1, lr 1e\+30"):
            run("ks", words(tmp_path), tmp_path, training=Training(lrs=(1e30,), steps=40, evaluate_every=1))

    def test_a_seed_that_diverges_is_left_out(self) -> None:
        class Model(torch.nn.Module):
            pass

        def one(seed: int, lr: float):  # type: ignore[no-untyped-def]
            from sottovoce.evaluation.heads.probe import Trial

            return Model(), Trial(seed, 1.0, 1, 1, 0.0, lr=lr, reason="the loss is nan at update 3" if seed == 2 else "")

        models, trials = sweep(one, (1e-3,), (1, 2, 3))
        assert list(models) == [1, 3]
        assert [trial.get("left_out") for trial in trials] == [None, "the loss is nan at update 3", None]

    def test_ratings_that_do_not_vary_leave_the_error(self, tmp_path: Path) -> None:
        alike = words(tmp_path)
        for item in alike:
            if item.fields["split"] != "train":
                item.fields["score"] = "1"  # type: ignore[index]
        for settings in ({}, {"training": Training(lrs=(1e-2,), steps=40, batch=9, evaluate_every=10, standardize=True)}):
            measures = {m.metric.name: m.record() for m in run("quality", alike, tmp_path, **settings).measures}
            assert measures["pearson"]["value"] is None
            assert measures["rmse"]["value"] < 1.5

    def test_outputs_that_are_not_numbers_are_no_answers(self, examples: Examples[list[int]], tmp_path: Path) -> None:
        probe = Probe(2, SYMBOLS, head())
        with torch.no_grad():
            probe.head.outputs[0].weight.fill_(float("nan"))
        task = TASKS.get("ks")(TASKS.get("ks").Config())
        with pytest.raises(NotFinite):
            task.rows(probe, examples, CPU)


def test_recordings_whose_features_are_not_finite_are_left_out(tmp_path: Path) -> None:
    class Broken(Levels):
        def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
            found = super().forward(wave, lengths)
            bad = wave.amax(1) > 30 / SYMBOLS  # symbol 31
            states = [torch.where(bad[:, None, None], torch.nan, x) for x in found.hidden]
            return Features(states, found.lengths, *states)

    items = words(tmp_path)
    items[0] = recording(tmp_path, "loud", [31, 31], {"label": "w0", "split": "train"})
    subject = replace(levels_subject(), encoder=Broken())
    task = TASKS.get("ks")(TASKS.get("ks").Config())
    for name, limit_gb in (("all", 1.0), ("none", 0.0), ("few", 5e-6)):  # that are kept
        outcome = task.measure(subject, items, Workbench(FeatureStore(tmp_path / name, limit_gb)))
        assert [(row["path"], row["reason"]) for row in outcome.skipped] == [(items[0].path, NOT_FINITE)]
        assert outcome.measures[0].value == 100


def test_transcripts_that_do_not_fit_are_counted_and_all_of_them_are_no_score(tmp_path: Path) -> None:
    texts = {0: "a " * 60, 1: "ab", 2: "ba", 3: "ab ab", 4: "b a"}
    splits = ("train", "train", "train", "dev", "test")
    items = Recordings(
        recording(tmp_path, str(i), [1, 2, 1, 2], {"text": texts[i], "split": splits[i]}) for i in range(len(texts))
    )
    said: list[str] = []
    small = {"projector": 8, "layers": 1, "units": 8, "training": Training(lrs=(1e-2,), steps=4, batch=4, evaluate_every=2)}
    outcome = run("asr", items, tmp_path, said, **small)
    assert [row["reason"] for row in outcome.skipped] == ["more tokens than frames"]
    assert any("1 of 3 train transcripts have more tokens than frames" in text for text in said)
    with pytest.raises(ValueError, match=r"all 1 train transcripts have more tokens .* check the text column"):
        run("asr", Recordings([items[0], items[3], items[4]]), tmp_path, **small)
