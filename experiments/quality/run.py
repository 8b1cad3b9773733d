"""Students of five sizes that score the quality of recordings, from scratch and pruned from a larger one, with equal updates.

    python -m experiments.quality.run --speech FOLDER --work DIR             # goes on where it stopped; small ones first
    python -m experiments.quality.run --speech FOLDER --work DIR --only scratch-64 large
    python -m experiments.quality.run --speech FOLDER --work DIR --rate 0.0003    # students from scratch at another learning rate
    python -m experiments.quality.run --table                               # from the records, and where the curves cross

Needs the weights of Distill-MOS (pip install --no-deps distillmos==0.9.1) and, for the rows `teachers` and `router`, of DNSMOS
(pip install --no-deps speechmos==0.0.1.1). Students of one seed hear the same degraded audio, so a pseudo-label is computed once and kept
in the cache folder. Only train rows are trained on; noises are train rows for training and test rows for the test.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import sottovoce
from experiments.corpora import rows, write
from sottovoce.core import ledger
from sottovoce.core.config import plain
from sottovoce.data import open_source
from sottovoce.evaluation.statistics.bootstrap import interval
from sottovoce.evaluation.statistics.metrics import pearson, spearman
from sottovoce.evaluation.suite.compare import holm
from sottovoce.pruning import encoder_cost, total
from sottovoce.train.recipe import load_recipe
from sottovoce.train.teachers.router import Router

FOLDER = Path(__file__).parent
KINDS = ("scratch", "pruned")
SIZES, LARGE = (64, 88, 120, 152, 176), 200  # widths of students from scratch; of the larger one that is pruned to their sizes
TEACHER, SECOND = "distillmos", "dnsmos"
SHIPPED = "demo-quality"  # width 120, with more updates
CORPORA = ("librispeech_dev", "librispeech_spk", "speechocean762")
SHORTEST, LONGEST = 1.5, 6.0  # seconds of recordings to train on
BATCH = 24  # seconds
ASKED = 300  # recordings with human ratings
RATINGS = {
    "human": "label",
    "accuracy": "accuracy",
    "fluency": "fluency",
    "prosodic": "prosodic",
}  # entry -> speechocean762's column
RATED = 200  # recordings of the train split that the router learns from

Say = partial(print, flush=True)


def written(path: Path, found: Sequence[Mapping[str, str]]) -> str:
    """A manifest, written once."""
    if not path.exists():
        write(path, found)
    return str(path)


class Setting:
    """What all students share. work: the folder for manifests and students. steps: updates of each student. rate: of learning, from
    scratch; ``None``: the recipe's, otherwise it is in the names of the students."""

    def __init__(
        self, speech: Path, work: Path, out: Path, steps: int, overrides: Sequence[str], rate: float | None = None
    ) -> None:
        self.speech, self.work, self.out, self.steps, self.own, self.rate = speech, work, out, steps, list(overrides), rate
        self.mark = "" if rate is None else f"-rate-{rate:g}"
        fit = [row for corpus in CORPORA for row in rows(speech, corpus, "train") if SHORTEST <= float(row["seconds"]) <= LONGEST]
        self.train = written(work / "train.tsv", fit)
        self.noises = {split: written(work / f"noises-{split}.tsv", rows(speech, "esc10", split)) for split in ("train", "test")}

    def overrides(self) -> list[str]:
        return [
            f"data.degradations.noise.noises={self.noises['train']}",
            f"data.seconds_per_batch={BATCH}",
            f"data.min_seconds={SHORTEST}",
            "data.workers=0",
            "data.keep_targets=1GB",
            "log_every=20",
            "valid_every=200",
            *self.own,
        ]

    def trained(self, name: str, train: Callable[..., Any], *first: str, **options: Any) -> Path:
        """A student, trained now if it is not yet."""
        out = self.work / f"{name}{self.mark}"
        extra = options.pop("overrides")
        train(*first, data=self.train, out=out, seed=1, overrides=[*extra, *self.overrides()], **options)
        return out

    def scratch(self, dim: int, name: str) -> Path:
        fields: dict[str, float] = {"steps": self.steps, "warmup": self.steps // 10}
        fields |= {} if self.rate is None else {"lr": self.rate}
        extra = [f"student.dim={dim}", *(f"stages.first.{key}={value}" for key, value in fields.items())]
        return self.trained(name, sottovoce.pretrain, recipe="quality", overrides=extra)

    def pruned(self, dim: int, name: str) -> Path:
        """The larger student, cut to the parameters of one from scratch of this width, half of the updates before the cut."""
        larger, half = self.scratch(LARGE, "large"), self.steps // 2
        keep = params(dim) / params(LARGE)
        extra = [f"stages.prune.steps={half}", f"stages.prune.warmup={half // 10}", f"pruning.ramp={half // 2}"]
        extra += [f"stages.distill.steps={self.steps - half}", f"stages.distill.warmup={half // 10}"]
        # as in dphubert-demo: high enough that gates reach the target in few updates
        extra += ["pruning.gate_lr=0.25", "pruning.multiplier_lr=0.5"]
        compress = partial(sottovoce.compress, keep=keep)
        return self.trained(name, compress, str(larger), recipe="quality-pruned", overrides=extra)

    def tasks(self) -> dict[str, Any]:
        """The task file: held-out recordings, degraded as those for training but with other noises; and recordings with ratings."""
        chain = {label: plain(choice) for label, choice in load_recipe("quality").data.degradations.items()}
        chain["noise"]["noises"] = self.noises["test"]
        held_out = [
            {"path": f"{corpus}/manifest.tsv", "where": {"split": "test"}, "degradations": chain} for corpus in CORPORA[:2]
        ]
        rated = {"path": "speechocean762/manifest.tsv", "where": {"split": "test"}, "limit": {"test": ASKED}}
        entries = {
            name: {"task": {"name": "quality-score", "field": column}, "data": [rated]} for name, column in RATINGS.items()
        }
        return {"tasks": {"degraded": {"task": "quality-score", "data": held_out}, **entries}}

    def task_file(self) -> Path:
        path = self.work / "tasks.yaml"
        path.write_text(yaml.safe_dump(self.tasks(), sort_keys=False), encoding="utf-8")
        return path

    def measure(self, models: Sequence[str], vs: Sequence[str], tasks: Sequence[str] = ("all",)) -> None:
        sottovoce.evaluate(models, data=self.task_file(), tasks=tasks, vs=vs, root=self.speech, out=self.out, seeds=[1], say=Say)

    def pair(self, one: Path, other: Path) -> None:
        """How much better the first agrees with the teacher, on the same degraded recordings."""
        name = f"{one.name}-{other.name}"
        if not self.has(name):
            sottovoce.compare(
                str(one), str(other), data=self.task_file(), tasks=["degraded"], vs=TEACHER, root=self.speech, out=self.out,
                seeds=[1], say=Say,
            )  # fmt: skip

    def router(self) -> None:
        """How a router over both models, fitted on rated recordings of the train split, agrees with the ratings of the test split."""
        if self.has("router"):
            return
        rated = written(self.work / "rated.tsv", rows(self.speech, "speechocean762", "train"))
        fitted = Router.alone(ratings=rated, field="label", scale=(0.0, 10.0), clips=RATED)
        assert isinstance(fitted, Router)
        source = sorted(open_source(self.speech / "speechocean762" / "manifest.tsv"), key=lambda item: item.id)
        wanted = {row["recording"] for row in self.kept(TEACHER)} & {row["recording"] for row in self.kept(SECOND)}
        chosen = [item for item in source if item.id in wanted and item.fields.get("split") == "test"]
        scores = np.array([[self.score(model, item.id) for model in (TEACHER, SECOND)] for item in chosen])
        ratings, speakers = (
            np.array([float(item.fields["label"]) for item in chosen]),
            [item.fields["speaker"] for item in chosen],
        )
        with torch.no_grad():
            weights = fitted.network(torch.from_numpy(scores).float()).numpy()
        columns = {TEACHER: scores[:, 0], SECOND: scores[:, 1], "mean": scores.mean(1), "router": (weights * scores).sum(1)}
        measures = {}
        for name, column in columns.items():
            pairs = np.column_stack([column, ratings])
            for measure, of in (("pearson", pearson), ("spearman", spearman)):
                low, high = interval(pairs, partial(columnwise, of), speakers)
                value = of(column, ratings)
                measures[f"{name}_{measure}"] = {key: round(x, 4) for key, x in (("value", value), ("low", low), ("high", high))}
        mean = {model: round(float(weight), 4) for model, weight in zip((TEACHER, SECOND), weights.mean(0), strict=True)}
        record = {"name": "router", **ledger.header("router"), "recordings": len(chosen), "weights": mean, "measures": measures}
        ledger.write(self.out / ledger.RECORDS, record)
        Say("router", measures)

    def has(self, name: str) -> bool:
        """Whether there is a record of this name."""
        return any(record.get("name") == name for record in ledger.read_all(self.out / ledger.RECORDS))

    def kept(self, model: str) -> list[dict[str, Any]]:
        """The scores that a model gave already."""
        return [row for path in sorted((self.out / "scores").glob(f"{model}-*.jsonl")) for row in ledger.read_all(path)]

    def score(self, model: str, recording: str) -> float:
        """The last score of a recording that was not degraded."""
        return float(next(list(row["scores"].values())[-1] for row in self.kept(model) if row["recording"] == recording))


def columnwise(of: Callable[..., float], pairs: np.ndarray) -> float:
    """A correlation of the two columns."""
    return of(*pairs.T)


def params(dim: int) -> float:
    """Parameters of the recipe's student of this width."""
    return float(total(encoder_cost(load_recipe("quality", [f"student.dim={dim}"]).student.build().shape())).params)


def steps_of(setting: Setting) -> dict[str, Callable[[], None]]:
    """What is to be done, by name, in order."""

    def student(name: str, train: Callable[[int, str], Path], dim: int) -> None:
        setting.measure([str(train(dim, name))], [TEACHER])

    def pair(dim: int) -> None:
        setting.pair(setting.pruned(dim, f"pruned-{dim}"), setting.scratch(dim, f"scratch-{dim}"))

    found: dict[str, Callable[[], None]] = {}
    found |= {f"scratch-{dim}": partial(student, f"scratch-{dim}", setting.scratch, dim) for dim in SIZES}
    found["large"] = partial(student, "large", setting.scratch, LARGE)
    found |= {f"pruned-{dim}": partial(student, f"pruned-{dim}", setting.pruned, dim) for dim in SIZES}
    found["shipped"] = lambda: setting.measure([SHIPPED], [TEACHER])
    found["teachers"] = lambda: setting.measure([SECOND], [], ["human"])
    found["router"] = setting.router
    found |= {f"pair-{dim}": partial(pair, dim) for dim in SIZES}
    return found


def table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown tables of what is measured: students and teachers, pairs of one size, the router; and where the curves cross."""
    newest = {(each["model"]["name"], each["task"]["entry"]): each for each in records if each.get("kind") == "evaluation"}
    lines = [
        "| model | parameters | agreement with the teacher | rank agreement | Pearson with the ratings |",
        "|---|---:|---:|---:|---:|",
    ]
    agreement: dict[str, float] = {}
    marks = sorted({name.removeprefix("large") for name, _ in newest if name.startswith("large")} | {""})
    students = [f"{of}{mark}" for mark in marks for of in (*(f"{kind}-{dim}" for kind in KINDS for dim in SIZES), "large")]
    for name in [*students, SHIPPED, TEACHER, SECOND]:
        degraded, human = (newest.get((name, entry)) for entry in ("degraded", "human"))
        if degraded is None and human is None:
            continue
        rater = (degraded or human or {})["details"]["rater"]
        cells = [
            "–" if rater["params"] is None else f"{rater['params']:,}",
            cell("agreement", degraded),
            cell("rank_agreement", degraded),
            cell("pearson", human),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        if degraded is not None and "agreement" in degraded["measures"]:
            agreement[name] = float(degraded["measures"]["agreement"]["value"])
    for mark in marks:
        rate = f"Learning rate {mark.removeprefix('-rate-')}: " if mark else ""
        lines += ["", rate + crossing(agreement, mark)]
    if paired := [each for each in records if each.get("kind") == "paired"]:
        lines += ["", "Agreement on the same recordings:", ""]
        lines += ["| first, second | first better by | p, corrected for the number of pairs |", "|---|---:|---:|"]
        found = [each["tasks"]["degraded"]["measures"]["agreement"] for each in paired]
        for each, measure, p in zip(paired, found, holm([measure["p"] for measure in found]), strict=True):
            better = measure["better"]
            names = ", ".join(model["name"] for model in each["models"])
            lines.append(f"| {names} | {better['value']:+.3f} ({better['low']:+.3f} to {better['high']:+.3f}) | {p:.4f} |")
    for each in records:
        if each.get("name") == "router":
            weights = ", ".join(f"{model} {weight:.2f}" for model, weight in each["weights"].items())
            lines += ["", f"With the ratings of {each['recordings']} recordings; the router's mean weights are {weights}:", ""]
            lines += ["| score | Pearson | Spearman |", "|---|---:|---:|"]
            for name in (TEACHER, SECOND, "mean", "router"):
                own = {measure: each["measures"][f"{name}_{measure}"] for measure in ("pearson", "spearman")}
                lines.append(f"| {name} | {' | '.join(cell(measure, {'measures': own}) for measure in own)} |")
    return lines


def cell(measure: str, of: Mapping[str, Any] | None) -> str:
    """A measure with its interval."""
    if of is None or measure not in of["measures"]:
        return "–"
    found = of["measures"][measure]
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def crossing(agreement: Mapping[str, float], mark: str) -> str:
    """A sentence: which kind of student agrees better at which size. agreement: by name of the student. mark: how names end."""
    both = [dim for dim in SIZES if all(f"{kind}-{dim}{mark}" in agreement for kind in KINDS)]
    wins = {dim: agreement[f"pruned-{dim}{mark}"] > agreement[f"scratch-{dim}{mark}"] for dim in both}
    changes = [(a, b) for a, b in itertools.pairwise(both) if wins[a] != wins[b]]
    if not both:
        return "No size has both kinds of students yet."
    if changes:
        return "The curves cross between " + ", and between ".join(f"the sizes of {a} and {b}" for a, b in changes) + "."
    return f"The curves do not cross: {'pruned' if wins[both[0]] else 'scratch'} is better at every size that has both."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, help="folder of the corpora")
    parser.add_argument("--work", type=Path, help="folder for manifests and students")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=2000, help="updates of each student")
    parser.add_argument("--rate", type=float, help="learning rate of students from scratch; the recipe's by default")
    parser.add_argument("--only", nargs="+", default=[], help="names of what is to be done, e.g. scratch-64")
    parser.add_argument("--table", action="store_true", help="only print the table of the records")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE for all recipes")
    options = parser.parse_args()
    if not options.table:
        if options.speech is None or options.work is None:
            parser.error("--speech and --work are needed to train and measure")
        ledger.commit()
        todo = steps_of(Setting(options.speech, options.work, options.out, options.steps, options.overrides, options.rate))
        if unknown := set(options.only) - set(todo):
            parser.error(f"--only knows {', '.join(todo)}, not {', '.join(sorted(unknown))}")
        for name, step in todo.items():
            if not options.only or name in options.only:
                Say(name)
                step()
    print("\n".join(table(ledger.read_all(options.out / ledger.RECORDS))))


if __name__ == "__main__":
    main()
