"""Compares the students of an experiment seed by seed, from its records alone, and adds what comes of it to them.

    python -m experiments.comparisons testbed
    python -m experiments.comparisons colld

wins: of the pairs with the same seed, how often the first model is better than the second, for each task. gains: by how much, the mean
over the pairs, in the task's own unit (greater is better also where the measure is an error).
intervals: of the gains, 95 % by Student's t, as if the pairs were independent (pairs of one seed and several sizes share a teacher).
p: by the same test, corrected for all comparisons on all tasks together (Holm 1979); without a value where there is one pair.
spread: by task, the standard deviation of a student's value over its seeds (within), that of the students' means (between), and their
ratio: what is near 1 or below cannot tell these students apart.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from experiments.tables import records_of
from sottovoce.core import ledger
from sottovoce.evaluation.suite.compare import holm

Pairs = list[tuple[str, str]]

SHAPES = tuple(f"{unit}-{share}" for unit in ("macs", "params") for share in (50, 25, 15))
PARTS = {
    "no-clean": "without the clean pass",
    "no-contrast": "with L1 and cosine in place of contrast",
    "one-pass": "in one pass, L1 and cosine at visible frames",
    "unmasked": "with contrast at every frame of the clean audio",
    "unmasked-alone": "with that contrast alone",
    "dense": "with every layer compared",
    "block": "with the blocks' outputs as targets",
    "live": "with live cutting",
}
SCHEDULES = ("", "-fast", "-pressed", "-restarts")  # of the gates, at the small budgets
SIZES = ("-50", "", "-10")  # of CoLLD's table; a quarter has no mark


def each_size(one: str, other: str) -> Pairs:
    return [(one + size, other + size) for size in SIZES]


COMPARISONS: dict[str, dict[str, Pairs]] = {
    "testbed": {
        "DPHuBERT against the same shape from random start": [(f"dphubert-{shape}", f"random-{shape}") for shape in SHAPES],
        "DPHuBERT against DistilHuBERT at its MACs": [("dphubert-macs-44", "distilhubert")],
        "a quarter of the parameters against a quarter of the MACs": [("dphubert-params-25", "dphubert-macs-25")],
        "half of the MACs against a quarter": [("dphubert-macs-50", "dphubert-macs-25")],
        "a quarter of the MACs against 15 %": [("dphubert-macs-25", "dphubert-macs-15")],
    },
    "colld": {
        **{f"{one} against {other}, {size[1:] or 25} % of the MACs": [(one + size, other + size)]
           for size in SIZES for one, other in (("dphubert", "colld"), ("sotto", "dphubert"), ("sotto", "colld"))},
        "DPHuBERT against CoLLD": each_size("dphubert", "colld"),
        "sotto against DPHuBERT": each_size("sotto", "dphubert"),
        "sotto against CoLLD": each_size("sotto", "colld"),
        "contrast against L1 and cosine, masked": [("colld", "colld-l1-cosine")],
        "contrast against L1 and cosine, unmasked": [("colld-unmasked", "colld-unmasked-l1-cosine")],
        "contrast against MSE, masked": [("colld", "colld-mse")],
        "contrast against ARMHuBERT's rule": [("colld", "colld-armhubert")],
        "masked against unmasked, contrast": [("colld", "colld-unmasked")],
        "masked against unmasked, L1 and cosine": [("colld-l1-cosine", "colld-unmasked-l1-cosine")],
        **{f"{one} against plain layer-to-layer": [(name, "colld-unmasked-l1-cosine")]
           for one, name in (("CoLLD", "colld"), ("DPHuBERT", "dphubert"), ("sotto", "sotto"))},
        "sotto against DPHuBERT, 5 % of the MACs": [(f"sotto-5{how}", f"dphubert-5{how}") for how in SCHEDULES],
        "sotto against DPHuBERT, 3 % of the MACs": [(f"sotto-3{how}", f"dphubert-3{how}") for how in SCHEDULES],
        "sotto against DPHuBERT with restarts, 5 % of the MACs": [("sotto-5-restarts", "dphubert-5-restarts")],
        **{f"{one} with restarts against without, 5 % of the MACs": [(f"{kind}-5-restarts", f"{kind}-5-pressed")]
           for one, kind in (("DPHuBERT", "dphubert"), ("sotto", "sotto"))},
        "sotto against DPHuBERT with as much compute, 5 % of the MACs": [("sotto-5-restarts", "dphubert-5-restarts-longer")],
        **{f"sotto against itself {PARTS[part]}, 5 % of the MACs": [("sotto-5-restarts", f"sotto-5-restarts-{part}")]
           for part in ("no-contrast", "unmasked")},
        **{f"sotto against itself {what}, 10 % of the MACs": [("sotto-10", f"sotto-10-{part}")] for part, what in PARTS.items()},
    },
    "real_teachers": {
        "one cut against gates, half of the MACs": [("minitron-50", "dphubert-50")],
        "DPHuBERT against sotto, half of the MACs": [("dphubert-50", "sotto-50")],
        "one cut against a narrow student, half of the MACs": [("minitron-50", "plain-50")],
        "with teacher-fed blocks against without, half of the MACs": [("minitron-fed-50", "minitron-50")],
        "with the host's output against without, half of the MACs": [("minitron-host-50", "minitron-50")],
    },
    "methods": {
        "minitron against DPHuBERT": [("minitron-50", "dphubert-50")],
        "DPHuBERT against SKILL": [("dphubert-50", "skill-50")],
        "DPHuBERT against sotto": [("dphubert-50", "sotto-50")],
        "DPHuBERT against HJ-pruning": [("dphubert-50", "hj-pruning-50")],
    },
}  # fmt: skip
BESIDE = {"methods": ("real_teachers",)}  # experiment: others whose students count too
Values = Mapping[str, Mapping[str, Mapping[int, float]]]  # task: model: seed: value, greater is better
FOLDER = Path(__file__).parent


def counted(experiment: str) -> list[dict[str, Any]]:
    """The records of the experiment and of the others whose students count."""
    return [record for name in (*BESIDE.get(experiment, ()), experiment) for record in records_of(name, FOLDER.parent)]


def read(records: Iterable[Mapping[str, Any]]) -> Values:
    """The first measure of every task on every student with a seed in its name; errors with a minus."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        named = re.fullmatch(r"(.+)-seed(\d+)", record["model"]["name"]) if record.get("kind") == "evaluation" else None
        if named:
            measure = next(iter(record["measures"].values()))
            sign = 1 if measure["better"] == "higher" else -1
            found[record["task"]["entry"]][named[1]][int(named[2])] = sign * measure["value"]
    return found


