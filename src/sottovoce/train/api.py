"""The two verbs that train: `compress` and `pretrain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sottovoce import recipes
from sottovoce.core import ledger
from sottovoce.core.config import ConfigError, plain
from sottovoce.data import open_data
from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import SHIPPED, refuse_overlap, save_pretrained
from sottovoce.hub.student import save_student
from sottovoce.timing.latency import latency
from sottovoce.train import needs
from sottovoce.train.auto import choose
from sottovoce.train.checks import Permissions
from sottovoce.train.dist import World, connect
from sottovoce.train.keeping import about_host, put_back
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Recipe, load_recipe
from sottovoce.train.record import card, gather
from sottovoce.train.run import RESULT, Run, check_folder
from sottovoce.train.scores import kept_heads
from sottovoce.train.sequence import first_student, run_stages
from sottovoce.train.targets import open_teachers
from sottovoce.train.track import duration, say
from sottovoce.train.work import Work, cost_of


@dataclass(frozen=True)
class Result:
    """The result of a run. It prints in one line.

    out: its folder. met: whether the budget was met within 1 %. why: a sentence about the budget. record: the content of result.json.
    latency: seconds that student and teacher take for 5 s of audio on this machine; empty for a run that was finished before.
    """

    out: Path
    met: bool
    why: str
    record: Mapping[str, Any]
    latency: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.out}: {self.summary()[0]}"

    def summary(self) -> list[str]:
        """A few lines for people: size, speed, likeness to the teacher, and budget."""
        cost, teacher = self.record["cost"], self.record.get("teacher") or {}
        lines = [f"{cost['params'] / 1e6:,.2f}M parameters, {cost['macs_per_s'] / 1e6:,.0f} MMAC per second of audio"]
        if teacher.get("params"):
            share = {name: cost[name] / teacher[name] for name in cost}
            lines[0] += f"; {share['params']:.1%} and {share['macs_per_s']:.1%} of the teacher's"
        if host := self.record.get("host"):
            lines.append(f"in a {host['class']} of {host['params'] / 1e6:,.2f}M parameters, which {host['auto_class']} opens")
        if self.latency:
            times = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in self.latency.items())
            lines.append(f"5 s of audio take: {times}")
        mean = (self.record.get("fidelity") or {}).get("mean") or {}
        if mean.get("explained") is not None:
            lines.append(f"{mean['explained']:.1%} of the variance of the teacher's layers is explained, on held-out audio")
        return lines + ([self.why] if self.why else [])

    def check(self) -> None:
        """Raises `MissedBudget` if the student is larger than asked."""
        if not self.met:
            raise MissedBudget(f"the student in {self.out} {self.why}")


class MissedBudget(Exception):
    """The run finished, but the student is larger than asked."""

    exit_status = 1


def compress(
    teacher: str | Path,
    *,
    recipe: str | Path = "dphubert",
    data: str | Path,
    out: str | Path,
    budget: str | None = None,
    keep: float | None = None,
    hours: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    long: bool = False,
    larger: bool = False,
    overrides: Sequence[str] = (),
) -> Result:
    """Trains a small student of `teacher` and writes it to `out`. The same call again resumes the run; a finished run is not repeated.

    teacher: hub id, folder in Hugging Face format, an earlier student, or ``demo``. data: see docs/data.md. budget, keep: what is
    counted (``params``, ``macs`` or ``latency``) and the share that stays. hours: of computing that there are, for the recipe ``auto``.
    steps: scales the whole schedule. long: train by the recipe's
    schedule even if it passes more than 100 times over the data. larger: allow a student that costs more than its teacher. overrides:
    ``key=value``. Raises ValueError for anything the caller can mend, `Stopped` when asked to stop.
    """
    resolved = resolve(
        recipe, overrides, steps, teacher=str(teacher), budget=budget, keep=keep, seed=seed,
        hours=hours, data=str(data), out=None if fresh else Path(out), device=device,
    )  # fmt: skip
    allowed = Permissions(long or steps is not None or bool(resolved.chosen.steps), larger)
    return run_recipe(resolved, str(data), Path(out), device, fresh, allowed)


def pretrain(
    *,
    recipe: str | Path,
    data: str | Path,
    out: str | Path,
    teacher: str | Path = "",
    steps: int | None = None,
    seed: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    long: bool = False,
    overrides: Sequence[str] = (),
) -> Result:
    """Trains an encoder by self-supervision and writes it to `out`.

    teacher: an earlier iteration whose layers give the targets. The rest as in `compress`.
    """
    resolved = resolve(recipe, overrides, steps, teacher=str(teacher), seed=seed)
    return run_recipe(resolved, str(data), Path(out), device, fresh, Permissions(long or steps is not None, larger=True))


def resolve(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    *,
    teacher: str = "",
    budget: str | None = None,
    keep: float | None = None,
    seed: int | None = None,
    hours: float | None = None,
    data: str = "",
    out: Path | None = None,
    device: str = "auto",
) -> Recipe:
    """The recipe with the command line's options filled in. ConfigError if a budget is given and the recipe does not prune.

    hours, data, out, device: for the recipe ``auto``, see `auto.choose`; what it chooses is printed.
    """
    given: dict[str, Any] = {"teacher": teacher or None, "pruning.budget.unit": budget, "pruning.budget.keep": keep, "seed": seed}
    if hours is not None and (str(recipe) != recipes.AUTO or steps is not None):
        raise ConfigError("--hours is for --recipe auto, without --steps; other recipes take --steps")
    if str(recipe) == recipes.AUTO:
        choice = choose(teacher, data, hours, out, device, overrides)
        say(f"auto {choice.chosen.why}")
        recipe, overrides = choice.recipe, (*choice.overrides, *overrides)
        steps = choice.steps if steps is None else steps
        given |= {f"chosen.{key}": value for key, value in plain(choice.chosen).items()}
    resolved = load_recipe(recipe, overrides, steps, {key: value for key, value in given.items() if value is not None})
    if (budget is not None or keep is not None) and not any(stage.meets_budget for stage in resolved.build_stages()):
        raise ConfigError(f"--budget and --keep need a recipe that prunes and cuts; '{recipe}' does not")
    return resolved


def run_recipe(recipe: Recipe, data: str, out: Path, device: str, fresh: bool, permissions: Permissions) -> Result:
    """Runs the stages; writes the student and its record. ValueError for an `out` that other commands would take for another model."""
    refuse_out(recipe, out)
    ledger.commit()
    with Run(out, recipe, data, connect(device), permissions.check).open(fresh) as run:
        finished = run.folder / RESULT
        times: dict[str, float] = {}
        if (record := run.result()) is not None:
            run.say(f"{out} is finished; --fresh would start over")
        else:
            work = run_stages(run)
            run.data.train.close()  # a worker that is killed while Python ends would raise in whatever runs then
            record = gather(run, cost_of(work.encoder))
            if run.world.main:
                export(run, work, record)
                ledger.write(finished, record)
                times = time_models(run, work)
                run.say(draw_report(out))
        report = record.get("budget")
        return Result(out, report is None or bool(report["met"]), "" if report is None else str(report["text"]), record, times)


def refuse_out(recipe: Recipe, out: Path) -> None:
    """ValueError for a folder that must not be written to: one that names or holds a model, or anything else that is no run."""
    if str(out) in SHIPPED:
        raise ValueError(f"--out cannot be '{out}', which names a built-in model; choose another folder, e.g. students/{out}")
    configs = [choice.config for choice in recipe.teachers.values()]
    sources = [source for config in configs for source in (config.source, *getattr(config, "others", ()))]
    refuse_overlap(out, [*sources, getattr(recipe.student.config, "like", "")])
    check_folder(out)


def time_models(run: Run, work: Work) -> dict[str, float]:
    """Seconds that student and teacher take for 5 s of audio on this CPU; empty on other devices."""
    if run.world.device.type != "cpu":
        return {}
    models: dict[str, nn.Module] = {"student": work.encoder.eval()}
    teacher = run.teachers.origin
    if teacher is not None and isinstance(teacher.encoder, Encoder) and next(teacher.encoder.parameters()).dtype == torch.float32:
        models["teacher"] = teacher.encoder
    return {name: latency(model, seconds=5.0, repeats=3) for name, model in models.items()}


def draw_report(out: Path) -> str:
    """Draws the run's page and returns a sentence about it. Does not raise: a finished run must not fail because of its page."""
    from sottovoce.reporting import page

    try:
        return f"report in {page.report([out], out / 'report.html')}"
    except (ValueError, OSError) as problem:
        return f"no report was drawn: {problem}"


