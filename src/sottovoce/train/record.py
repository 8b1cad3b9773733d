"""The record of a finished run: what was asked, on what, with what outcome and at what cost. One JSON, never edited."""

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
    """Gathers what the stages wrote."""
    teachers = {label: about(teacher) for label, teacher in run.teachers.items()}
    stages = [found for name in run.recipe.stages if (found := run.done(name)) is not None]
    made: dict[str, Any] = {
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
        "stages": [{key: value for key, value in stage.items() if key not in ("kept", "weights")} for stage in stages],
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
    }
    for stage in stages:
        made.update({key: value for key, value in stage.items() if key in ("budget", "held_out_seconds") or key in TASKS.names()})
    return made


def about(teacher: Teacher) -> dict[str, Any]:
    """Its name, kind and family and, where its shape is known, its cost."""
    inside = teacher.pretrained
    made: dict[str, Any] = {"name": ledger.portable(teacher.config.source), "kind": teacher.name}
    made["family"] = teacher.name if inside is None else inside.family
    if inside is not None and inside.config is not None:
        cost = total(encoder_cost(inside.config))
        made |= {"params": float(cost.params), "macs_per_s": float(cost.macs)}
    return made


def card(run: Run, made: Mapping[str, Any]) -> Card:
    """What the model card says: only what this run measured."""
    teacher, data = made["teacher"] or {}, made["data"]

    def row(measure: str, key: str) -> dict[str, Any]:
        theirs = f"{teacher[key]:,.0f}" if key in teacher else None
        return {"measure": measure, "student": f"{made['cost'][key]:,.0f}", "teacher": theirs}

    numbers = [row("parameters", "params"), row("multiply-accumulates per second of audio", "macs_per_s")]
    if "budget" in made:
        numbers.append(
            {
                "measure": f"{made['budget']['unit']} kept, of {made['budget']['target']:.2%} asked for",
                "student": f"{made['budget']['after']:.2%}",
            }
        )
    if "fidelity" in made:
        mean, heard = made["fidelity"]["mean"], f"{made['held_out_seconds']:.0f} s of held-out audio"
        cosine = "not comparable: another width" if mean["cosine"] is None else f"{mean['cosine']:.3f}"
        numbers.append({"measure": f"cosine to the teacher, mean over layers, {heard}", "student": cosine})
        numbers.append({"measure": "the same after the best linear map", "student": f"{mean['mapped']:.3f}"})
    where = ", ".join(f"{key}={value}" for key, value in data["where"].items())
    source = f"`{data['source']}`" + (f" ({where})" if where else "") + f", seed {made['seed']}: {run.data.summary()}."
    others = [f"`{other['name']}`" for label, other in made["teachers"].items() if label != run.teachers.main]
    learned = f" The student also learned from {' and '.join(others)}." if others else ""
    whose = "their licences" if others else "its licence"
    licence = f"The weights derive from `{teacher.get('name', 'random weights')}`; {whose} and that of the data apply.{learned}"
    recipe = yaml.safe_dump(made["recipe"], sort_keys=False)
    return Card(numbers=numbers, recipe=recipe, data=f"{source}\n\n{licence}")
