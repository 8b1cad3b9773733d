"""Scores of the evaluation tasks, as plain functions.

A recording has a pair (errors, total); scores sum the pairs of a corpus, and intervals resample them (`evaluation.statistics.bootstrap`).
The libraries for the scores are in the extra ``eval`` and imported on use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sottovoce.core.extras import optional

library = partial(optional, extra="eval", purpose="this score")


class Edits(NamedTuple):
    """How a text differs from its reference, in tokens; tokens: of the reference."""

    substitutions: int
    deletions: int
    insertions: int
    tokens: int


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> Edits:
    """The fewest edits between two lists of tokens, which may be any text. With an empty reference each token is an insertion."""
    # One character for each distinct token (from the private use area: jiwer strips white space).
    code = {token: chr(0xE000 + i) for i, token in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    texts = ("".join(code[token] for token in tokens) for tokens in (reference, hypothesis))
    found = library("jiwer").process_characters(*texts)
    return Edits(found.substitutions, found.deletions, found.insertions, len(reference))


def token_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int]:
    """(Levenshtein distance, reference tokens), e.g. of phones. With an empty reference each token is an error."""
    found = edits(reference, hypothesis)
    return sum(found[:3]), found.tokens


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(errors, reference words), split at white space. The caller normalises case and punctuation."""
    return token_errors(reference.split(), hypothesis.split())


def character_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(errors, reference characters); one space between words counts as a character, as it does in jiwer and s3prl."""
    return token_errors(" ".join(reference.split()), " ".join(hypothesis.split()))


class CorpusScore:
    """BLEU or chrF as sacrebleu computes them (Post 2018), from counts per sentence, so that bootstrap samples can be scored.

    options: sacrebleu's own, e.g. ``tokenize="zh"`` for ``BLEU``. signature: to publish beside the score. ValueError for options
    that sacrebleu does not take, or that need further packages.
    """

    def __init__(self, name: Literal["BLEU", "CHRF"], **options: Any) -> None:
        metric = getattr(library("sacrebleu.metrics"), name)
        try:
            self._metric = metric(**options)
        except Exception as problem:  # it raises AssertionError, KeyError, ImportError, ...
            raise ValueError(f"sacrebleu does not take {options}: {problem!r}") from problem
        self.width = len(self.parts("a", "a"))

    def parts(self, hypothesis: str, reference: str) -> list[float]:
        """(width,) counts of one sentence."""
        (counts,) = self._metric._extract_corpus_statistics([hypothesis], [[reference]])  # as in its own bootstrap
        return [float(count) for count in counts]

    def score(self, parts: ArrayLike) -> float:
        """The score, 0 to 100, of N sentences with `parts`, (N, width); NaN for none."""
        rows = np.asarray(parts)
        if not len(rows):
            return float("nan")
        return float(self._metric._compute_score_from_stats([int(count) for count in rows.sum(axis=0)]).score)

    @property
    def signature(self) -> str:
        return str(self._metric.get_signature())


def _trade_off(scores: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(false alarm rate, miss rate) at every threshold, from the strictest to the loosest."""
    same = np.asarray(targets, dtype=bool)
    if same.all() or not same.any():
        raise ValueError("the trials are all of one kind: error rates need target and non-target trials")
    false_alarms, hits, _ = library("sklearn.metrics").roc_curve(same, np.asarray(scores, float), drop_intermediate=False)
    return false_alarms, 1 - hits


def equal_error_rate(scores: ArrayLike, targets: ArrayLike) -> float:
    """The error rate in percent at which misses and false alarms are equal, interpolated linearly between thresholds.

    scores: (N,), higher for targets. targets: (N,) true or 1 for trials of the same speaker. ValueError when one kind is missing.
    """
    false_alarms, misses = _trade_off(scores, targets)
    gap = misses - false_alarms  # falls from 1 to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(100 * (false_alarms[after - 1] + share * (false_alarms[after] - false_alarms[after - 1])))