def export(run: Run, work: Work, record: dict[str, Any]) -> None:
    """Writes the trained encoder as a student, in its teacher's host where there is one, or in Hugging Face's format if the recipe asks for
    it. The record then has the ``host``. Says which files go because they were
    exported from other weights."""
    if gone := _write(run, work, record):
        run.say(f"removed {', '.join(gone)}: exported from the student before; to write it anew: sottovoce export {run.out}")


def _write(run: Run, work: Work, record: dict[str, Any]) -> list[str]:
    recipe = run.recipe
    if recipe.format != "sottovoce":
        if any(choice.cls.kept for choice in recipe.objectives.values()):
            run.say(
                f"the score head is not kept, because a model in {recipe.format}'s format has none; leave format out to keep it"
            )
        mask_vector = work.objectives.get("mask_vector")
        return save_pretrained(run.out, work.encoder, recipe.format, normalize=run.teachers.normalize, mask_vector=mask_vector)
    teacher = run.teachers.origin
    learner = Learner(work.encoder, recipe.objectives, run.teachers, recipe.masking, host=recipe.host)
    learner.recall(work.objectives)
    projections, layers = learner.projections()
    scores = kept_heads(run, work)
    if scores is not None:
        record["scores"] = {label: list(shape.names) for label, shape in scores.shapes.items()}
    host = put_back(run, work, learner)
    if host is not None:
        from sottovoce.hosts.save import files_of

        record["host"] = about_host(host)
    return save_student(
        run.out,
        work.encoder,
        host=None if host is None else files_of(host),
        normalize=run.teachers.normalize,
        preprocessor=teacher.preprocessor if teacher is not None else None,
        projections=projections,
        layers=layers,
        join=learner.join,
        teacher=recipe.teacher,
        card=card(run, record),
        scores=scores,
    )