def gains(values: Values, pairs: Pairs) -> dict[str, list[float]]:
    """By task: how much better the first model is than the second, pair by pair and seed by seed."""
    made = {
        task: [of[one][seed] - of[other][seed] for one, other in pairs for seed in of[one].keys() & of[other].keys()]
        for task, of in values.items()
    }
    return {task: found for task, found in made.items() if found}


def interval(of: Sequence[float]) -> list[float] | None:
    """95 % for the mean; None for a single value."""
    if len(of) < 2:
        return None
    half = stats.t.ppf(0.975, len(of) - 1) * statistics.stdev(of) / len(of) ** 0.5
    return [round(statistics.fmean(of) + sign * half, 4) for sign in (-1, 1)]


def corrected(compared: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float | None]]:
    """The p-value of every gain, corrected for their number."""
    tested = [(title, task) for title, of in compared.items() for task, gain in of.items() if len(gain) > 1]
    found = holm([float(stats.ttest_1samp(compared[title][task], 0.0).pvalue) for title, task in tested])
    known = dict(zip(tested, (round(p, 6) for p in found), strict=True))
    return {title: {task: known.get((title, task)) for task in of} for title, of in compared.items()}


def spread(values: Values) -> dict[str, dict[str, Any]]:
    made = {}
    for task, of in values.items():
        several = [list(seeds.values()) for seeds in of.values() if len(seeds) > 1]
        if len(several) > 2:
            within = statistics.fmean(statistics.variance(each) for each in several) ** 0.5
            between = statistics.stdev(statistics.fmean(each) for each in several)
            made[task] = {"within": round(within, 4), "between": round(between, 4), "ratio": round(between / within, 2)}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(COMPARISONS))
    name = parser.parse_args().experiment
    values = read(counted(name))
    swept = sorted({model for of in values.values() for model in of if model.startswith("sweep-")})
    comparisons = COMPARISONS[name] | {f"{model} against the recipe": [(model, "colld")] for model in swept}
    compared = {title: gains(values, pairs) for title, pairs in comparisons.items()}
    record = {
        "name": f"{name}-reading",
        **ledger.header(f"{name}-reading"),
        "wins": {
            title: {task: [sum(g > 0 for g in of), len(of)] for task, of in each.items()} for title, each in compared.items()
        },
        "gains": {title: {task: round(statistics.fmean(of), 4) for task, of in each.items()} for title, each in compared.items()},
        "intervals": {title: {task: interval(of) for task, of in each.items()} for title, each in compared.items()},
        "p": corrected(compared),
        "spread": spread(values),
    }
    ledger.write(FOLDER / name / ledger.RECORDS, record)
    print(json.dumps({key: record[key] for key in ("wins", "gains", "intervals", "p", "spread")}, indent=1))


if __name__ == "__main__":
    main()
