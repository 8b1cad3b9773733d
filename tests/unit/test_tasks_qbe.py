"""Query by example: the warping against plain loops, queries and documents of every kind, and the whole of it on melodies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.tasks.qbe import QueryByExample, warp

RATE = 16_000


def plain(query: np.ndarray, document: np.ndarray, name: str) -> float:
    """As s3prl's quesst14_dtw and dtw-python (asymmetric, open at both ends) do it, in loops."""
    cosine = query @ document.T
    distance = {"cosine_exp": np.exp(1 - cosine) - 1, "cosine": 1 - cosine, "cosine_log": -np.log((1 + cosine) / 2)}[name]
    low, high = distance.min(1, keepdims=True), distance.max(1, keepdims=True)
    distance = (distance - low) / (high - low)
    cost = np.full_like(distance, np.inf)
    for i in range(len(query)):
        for j in range(len(document)):
            before = 0.0 if i == 0 else min(cost[i - 1, k] for k in (j, j - 1, j - 2) if k >= 0)
            cost[i, j] = distance[i, j] + before
    return float(cost[-1].min() / len(query))


@pytest.mark.parametrize("name", ["cosine_exp", "cosine", "cosine_log"])
def test_warping_is_that_of_plain_loops(name: Any) -> None:
    random = torch.Generator().manual_seed(3)

    def features(frames: int) -> torch.Tensor:
        return F.normalize(torch.randn(frames, 2, 5, generator=random), dim=-1)

    queries = [features(n) for n in (7, 5, 12, 6, 9, 5, 5, 8, 20, 1)]
    documents = [features(n) for n in (11, 30, 3, 2, 17)]
    found = warp(queries, documents, ["cosine", name])
    assert found.shape == (2, 2, 10, 5)
    for layer in range(2):
        for i, query in enumerate(queries):
            for j, document in enumerate(documents):
                expected = plain(query[:, layer].numpy(), document[:, layer].numpy(), name)
                assert float(found[1, layer, i, j]) == pytest.approx(expected, abs=1e-5)


def test_a_query_that_is_in_a_document_costs_nothing() -> None:
    document = F.normalize(torch.randn(40, 1, 16), dim=-1)
    found = warp([document[10:22], document[10:22:2]], [document, F.normalize(torch.randn(40, 1, 16), dim=-1)], ["cosine_exp"])
    assert found[0, 0, :, 0].max() < 1e-5
    assert found[0, 0, :, 1].min() > 0.05


@pytest.fixture(scope="module")
def melodies(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Eight melodies of four notes, by twelve players at their own tempo and loudness; half the players in dev."""
    folder, random, made = tmp_path_factory.mktemp("melodies"), np.random.default_rng(2), Recordings()
    notes = [random.choice((300, 450, 700, 1100, 1700, 2600), 4, replace=False) for _ in range(8)]
    for player in range(12):
        for label, tune in enumerate(notes):
            length = random.uniform(0.08, 0.12)
            parts = [np.sin(2 * np.pi * note * np.arange(int(length * RATE)) / RATE) for note in tune]
            wave = random.uniform(0.05, 0.3) * np.concatenate(parts)
            path = folder / f"{player}-{label}.wav"
            soundfile.write(path, wave + 0.001 * random.standard_normal(len(wave)), RATE)
            fields = {"label": f"m{label}", "speaker": f"p{player}", "split": "dev" if player < 6 else "test"}
            made.append(Recording(path.name, str(path), duration=len(wave) / RATE, fields=fields))
    return made


def run(recordings: Recordings, folder: Path, **settings: Any) -> Outcome:
    task = QueryByExample(QueryByExample.Config(**settings))
    return task.measure(open_subject("log-mel"), recordings, Workbench(FeatureStore(folder)))


def test_finds_melodies(melodies: Recordings, tmp_path: Path) -> None:
    outcome = run(melodies, tmp_path, distances=("cosine", "cosine_exp"))
    value, precision = outcome.measures
    assert (value.metric.name, value.metric.unit, precision.metric.name) == ("mtwv", "", "map")
    assert value.value > 0.6
    assert precision.value > 80
    assert value.low is not None
    assert value.low <= value.value
    assert outcome.details["test"] == {"queries": 16, "documents": 32}
    assert outcome.details["layer"] == 0
    json.dumps(outcome.record())
    assert run(melodies, tmp_path, distances=("cosine", "cosine_exp")).measures == outcome.measures


def test_wrong_labels_are_chance(melodies: Recordings, tmp_path: Path) -> None:
    labels = [item.fields["label"] for item in melodies]
    np.random.default_rng(0).shuffle(labels)
    shuffled = Recordings(
        replace(item, fields={**item.fields, "label": label}) for item, label in zip(melodies, labels, strict=True)
    )
    outcome = run(shuffled, tmp_path)
    assert outcome.measures[0].value < 0.15
    assert outcome.measures[1].value < 35


def test_queries_and_documents_are_of_different_speakers(melodies: Recordings) -> None:
    task = QueryByExample(QueryByExample.Config(queries_per_label=1, documents=20))
    trials = task.trials(melodies, "test")
    assert len(trials.queries) == 8
    assert len(trials.documents) == 20
    assert not {i.fields["speaker"] for i in trials.queries} & {i.fields["speaker"] for i in trials.documents}
    for i, query in enumerate(trials.queries):
        for j, document in enumerate(trials.documents):
            assert trials.relevant[i, j] == (query.fields["label"] == document.fields["label"])
    again = task.trials(Recordings(reversed(melodies)), "test")
    assert [item.id for item in again.queries] == [item.id for item in trials.queries]
    alone = Recordings(replace(item, fields={**item.fields, "speaker": ""}) for item in melodies)
    trials = task.trials(alone, "test")
    assert not {i.id for i in trials.queries} & {i.id for i in trials.documents}
    assert trials.relevant.any()


def test_a_corpus_of_queries_and_documents_is_taken_as_it_is(melodies: Recordings, tmp_path: Path) -> None:
    queries = [
        replace(r, fields={"role": "query", "split": r.fields["split"]}) for r in melodies if r.id.startswith(("0-", "6-"))
    ]
    documents = [
        replace(r, fields={"role": "doc", "matches": json.dumps([q.id for q in queries if q.id[-5] == r.id[-5] != "7"])})
        for r in melodies
        if not r.id.startswith(("0-", "6-"))
    ]
    outcome = run(Recordings([*queries, *documents]), tmp_path)
    assert outcome.details["test"] == outcome.details["dev"] == {"queries": 7, "documents": 80}  # nothing answers the eighth
    assert outcome.measures[0].value > 0.6


def test_mistakes_are_said(melodies: Recordings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finds 0 queries and 0 documents in the dev split"):
        run(Recordings(item for item in melodies if item.fields["split"] == "test"), tmp_path)
    broken = Recordings([*(replace(r, fields={"role": "query", "split": "dev"}) for r in melodies[:2]),
                         replace(melodies[2], fields={"role": "doc", "matches": "no"})])  # fmt: skip
    with pytest.raises(ValueError, match="must be a JSON list"):
        run(broken, tmp_path)
    for wrong in ({"distances": ()}, {"queries_per_label": 0}, {"documents": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            QueryByExample.Config(**wrong)  # type: ignore[arg-type]
