"""knn, retrieval, clustering: features that tell the labels score high, others score by chance, and no probe is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.statistics.metrics import unit_agreement
from tests.unit.probing_helpers import levels_subject, recording

NAMES = ("knn", "retrieval", "clustering")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """90 recordings of three symbols, which are the words; who speaks is another symbol, and chance is neither."""
    folder, random = tmp_path_factory.mktemp("lookup"), np.random.default_rng(0)
    made = []
    for i in range(90):
        fields = {
            "word": f"w{i % 3}",
            "chance": f"c{random.integers(3)}",
            "speaker": f"s{i // 3 % 5}",
            "split": "train" if i < 45 else "dev" if i < 66 else "test",
        }
        made.append(recording(folder, str(i), [*[1 + i % 3] * 4, 10 + int(random.integers(3))], fields))
    return made


def run(name: str, items: list[Recording], folder: Path, **settings: object) -> Outcome:
    cls = TASKS.get(name)
    bench = Workbench(FeatureStore(folder / "bank"), seeds=(1, 2))
    made: Outcome = cls(cls.Config(**settings)).measure(levels_subject(), Recordings(items), bench)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_labels_that_are_heard_score_high_and_others_by_chance(name: str, items: list[Recording], tmp_path: Path) -> None:
    heard, chance = (run(name, items, tmp_path, field=field).measures[0] for field in ("word", "chance"))
    assert heard.value > 90
    assert chance.value < 65
    assert heard.low is not None
    assert heard.high is not None
    assert heard.low <= heard.value <= heard.high
    assert heard.items == 24


def test_knn_takes_the_number_of_neighbours_that_is_best_on_dev(items: list[Recording], tmp_path: Path) -> None:
    outcome = run("knn", items, tmp_path, field="word", neighbours=(1, 45))
    assert outcome.details["choice"] in (1, 45)
    assert len(outcome.details["dev_by_layer"]) == 2
    assert outcome.details["majority"] == pytest.approx(100 / 3, abs=1)
    assert run("knn", items, tmp_path, field="word", layers=(1,)).details["layer"] == 1
    with pytest.raises(ValueError, match="has layers 0 to 1, and 'layers' names 7"):
        run("knn", items, tmp_path, field="word", layers=(7,))


def test_retrieval_can_keep_speakers_apart(items: list[Recording], tmp_path: Path) -> None:
    """Where the label is the speaker, nothing is an answer any more."""
    apart = run("retrieval", items, tmp_path, field="word", apart=True)
    assert apart.measures[0].value > 90
    assert apart.details["queries"] == 24
    with pytest.raises(ValueError, match="has no value on the dev split"):
        run("retrieval", items, tmp_path, field="speaker", apart=True)
    nobody = [Recording(i.id, i.path, duration=i.duration, fields={**i.fields, "speaker": ""}) for i in items]
    with pytest.raises(ValueError, match="needs the speaker"):
        run("retrieval", nobody, tmp_path, field="word", apart=True)


def test_clustering_says_what_chance_gives_and_has_a_value_for_each_seed(items: list[Recording], tmp_path: Path) -> None:
    outcome = run("clustering", items, tmp_path, field="word")
    assert len(outcome.measures[0].per_seed) == 2
    assert outcome.details["chance"]["v_measure"] < 40
    assert {measure.metric.name for measure in outcome.measures} == {"v_measure", "purity"}
    json.dumps(outcome.record())
    random = np.random.default_rng(1)
    drawn = np.column_stack([random.integers(4, size=60), random.integers(3, size=60)]).astype(float)
    drawn[:20, 1] = drawn[:20, 0] % 3
    agreement = unit_agreement(drawn[:, 0].astype(int), drawn[:, 1].astype(int))
    task = TASKS.get("clustering")(TASKS.get("clustering").Config())
    assert task.scores(drawn) == pytest.approx((100 * agreement["nmi"], 100 * agreement["purity"]))


@pytest.mark.parametrize("name", NAMES)
def test_says_what_is_missing(name: str, items: list[Recording], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no usable train recordings.*no topic.*setting 'field'"):
        run(name, items, tmp_path, field="topic")
    alike = [Recording(i.id, i.path, duration=i.duration, fields={**i.fields, "word": "same"}) for i in items]
    with pytest.raises(ValueError, match="at least two labels"):
        run(name, alike, tmp_path, field="word")
