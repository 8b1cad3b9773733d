"""Every score against cases worked out by hand, and against another library where there is one."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sottovoce.evaluation.statistics import metrics


def test_errors_are_counted_beside_what_they_are_counted_in() -> None:
    assert metrics.word_errors("the cat sat on the mat", "the cat sit on mat") == (2, 6)
    assert metrics.word_errors(" a  b ", "a b") == (0, 2)
    assert metrics.word_errors("", "a b") == (2, 0)
    assert metrics.word_errors("a b", "") == (2, 2)
    assert metrics.word_errors("", "") == (0, 0)
    assert metrics.character_errors("kitten", "sitting") == (3, 6)
    assert metrics.character_errors("a b", "ab") == (1, 3)  # the space counts
    assert metrics.token_errors(["AH0", "B", "AH0"], ["AH0", "AH1", "B"]) == (2, 3)
    assert metrics.token_errors(["a b", " "], ["a b"]) == (1, 2)  # a token may be any text
    assert metrics.token_errors([], ["x"]) == (1, 0)


def test_words_are_counted_as_jiwer_counts_them() -> None:
    jiwer = pytest.importorskip("jiwer")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["a", "b", "c", "dd"], size=8)) for _ in range(40)]
    pairs = list(zip(texts[:20], texts[20:], strict=True))
    errors, total = np.sum([metrics.word_errors(*pair) for pair in pairs], axis=0)
    assert errors / total == pytest.approx(jiwer.wer(texts[:20], texts[20:]))
    errors, total = np.sum([metrics.character_errors(*pair) for pair in pairs], axis=0)
    assert errors / total == pytest.approx(jiwer.cer(texts[:20], texts[20:]))


def test_equal_error_rate() -> None:
    assert metrics.equal_error_rate([4, 3, 2, 1], [1, 1, 0, 0]) == 0
    assert metrics.equal_error_rate([1, 2, 3, 4], [1, 1, 0, 0]) == 100
    assert metrics.equal_error_rate([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx(50)
    assert metrics.equal_error_rate([1, 1, 1, 1], [1, 0, 1, 0]) == pytest.approx(50)  # between all and nothing
    # One target of three is missed while false alarms go from 1/4 to 1/2: they meet at 1/3.
    assert metrics.equal_error_rate([9, 8, 3, 7, 5, 2, 1], [1, 1, 1, 0, 0, 0, 0]) == pytest.approx(100 / 3)
    random = np.random.default_rng(0)
    targets = np.arange(40_000) % 2 == 0
    scores = random.standard_normal(40_000) + 2 * targets  # the rates are equal at 1: one standard deviation, 15.87 %
    assert metrics.equal_error_rate(scores, targets) == pytest.approx(15.87, abs=0.5)


def test_smallest_detection_cost() -> None:
    assert metrics.min_dcf([4, 3, 2, 1], [1, 1, 0, 0]) == 0
    assert metrics.min_dcf([1, 2, 3, 4], [1, 1, 0, 0]) == 1  # better to accept nothing
    # At 3.5 half is missed and nothing falsely accepted: 0.05 x 0.5 / 0.05.
    assert metrics.min_dcf([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx(0.5)
    # At 1.5 nothing is missed and half falsely accepted: 0.5 x 0.5 / 0.5, as good as the above.
    assert metrics.min_dcf([4, 3, 2, 1], [1, 0, 1, 0], p_target=0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("score", [metrics.equal_error_rate, metrics.min_dcf])
def test_trials_of_one_kind_have_no_error_rate(score: object) -> None:
    with pytest.raises(ValueError, match="target and non-target"):
        score([1, 2], [1, 1])  # type: ignore[operator]


def test_term_weighted_value() -> None:
    relevant = [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]  # nothing answers the last query: it does not count
    perfect = [[9, 1, 1, 1, 1], [1, 8, 9, 1, 1], [99, 99, 99, 99, 99]]
    assert metrics.mtwv(perfect, relevant) == (1.0, 8.0)
    missed = [[9, 1, 1, 1, 1], [1, 0, 9, 1, 1], [0, 0, 0, 0, 0]]  # a threshold of 9 misses half of query 2: 1 - mean(0, 1/2)
    assert metrics.mtwv(missed, relevant) == (0.75, 9.0)
    assert metrics.mtwv(np.negative(perfect), relevant) == (0.0, float("inf"))


def test_a_false_alarm_costs_what_quesst_says() -> None:
    """beta = 1 / 100 x (1 / 0.0008 - 1) = 12.49; the effective prior of the script, 0.0741289, says the same."""
    relevant = np.zeros((1, 101), dtype=bool)
    relevant[0, 0] = True
    scores = np.zeros((1, 101))
    scores[0, :2] = 5, 6  # one false alarm in a hundred above the only hit
    assert metrics.mtwv(scores, relevant) == (pytest.approx(1 - 12.49 / 100), 5.0)
    effective = 0.0741289
    assert metrics.mtwv(scores, relevant, effective, 1, 1) == (pytest.approx(1 - 12.49 / 100, abs=1e-5), 5.0)
    assert metrics.mtwv(np.zeros((1, 101)), relevant)[0] == 0  # all the same: all or nothing
    twice = np.array([[5.0, 5.0, *[0.0] * 99]])  # hit and false alarm cannot be told apart
    assert metrics.mtwv(twice, relevant) == (pytest.approx(1 - 12.49 / 100), 5.0)


def test_term_weighted_value_by_definition() -> None:
    random = np.random.default_rng(1)
    scores, relevant = random.integers(0, 30, (6, 200)).astype(float), random.random((6, 200)) < 0.05
    scores += 25 * relevant

    def twv(threshold: float) -> float:
        yes = scores >= threshold
        miss = [(~yes[q] & relevant[q]).sum() / relevant[q].sum() for q in range(6)]
        alarm = [(yes[q] & ~relevant[q]).sum() / (~relevant[q]).sum() for q in range(6)]
        return float(1 - np.mean(miss) - 12.49 * np.mean(alarm))

    best = max(np.unique(scores), key=twv)
    assert metrics.mtwv(scores, relevant) == (pytest.approx(twv(best)), best)


def test_wrong_search_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(queries, documents\)"):
        metrics.mtwv([1, 2], [1, 0])
    with pytest.raises(ValueError, match="NaN"):
        metrics.mtwv([[1, float("nan")]], [[1, 0]])
    with pytest.raises(ValueError, match="no query"):
        metrics.mtwv([[1, 2]], [[0, 0]])


def test_diarization_errors_by_hand() -> None:
    reference = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0], [0, 1]])
    assert metrics.diarization_errors(reference, reference) == (0, 6)
    assert metrics.diarization_errors(reference, reference[:, ::-1]) == (0, 6)  # who is called what does not matter
    # With columns as they are: frames 0, 1, 3, 5 confused.
    assert metrics.diarization_errors(reference, reference[:, ::-1], permutation=[0, 1]) == (4, 6)
    assert metrics.diarization_errors(reference, np.zeros((6, 2))) == (6, 6)
    assert metrics.diarization_errors(np.zeros((6, 2)), reference) == (6, 0)
    one = reference.max(axis=1, keepdims=True)  # one voice for both: it is speaker 1 or 2 for 3 of 5 frames, and 1 is missed
    assert metrics.diarization_errors(reference, one) == (3, 6)
    # Changes before frames 0, 2, 3, 4, 5, 6: nothing is left within a collar of one frame.
    assert metrics.diarization_errors(reference, one, collar=1) == (0, 0)
    with pytest.raises(ValueError, match="as many frames"):
        metrics.diarization_errors(reference, one[:3])


@pytest.mark.parametrize("collar", [0, 3])
def test_diarization_errors_agree_with_pyannote(collar: int) -> None:
    core = pytest.importorskip("pyannote.core")
    library = pytest.importorskip("pyannote.metrics.diarization").DiarizationErrorRate
    random = np.random.default_rng(collar)

    def speech(speakers: int) -> np.ndarray:
        return np.repeat(random.random((40, speakers)) < 0.4, 10, axis=0)

    def annotation(frames: np.ndarray) -> object:
        made = core.Annotation()
        for speaker, column in enumerate(frames.T):
            edges = np.flatnonzero(np.diff(np.pad(column.astype(int), 1)))
            for begin, end in edges.reshape(-1, 2):
                made[core.Segment(begin, end), speaker] = f"speaker {speaker}"
        return made

    for voices in (2, 3):
        reference, hypothesis = speech(2), speech(voices)
        hypothesis[:, :2] = reference ^ (random.random((400, 2)) < 0.1)  # mostly right
        whole = core.Timeline([core.Segment(0, 400)])
        theirs = library(collar=2 * collar)(annotation(reference), annotation(hypothesis), uem=whole, detailed=True)
        errors = theirs["missed detection"] + theirs["false alarm"] + theirs["confusion"]
        assert metrics.diarization_errors(reference, hypothesis, collar=collar) == pytest.approx((errors, theirs["total"]))


def test_slots() -> None:
    said = [("city", "new york"), ("date", "monday"), ("date", "friday")]
    assert metrics.slot_f1(said, said) == (1.0, 1)
    assert metrics.slot_f1([], []) == (1.0, 1)
    assert metrics.slot_f1([], said) == metrics.slot_f1(said, []) == (0.0, 1)
    assert metrics.slot_f1(said, [("city", "boston"), ("meal", "x")]) == (0.5, 1)  # precision 1/2, recall 1/2: types, not values
    assert metrics.slot_value_cer(said, said) == (0, 20)
    assert metrics.slot_value_cer(said, [("date", "fridays"), ("date", "munday")]) == (8 + 1 + 1, 20)  # the nearest one counts
    assert metrics.slot_value_cer([], said) == (0, 0)


def test_correlations() -> None:
    assert metrics.pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert metrics.pearson([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert metrics.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert np.isnan(metrics.pearson([1, 1], [1, 2]))
    assert np.isnan(metrics.spearman([1], [2]))
    with pytest.raises(ValueError, match="same length"):
        metrics.pearson([1, 2], [1, 2, 3])


def test_agreement_of_units() -> None:
    assert metrics.unit_agreement([0, 0, 1, 1], [5, 5, 3, 3]) == pytest.approx({"nmi": 1, "purity": 1})
    assert metrics.unit_agreement([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx({"nmi": 0, "purity": 0.5})
    # Finer units are pure; 1 bit is shared, of entropies 2 and 1.
    assert metrics.unit_agreement([0, 1, 2, 3], [0, 0, 1, 1]) == pytest.approx({"nmi": 1 / 1.5, "purity": 1})
    assert metrics.unit_agreement([0, 0, 1, 1], [0, 1, 2, 3])["purity"] == 0.5


PUBLISHED = {  # the leaderboard's rows: PR, ASR, KS, IC, SF F1, SF CER, SID, ASV, SD, QbE, ER, and the score beside them
    "HuBERT Base": (5.41, 6.42, 96.30, 98.34, 88.53, 25.20, 81.42, 5.11, 5.88, 7.36, 64.92, 941),
    "WavLM Base+": (3.92, 5.59, 97.37, 99.00, 90.58, 21.20, 89.42, 4.07, 3.50, 9.88, 68.65, 1106),
    "DPHuBERT": (9.67, 10.47, 96.36, 97.92, 86.86, 28.26, 76.83, 5.84, 5.92, 6.93, 63.16, 866),
    "filter banks": (82.01, 23.18, 41.38, 9.65, 69.64, 52.94, 20.06, 9.56, 10.05, 0.58, 48.24, 0),
}
COLUMNS = ("pr", "asr", "ks", "ic", "sf_f1", "sf_cer", "sid", "asv", "sd", "qbe", "er")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_superb_scores(name: str) -> None:
    *row, score = PUBLISHED[name]
    assert metrics.superb_score(dict(zip(COLUMNS, row, strict=True))) == pytest.approx(score, abs=1)


def test_a_superb_score_needs_every_task() -> None:
    with pytest.raises(ValueError, match="give asr, sd as well"):
        metrics.superb_score({name: 1.0 for name in COLUMNS if name not in ("asr", "sd")})


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ValueError, match=r"needs jiwer.*sottovoce\[eval\]"):
        metrics.word_errors("a", "b")


class TestCorpusScore:
    def test_bleu_by_hand(self) -> None:
        bleu = metrics.CorpusScore("BLEU")
        # 1-grams 5/6, 2-grams 3/5, 3-grams 1/4; no 4-gram of 3, which smoothing counts as half of one
        parts = bleu.parts("the cat is on the mat", "the cat sat on the mat")
        assert bleu.score([parts]) == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)
        assert bleu.score([bleu.parts("a b c d e", "a b c d e")]) == pytest.approx(100)
        assert np.isnan(bleu.score(np.zeros((0, bleu.width))))

    def test_chrf_by_hand(self) -> None:
        chrf = metrics.CorpusScore("CHRF")
        # precisions 1 and 1, recalls 2/3 and 1/2; longer n-grams are not there; F with beta 2
        recall = (2 / 3 + 1 / 2) / 2
        assert chrf.score([chrf.parts("ab", "abc")]) == pytest.approx(100 * 5 * recall / (4 + recall))

    @pytest.mark.parametrize("name", ["BLEU", "CHRF"])
    def test_sums_of_parts_are_the_corpus_score_of_sacrebleu(self, name: str) -> None:
        sacrebleu = pytest.importorskip("sacrebleu.metrics")
        said = ["the cat is on the mat", "", "there is one", "it rains. It pours"]
        right = ["the cat sat on the mat", "a dog", "there is one dog here", "it rains, it pours."]
        own, other = metrics.CorpusScore(name), getattr(sacrebleu, name)()  # type: ignore[arg-type]
        rows = [own.parts(*pair) for pair in zip(said, right, strict=True)]
        assert own.score(rows) == pytest.approx(other.corpus_score(said, [right]).score)
        assert own.signature == str(other.get_signature())
        assert own.signature.startswith("nrefs:1|case:mixed")

    def test_options_that_sacrebleu_does_not_know(self) -> None:
        with pytest.raises(ValueError, match="does not take"):
            metrics.CorpusScore("BLEU", tokenize="words")