def describe(
    recipe: Recipe, source: str, out: Path | None = None, fresh: bool = False, permissions: Permissions | None = None
) -> dict[str, Any]:
    """For ``--dry-run --json``: the resolved recipe, what may be pruned, and the estimated cost of student and run.

    source: of the data. audio_hours: that pass through training, in so many passes over data_hours. training_macs_at_most: teacher
    forward, student forward and backward (twice the forward), with the student as large as the teacher. refused: why the run needs a
    permission that was not given. ValueError where a run into `out` could not begin for another reason; nothing is written there.
    """
    stages = recipe.build_stages()
    run = None if out is None else Run(out, recipe, source, World(0, 1, torch.device("cpu")))
    if run is not None:
        refuse_out(recipe, run.out)
        if not fresh:
            run.check_same()
    facts: dict[str, Any] = {"recipe": plain(recipe), "steps": recipe.steps}
    data = open_data(source, recipe.data, recipe.seed)
    passes = data.passes(sum(stage.batches for stage in stages))
    facts |= {"data_hours": data.hours, "passes": round(passes, 1), "audio_hours": passes * data.hours}
    teachers = open_teachers(recipe, World(0, 1, torch.device("cpu")))
    if run is not None and permissions is not None and (fresh or not run.begun):
        run.data, run.teachers = data, teachers
        try:
            permissions.check(run)
        except ValueError as problem:
            facts["refused"] = str(problem)
    teacher = teachers.origin
    if teacher is None:
        return facts
    facts["teacher"] = {"family": teacher.family}
    work = Work(first_student(recipe, teacher))
    host = teachers.host if any(objective.cls.reads == "outputs" for objective in recipe.objectives.values()) else None
    facts["memory"] = needs.estimate(recipe, work.encoder, teachers.values(), data.largest, host).text()
    if isinstance(teacher.encoder, Encoder):
        facts["teacher"] |= cost_of(teacher.encoder)
        facts["training_macs_at_most"] = 4 * 3600 * facts["audio_hours"] * facts["teacher"]["macs_per_s"]
    for stage in stages:
        stage.prepare(work, teachers)
        facts |= stage.describe(work)
    return facts


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan that `describe` returns, in six lines for people."""
    recipe, teacher, target = plan["recipe"], plan.get("teacher", {}), plan.get("student", {})
    objectives = ", ".join(
        f"{label} ({part['name']})" if part["name"] != label else label for label, part in recipe["objectives"].items()
    )
    size = (
        f", {teacher['params'] / 1e6:,.1f}M parameters, {teacher['macs_per_s'] / 1e6:,.0f} MMAC/s" if "params" in teacher else ""
    )
    budget = recipe["pruning"]["budget"]
    prunes = f"{budget['keep']:.0%} of the teacher's {budget['unit']}" if target else "as the recipe says"
    units = ", ".join(f"{count:,} {kind}" for kind, count in plan.get("plan", {}).items()) or "none"
    stages = ", ".join(f"{label} ({part.get('steps', part['kind'])})" for label, part in recipe["stages"].items())
    work = f"; at most {plan['training_macs_at_most']:.2g} multiply-accumulates" if "training_macs_at_most" in plan else ""
    return [
        f"teacher   {teacher.get('family', 'none')}{size}",
        f"student   {recipe['student']['name']}, {prunes}; units that may be pruned: {units}",
        f"learns    {objectives}",
        f"stages    {stages}; {plan['steps']:,} updates",
        f"audio     {duration(3600 * plan['data_hours'])}; {plan['passes']:,} passes, {duration(3600 * plan['audio_hours'])} in all{work}",
        f"memory    {plan.get('memory', 'not known without a teacher').removeprefix('memory: ')}",
    ]