def min_dcf(scores: ArrayLike, targets: ArrayLike, p_target: float = 0.05, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Minimum detection cost over all thresholds, relative to always or never accepting (NIST SRE; defaults of VoxSRC).

    Arguments as in `equal_error_rate`. 0 is perfect, 1 is useless.
    """
    false_alarms, misses = _trade_off(scores, targets)
    cost = c_miss * p_target * misses + c_fa * (1 - p_target) * false_alarms
    return float(cost.min() / min(c_miss * p_target, c_fa * (1 - p_target)))


def mtwv(
    scores: ArrayLike, relevant: ArrayLike, p_target: float = 0.0008, c_miss: float = 100.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """(maximum term-weighted value, its threshold) of query-by-example search: 1 is perfect, accepting nothing gives 0.

    TWV = 1 - mean over queries of (P_miss + beta P_fa), beta = c_fa / c_miss * (1 / p_target - 1), with one threshold for all queries
    and a trial being a (query, document) pair. The constants are those of ``score-TWV-Cnxe.sh`` of MediaEval QUESST, which SUPERB
    calls: beta = 12.49. As there, a query that no document answers is left out.

    scores: (queries, documents), higher for a match, comparable between queries (normalise them first). relevant: the same shape, bool.
    Trials at the threshold are accepted; it is infinite if accepting nothing is best. ValueError for wrong shapes and NaN.
    """
    values, right = np.asarray(scores, dtype=float), np.asarray(relevant, dtype=bool)
    if values.ndim != 2 or values.shape != right.shape:
        raise ValueError(f"scores {values.shape} and relevant {right.shape} must both be (queries, documents)")
    if np.isnan(values).any():
        raise ValueError("some scores are NaN: give trials that were not scored a low score")
    answered = right.any(axis=1)
    if not answered.any():
        raise ValueError("no query has a relevant document, so nothing can be found")
    values, right = values[answered], right[answered]
    beta = c_fa / c_miss * (1 / p_target - 1)
    hits, others = right.sum(axis=1, keepdims=True), (~right).sum(axis=1, keepdims=True)
    worth = np.where(right, 1 / hits, -beta / np.maximum(others, 1)) / len(right)  # gain in TWV from accepting a trial
    order = np.argsort(-values, axis=None, kind="stable")
    threshold, value = values.ravel()[order], np.cumsum(worth.ravel()[order])
    value[:-1][threshold[:-1] == threshold[1:]] = -np.inf  # equal scores are accepted together
    best = int(value.argmax())
    return (float(value[best]), float(threshold[best])) if value[best] > 0 else (0.0, float("inf"))


def diarization_errors(
    reference: ArrayLike, hypothesis: ArrayLike, permutation: Sequence[int] | None = None, collar: int = 0
) -> tuple[int, int]:
    """(missed + false alarm + confused, spoken) frames, summed over speakers; the ratio is the diarization error rate.

    As in SUPERB (EEND's ``calc_diarization_error``): overlap is scored, and by default there is no collar.

    reference, hypothesis: (T, speakers) 0/1; the numbers of speakers may differ. permutation: for each reference speaker its
    column of `hypothesis`; ``None``: the best one. collar: frames left out on either side of each change in `reference`.
    ValueError when they are not equally long.
    """
    spoken, detected = np.asarray(reference, dtype=bool), np.asarray(hypothesis, dtype=bool)
    if spoken.ndim != 2 or detected.ndim != 2 or len(spoken) != len(detected):
        raise ValueError(
            f"reference {spoken.shape} and hypothesis {detected.shape} must be (frames, speakers) with as many frames"
        )
    if collar:
        edge = np.pad(spoken, ((1, 1), (0, 0)))
        changes = np.flatnonzero((edge[1:] != edge[:-1]).any(axis=1))  # frame b: between b - 1 and b
        near = (changes[:, None] + np.arange(-collar, collar)).ravel()
        scored = np.ones(len(spoken), dtype=bool)
        scored[near[(near >= 0) & (near < len(scored))]] = False
        spoken, detected = spoken[scored], detected[scored]
    together = spoken.T.astype(np.int64) @ detected.astype(np.int64)
    if permutation is None:
        who, as_whom = library("scipy.optimize").linear_sum_assignment(together, maximize=True)
    else:
        who, as_whom = np.arange(len(permutation)), np.asarray(permutation)
    right = together[who, as_whom].sum()
    return int(np.maximum(spoken.sum(axis=1), detected.sum(axis=1)).sum() - right), int(spoken.sum())


Slots = Sequence[tuple[str, str]]  # (slot, value), as in ("city", "berlin")


def slot_f1(reference: Slots, hypothesis: Slots) -> tuple[float, int]:
    """(F1 of the slot types of one utterance, 0 to 1; 1 for the utterance): SUPERB averages the F1 of utterances.

    Each type counts once, and values are ignored (s3prl's ``slot_type_f1``). Two empty lists have F1 1.
    """
    expected, predicted = {slot for slot, _ in reference}, {slot for slot, _ in hypothesis}
    return (2 * len(expected & predicted) / (len(expected) + len(predicted)) if expected or predicted else 1.0), 1


def slot_value_cer(reference: Slots, hypothesis: Slots) -> tuple[int, int]:
    """(character errors, characters) of the slot values of one utterance (s3prl's ``slot_value_cer``).

    Each reference value is compared with the nearest predicted value of its slot, or with the empty text. Superfluous values are not
    counted; `slot_f1` counts them.
    """
    predicted: dict[str, list[str]] = {}
    for slot, value in hypothesis:
        predicted.setdefault(slot, []).append(value)
    pairs = [min(character_errors(value, other) for other in predicted.get(slot, [""])) for slot, value in reference]
    return sum(errors for errors, _ in pairs), sum(characters for _, characters in pairs)


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Linear correlation of two lists of numbers; NaN when either does not vary."""
    return _correlation("pearsonr", a, b)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation of two lists of numbers, ties at their mean rank; NaN when either does not vary."""
    return _correlation("spearmanr", a, b)


def _correlation(name: str, a: ArrayLike, b: ArrayLike) -> float:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"a correlation needs two lists of the same length, not shapes {x.shape} and {y.shape}")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(getattr(library("scipy.stats"), name)(x, y).statistic)


def unit_agreement(a: ArrayLike, b: ArrayLike) -> dict[str, float]:
    """Agreement of two labellings of the same frames, independent of label names; both numbers are 0 to 1.

    nmi: mutual information over the mean of the two entropies. purity: share of frames whose label in `b` is the most
    frequent one among frames with the same label in `a`. Both grow by chance with many labels and few frames.
    """
    metrics = library("sklearn.metrics")
    table = metrics.cluster.contingency_matrix(np.asarray(a), np.asarray(b), sparse=True)
    purity = float(table.max(axis=1).sum() / table.sum())
    return {"nmi": float(metrics.normalized_mutual_info_score(np.asarray(a), np.asarray(b))), "purity": purity}


# (base, top) of SUPERB's leaderboard, in percent as published: filter banks score 0 in each task, the best model then 1000.
SUPERB: dict[str, tuple[float, float]] = {
    "pr": (82.01, 3.53),
    "asr": (23.18, 3.62),
    "ks": (41.3826674, 96.66),
    "ic": (9.649354219, 98.76),
    "sid": (20.058174, 90.3),
    "er": (48.23672168, 67.62),
    "qbe": (0.58, 7.36),
    "sf_f1": (69.64, 89.81),
    "sf_cer": (52.94, 21.76),
    "asv": (9.56, 5.11),
    "sd": (10.05, 5.62),
}


def superb_score(results: Mapping[str, float]) -> float:
    """The SUPERB score of a model: 0 for filter banks, 1000 for the best published model of 2021 in every task; the mean of ten tasks.

    results: the metric of each task of `SUPERB`, all in percent, as published (PER, WER, accuracies, F1, CER, EER, DER); qbe is
    MTWV x 100. Slot filling counts once, as the mean of its two metrics. ValueError lists missing tasks.
    """
    missing = [name for name in SUPERB if name not in results]
    if missing:
        raise ValueError(f"the SUPERB score needs all ten tasks: give {', '.join(missing)} as well")
    # SUPERB scores an error rate e as 100 - e, which gives the same: both differences change sign.
    points = {name: 1000 * (results[name] - base) / (top - base) for name, (base, top) in SUPERB.items()}
    slots = (points.pop("sf_f1") + points.pop("sf_cer")) / 2
    return float(np.mean([*points.values(), slots]))
