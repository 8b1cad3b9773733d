"""The record of a finished run: recipe, data, results and cost, as one JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sottovoce.core import ledger
from sottovoce.core.config import plain
from sottovoce.core.registry import TASKS
from sottovoce.hub.card import Card
from sottovoce.pruning import encoder_cost, total
from sottovoce.train.run import Run
from sottovoce.train.teachers import Teacher


def gather(run: Run, cost: Mapping[str, float]) -> dict[str, Any]:
    """The record, from the reports of the stages."""
    teachers = {label: about(teacher) for label, teacher in run.teachers.items()}
    stages = [report for name in run.recipe.stages if (report := run.done(name)) is not None]
    record: dict[str, Any] = {
        **ledger.header("run"),
        "recipe": ledger.portable(plain(run.recipe)),
        "seed": run.recipe.seed,
        "data": {
            "source": Path(run.spec).name,
            "hours": round(run.data.hours, 3),
            "skipped": len(run.data.skipped),
            "where": dict(run.recipe.data.where),
        },
        "teacher": teachers.get(run.teachers.main),
        "teachers": teachers,
        "cost": dict(cost),
        "stages": [{key: value for key, value in stage.items() if key not in ("kept", "weights", "shape")} for stage in stages],
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
    }
    for stage in stages:
        record.update(
            {key: value for key, value in stage.items() if key in ("budget", "held_out_seconds") or key in TASKS.names()}
        )
    return record


def about(teacher: Teacher) -> dict[str, Any]:
    """A teacher's name, kind and family and, if its shape is known, its cost."""
    pretrained = teacher.pretrained
    record: dict[str, Any] = {"name": ledger.portable(teacher.config.source), "kind": teacher.name}
    record["family"] = teacher.name if pretrained is None else pretrained.family
    if pretrained is not None and pretrained.config is not None:
        cost = total(encoder_cost(pretrained.config))
        record |= {"params": float(cost.params), "macs_per_s": float(cost.macs)}
    if len(teacher.models) > 1:
        record["others"] = [ledger.portable(model.config.source) for model in teacher.models[1:]]
    return record


def card(run: Run, record: Mapping[str, Any]) -> Card:
    """The model card. It holds only what this run measured."""
    teacher, data = record["teacher"] or {}, record["data"]

    def row(measure: str, key: str) -> dict[str, Any]:
        theirs = f"{teacher[key]:,.0f}" if key in teacher else None
        return {"measure": measure, "student": f"{record['cost'][key]:,.0f}", "teacher": theirs}

    numbers = [row("parameters", "params"), row("multiply-accumulates per second of audio", "macs_per_s")]
    if "budget" in record:
        numbers.append(
            {
                "measure": f"{record['budget']['unit']} kept, of {record['budget']['target']:.2%} asked for",
                "student": f"{record['budget']['after']:.2%}",
            }
        )
    if "fidelity" in record:
        mean, audio = record["fidelity"]["mean"], f"{record['held_out_seconds']:.0f} s of held-out audio"
        cosine = "not comparable: another width" if mean["cosine"] is None else f"{mean['cosine']:.3f}"
        numbers.append({"measure": f"cosine to the teacher, mean over layers, {audio}", "student": cosine})
        numbers.append({"measure": "the same after the best linear map", "student": f"{mean['mapped']:.3f}"})
    where = ", ".join(f"{key}={value}" for key, value in data["where"].items())
    source = f"`{data['source']}`" + (f" ({where})" if where else "") + f", seed {record['seed']}: {run.data.summary()}."
    names = [other["name"] for label, other in record["teachers"].items() if label != run.teachers.main]
    names += [name for each in record["teachers"].values() for name in each.get("others", ())]
    others = [f"`{name}`" for name in names]
    learned = f" The student also learned from {' and '.join(others)}." if others else ""
    whose = "their licences" if others else "its licence"
    licence = f"The weights derive from `{teacher.get('name', 'random weights')}`; {whose} and that of the data apply.{learned}"
    recipe = yaml.safe_dump(record["recipe"], sort_keys=False)
    return Card(numbers=numbers, recipe=recipe, data=f"{source}\n\n{licence}")
