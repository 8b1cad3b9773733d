"""What the testbed's table says when the seeds are taken one by one, from the records alone.

    python benchmarks/testbed_reading.py results/testbed --out results/testbed-reading.json

wins: of the pairs with the same seed, how often the first model is better than the second, for each task. spread: by task, the standard
deviation of a student's value over its seeds (within), that of the students' means (between), and their ratio: what is near 1 or below
cannot tell these students apart.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sottovoce import ledger

SHAPES = tuple(f"{unit}-{share}" for unit in ("macs", "params") for share in (50, 25, 15))
PAIRS = {
    "DPHuBERT against the same shape from random start": [(f"dphubert-{shape}", f"random-{shape}") for shape in SHAPES],
    "DPHuBERT against DistilHuBERT at its MACs": [("dphubert-macs-44", "distilhubert")],
    "a quarter of the parameters against a quarter of the MACs": [("dphubert-params-25", "dphubert-macs-25")],
    "half of the MACs against a quarter": [("dphubert-macs-50", "dphubert-macs-25")],
    "a quarter of the MACs against 15 %": [("dphubert-macs-25", "dphubert-macs-15")],
}
Values = Mapping[str, Mapping[str, Mapping[int, float]]]  # task: model: seed: value, greater is better


def read(folder: Path) -> Values:
    """The first measure of every task on every student with a seed in its name; errors with a minus."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(folder.glob("*/*.json")):
        named = re.fullmatch(r"(.+)-seed(\d+)", file.parent.name)
        if named:
            measure = next(iter(json.loads(file.read_text(encoding="utf-8"))["measures"].values()))
            sign = 1 if measure["better"] == "higher" else -1
            found[file.stem][named[1]][int(named[2])] = sign * measure["value"]
    return found


def wins(values: Values) -> dict[str, dict[str, list[int]]]:
    """By comparison and task: [wins, pairs]."""
    made: dict[str, dict[str, list[int]]] = {}
    for name, pairs in PAIRS.items():
        made[name] = {}
        for task, of in values.items():
            beaten = [of[one][seed] > of[other][seed] for one, other in pairs for seed in of[one].keys() & of[other].keys()]
            if beaten:
                made[name][task] = [sum(beaten), len(beaten)]
    return made


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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    values = read(options.folder)
    record = {**ledger.header("testbed-reading"), "wins": wins(values), "spread": spread(values)}
    ledger.write(options.out, record)
    print(json.dumps({key: record[key] for key in ("wins", "spread")}, indent=1))


if __name__ == "__main__":
    main()
