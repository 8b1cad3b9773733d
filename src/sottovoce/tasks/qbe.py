"""Query-by-example spoken term detection (SUPERB QbE): which recordings contain a word that is given as audio."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings
from sottovoce.data.draw import draw
from sottovoce.evaluation.features.store import FeatureSet, Piece, moments
from sottovoce.evaluation.kinds.probing import Item, Rows, summary
from sottovoce.evaluation.kinds.task import Measure, Metric, Outcome, Task, Workbench
from sottovoce.evaluation.statistics.bootstrap import interval
from sottovoce.evaluation.statistics.metrics import library, mtwv
from sottovoce.evaluation.subjects.subject import Subject

Distance = Literal["cosine_exp", "cosine", "cosine_log"]
SHORTEST = 5  # frames of a query; s3prl does not search for shorter ones
STATISTICS = 2000  # most recordings for mean and deviation, spread over all
BLOCK, CHUNK = 8, 16  # queries and documents per step: fits the processor's cache
CELLS = 2e7  # most trials x bootstrap samples, so that the interval takes less time than the search


@TASKS.register("qbe")
class QueryByExample(Task):
    """Query by example: which recordings contain a word that is given as audio, without any training; MTWV.

    SUPERB (Yang et al. 2021) after s3prl's quesst14_dtw: subsequence dynamic time warping between the frames of query and document, with
    features of one layer standardised over all frames, distance exp(1 - cosine) - 1 scaled to 0..1 over the document's frames for every
    query frame, and scores standardised for every query. The layer (and the distance, where several are given) is the best on dev.
    As in s3prl, silence is not removed. If all dev MTWVs are 0, the mean average precision decides.

    Recordings may have a ``role``: ``query``, or ``doc``, whose ``matches`` list the ids of the queries that it contains. Otherwise queries
    and documents are made from the ``label``: a document is relevant if it has the label of the query. Then a third of a split's speakers
    give the queries and the others the documents, if most labels occur in both groups.

    The bootstrap draws queries; the documents are fixed.
    """

    title = "Query by example"
    reads = "queries and documents from 'role' (query or doc) and 'matches', or words from a column 'label'"
    metrics = (Metric("mtwv", unit=""), Metric("map"))

    @dataclass(frozen=True)
    class Config:
        """SUPERB's values (s3prl, quesst14_dtw).

        distances: to try on dev; ``cosine_log`` is -log((1 + cosine) / 2). standardize: the features. max_seconds: used of a recording.
        queries_per_label, documents: the most per split if they are made from labels; chosen by a hash.
        """

        distances: tuple[Distance, ...] = ("cosine_exp",)
        standardize: bool = True
        max_seconds: float | None = None
        queries_per_label: int = 5
        documents: int | None = None

        def __post_init__(self) -> None:
            if not self.distances:
                raise ValueError("distances must name at least one of cosine_exp, cosine and cosine_log")
            if self.queries_per_label < 1 or (self.documents is not None and self.documents < 1):
                raise ValueError("queries_per_label and documents must be at least 1")

    def check(self, recordings: Recordings) -> None:
        for split in ("dev", "test"):
            self._answered(self.trials(recordings, split).relevant, split)

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        skipped, clock = list(recordings.skipped), {"features": 0.0, "search": 0.0, "scoring": 0.0}
        items: dict[str, list[Item]] = {"train": []}
        answers: dict[str, tuple[FeatureSet, FeatureSet, NDArray[np.bool_]]] = {}
        audio: dict[str, list[list[Piece]]] = {}
        trials_of: dict[str, QueryTrials] = {}
        for split in ("dev", "test"):
            trials_of[split] = trials = self.trials(recordings, split)
            parts = (trials.queries, trials.documents)
            audio[split] = [[Piece(item, 0.0, self.config.max_seconds) for item in part] for part in parts]
        bench.store.foresee(subject, [piece for each in audio.values() for part in each for piece in part], "frames", bench.say)
        for split, trials in trials_of.items():
            sets: list[FeatureSet] = []
            for pieces in audio[split]:
                sets.append(bench.store.get(subject, pieces, "frames", partial(bench.progress, "features")))
                clock["features"] += sets[-1].seconds
                skipped += [row for row in sets[-1].skipped if row not in skipped]
                items.setdefault(split, []).extend(Item(p, None, p.recording.fields.get("speaker", "")) for p in sets[-1].pieces)
            relevant = trials.relevant[sets[0].usable][:, sets[1].usable]
            self._answered(relevant, split)
            answers[split] = (sets[0], sets[1], relevant)

        began = time.monotonic()
        queries, documents, relevant = answers["dev"]
        layers = list(range(subject.layers))
        table = [  # (distances, layers) of (MTWV, mean average precision)
            [score(part, relevant) for part in each]
            for each in self.search(queries, documents, layers, self.config.distances, bench)
        ]
        number, layer = max(((d, n) for d in range(len(table)) for n in layers), key=lambda place: table[place[0]][place[1]])
        queries, documents, relevant = answers["test"]
        scores = self.search(queries, documents, [layer], self.config.distances[number : number + 1], bench)[0, 0]
        clock["search"] = time.monotonic() - began
        began = time.monotonic()
        measures = self.measures(scores, relevant)
        clock["scoring"] = time.monotonic() - began
        sizes = {split: {"queries": each.shape[0], "documents": each.shape[1]} for split, (_, _, each) in answers.items()}
        return Outcome(
            measures=measures,
            data=summary(items),
            seconds=clock,
            details={
                **sizes,
                "layer": layer,
                "distance": self.config.distances[number],
                "dev_by_layer": [round(value, 4) for value, _ in table[number]],
                "random_map": round(100 * float(np.mean(relevant.mean(axis=1))), 2),
            },
            skipped=skipped,
        )

    def _answered(self, relevant: NDArray[np.bool_], split: str) -> None:
        if not relevant.any():
            raise ValueError(f"no {split} document is an answer to any query; {self.name} reads {self.reads}")

    def trials(self, recordings: Recordings, split: str) -> QueryTrials:
        """The queries and documents of a split. ValueError when there are none."""
        if any(item.fields.get("role") for item in recordings):
            queries = [item for item in recordings if item.fields.get("role") == "query" and item.fields.get("split") == split]
            documents = [
                item for item in recordings if item.fields.get("role") == "doc" and item.fields.get("split", "") in ("", split)
            ]
            answers = [set(_matches(item)) for item in documents]
            trials = QueryTrials(queries, documents, np.array([[item.id in each for each in answers] for item in queries]))
        else:
            trials = self._from_labels([item for item in recordings if item.fields.get("split") == split])
        if not trials.queries or not trials.documents:
            raise ValueError(
                f"{self.name} finds {len(trials.queries)} queries and {len(trials.documents)} documents in the {split} split; "
                f"it reads {self.reads}"
            )
        answered = np.flatnonzero(trials.relevant.any(axis=1))  # MTWV ignores the others
        return QueryTrials([trials.queries[i] for i in answered], trials.documents, trials.relevant[answered])

    def _from_labels(self, recordings: Sequence[Recording]) -> QueryTrials:
        items = sorted(
            (item for item in recordings if item.fields.get("label", "").strip()), key=lambda item: (draw(item.id), item.id)
        )
        speakers = sorted({item.fields.get("speaker", "") for item in items}, key=draw)
        asking = set(speakers[: max(1, len(speakers) // 3)])
        first = [item for item in items if item.fields.get("speaker", "") in asking]
        rest = [item for item in items if item.fields.get("speaker", "") not in asking]
        both = {item.fields["label"] for item in first} & {item.fields["label"] for item in rest}
        apart = 2 * len(both) > len({item.fields["label"] for item in items})
        taken: dict[str, int] = {}
        queries = []
        for item in first if apart else items:
            label = item.fields["label"]
            taken[label] = taken.get(label, 0) + 1
            if taken[label] <= self.config.queries_per_label:
                queries.append(item)
        chosen = {item.id for item in queries}
        documents = rest if apart else [item for item in items if item.id not in chosen]
        documents = documents[: self.config.documents]
        relevant = np.array([[a.fields["label"] == b.fields["label"] for b in documents] for a in queries])
        return QueryTrials(queries, documents, relevant)

    def search(
        self, queries: FeatureSet, documents: FeatureSet, layers: Sequence[int], distances: Sequence[Distance], bench: Workbench
    ) -> NDArray[np.float64]:
        """(distances, layers, queries, documents) scores, standardised per query; 0 if the query is too short."""
        chosen = torch.tensor(layers)
        mean, std = (statistics([queries, documents], chosen)) if self.config.standardize else (torch.zeros(()), torch.ones(()))

        def states(features: FeatureSet, items: Sequence[int]) -> list[Tensor]:
            return [F.normalize((each[:, chosen] - mean) / std, dim=-1).to(bench.device) for each in features.states(items)]

        words = [each for i in range(0, len(queries), CHUNK) for each in states(queries, range(len(queries))[i : i + CHUNK])]
        costs = np.empty((len(distances), len(layers), len(queries), len(documents)))
        order = sorted(range(len(documents)), key=lambda i: documents.frames[i])  # so that little is padding
        for begin in range(0, len(order), CHUNK):
            part = order[begin : begin + CHUNK]
            costs[..., part] = warp(words, states(documents, part), distances).cpu().numpy()
        scores = -costs
        scores = (scores - scores.mean(axis=-1, keepdims=True)) / np.maximum(scores.std(axis=-1, keepdims=True), 1e-9)
        scores[:, :, [len(each) < SHORTEST for each in words]] = 0
        return scores

    def measures(self, scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> list[Measure]:
        """Values on test, with intervals over queries."""
        rows = np.concatenate([scores, relevant], axis=1)
        precision = np.array([average_precision(a, b) for a, b in zip(scores, relevant, strict=True)])[:, None]

        def detection(sample: Rows) -> float:
            values, right = np.split(sample, 2, axis=1)
            return mtwv(values, right)[0]

        samples = int(min(1000, max(100, CELLS // scores.size)))
        measures = []
        for metric, each, statistic in zip(self.metrics, (rows, precision), (detection, _mean), strict=True):
            value = statistic(each)
            low, high = interval(each, statistic, samples=samples)
            measures.append(Measure(metric, value, low, high, (value,), len(rows)))
        return measures


@dataclass(frozen=True)
class QueryTrials:
    """relevant: (queries, documents), whether the document contains the query."""

    queries: list[Recording]
    documents: list[Recording]
    relevant: NDArray[np.bool_]


def warp(queries: Sequence[Tensor], documents: Sequence[Tensor], distances: Sequence[Distance]) -> Tensor:
    """(distances, L, queries, documents): the cost per query frame of the best path of a query in a document.

    queries, documents: (T, L, D) with vectors of length 1. A path matches each query frame to a document frame and advances by 0, 1 or 2
    document frames per query frame. It may begin and end anywhere (the asymmetric step pattern of dtw-python).
    """
    device, count = queries[0].device, len(documents)
    longest = max(len(each) for each in documents)
    # Pads documents with their last frame: this changes no range of distances, and a path may stay on the last frame anyway.
    padded = torch.stack([torch.cat([each, each[-1:].expand(longest - len(each), -1, -1)]) for each in documents])
    padded = padded.permute(2, 3, 0, 1).flatten(2).contiguous()  # (L, D, count x longest)
    costs = torch.empty(len(distances), len(padded), len(queries), count, device=device)
    order = sorted(range(len(queries)), key=lambda i: -len(queries[i]))
    for begin in range(0, len(order), BLOCK):
        block = order[begin : begin + BLOCK]
        batch = torch.nn.utils.rnn.pad_sequence([queries[i] for i in block], batch_first=True)  # (B, T, L, D), long ones first
        sizes = [len(queries[i]) for i in block]
        active = [sum(size > t for size in sizes) for t in range(batch.shape[1])]
        lengths = torch.tensor(sizes, device=device)
        for layer in range(len(padded)):
            cosine = (batch[:, :, layer].flatten(0, 1) @ padded[layer]).view(len(block), -1, count, longest)
            for number, distance in enumerate(distances):
                local = _local(cosine if number == len(distances) - 1 else cosine.clone(), distance)
                cost = local[:, 0].clone()  # (B, count, longest): of the best paths that end at each frame
                for t in range(1, len(active)):
                    before = cost[: active[t]]
                    step = local[: active[t], t]  # its memory is reused
                    best = before.clone()
                    torch.minimum(before[..., 1:], before[..., :-1], out=best[..., 1:])
                    torch.minimum(best[..., 2:], before[..., :-2], out=best[..., 2:])
                    torch.add(best, step, out=before)
                costs[number, layer, block] = cost.amin(-1) / lengths[:, None]
    return costs


def _local(cosine: Tensor, distance: Distance) -> Tensor:
    """Replaces cosines (..., document frames) by distances in place, scaled to 0..1 over the frames."""
    if distance == "cosine_exp":
        cosine.neg_().exp_()  # exp(1 - cosine) - 1 up to a factor and a shift, which the scaling removes
    elif distance == "cosine_log":
        cosine.add_(1).clamp_(min=1e-6).log_().neg_()
    else:
        cosine.neg_()
    low, high = cosine.aminmax(dim=-1, keepdim=True)
    return cosine.sub_(low).div_((high - low).clamp(min=1e-9))


def statistics(sets: Sequence[FeatureSet], layers: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (L, D) over the frames of the sets."""
    mean, deviation = moments(sets, STATISTICS)
    return mean[layers].float(), deviation[layers].clamp(min=1e-9).float()


def average_precision(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> float:
    """Average precision of one query, in percent."""
    return float(100 * library("sklearn.metrics").average_precision_score(relevant, scores))


def score(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> tuple[float, float]:
    """(MTWV, mean average precision in percent) of (queries, documents)."""
    precision = [average_precision(a, b) for a, b in zip(scores, relevant, strict=True)]
    return mtwv(scores, relevant)[0], float(np.mean(precision))


def _mean(rows: Rows) -> float:
    return float(rows.mean())


def _matches(document: Recording) -> list[str]:
    try:
        matches = json.loads(document.fields.get("matches") or "[]")
        assert isinstance(matches, list)
        return [str(name) for name in matches]
    except (ValueError, AssertionError):
        raise ValueError(f"'matches' of {document.id} must be a JSON list of the ids of its queries") from None
