"""Measures the student during a run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from sottovoce.core.config import build
from sottovoce.core.registry import STAGES
from sottovoce.data import Recordings
from sottovoce.data.durations import present
from sottovoce.encoder import Encoder
from sottovoce.encoder.score_head import ScoreHeads
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.kinds.task import Workbench
from sottovoce.evaluation.subjects.sources import open_subject, subject_of
from sottovoce.evaluation.suite.audio import FILE as DIGESTS
from sottovoce.evaluation.suite.audio import audio_digest
from sottovoce.evaluation.suite.config import Source, SuiteEntry
from sottovoce.evaluation.suite.pairs import (
    Failure,
    Pair,
    TaskResult,
    earlier,
    fingerprint,
    measure,
    pair_of,
    records_of,
    task_of,
)
from sottovoce.evaluation.suite.run import with_durations
from sottovoce.hub.pretrained import Pretrained
from sottovoce.reporting.collect import EVALUATION
from sottovoce.train.run import Run
from sottovoce.train.scores import kept_heads
from sottovoce.train.stages.base import Stage
from sottovoce.train.targets import Teachers
from sottovoce.train.teachers import prepared
from sottovoce.train.work import Work, cost_of

DEFAULT = "fidelity"


@dataclass(frozen=True)
class MeasuredTask(SuiteEntry):
    """A task and its data; without data, it reads the held-out recordings of the run."""

    data: tuple[Source, ...] = ()


@STAGES.register("evaluate")
class Evaluate(Stage):
    """Measures the student by any task: on held-out recordings of the run beside the teacher, or on data of the task's own."""

    changes: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Config:
        """tasks: tasks by label, as in a task file: ``{ks: {data: words.tsv}}``. The label names the task unless ``task`` does.
        ``[fidelity]`` is short for ``{fidelity: {}}``. Relative paths start in the working directory.
        seeds: of heads and batches, for tasks with data.
        """

        tasks: Mapping[str, MeasuredTask] = field(default_factory=lambda: {DEFAULT: build(MeasuredTask, {"task": DEFAULT})})
        seeds: tuple[int, ...] = (1, 2, 3)

        @staticmethod
        def expand(given: Any) -> Any:
            """Writes out lists of tasks, and labels that are names of tasks."""
            if not isinstance(given, Mapping) or "tasks" not in given:
                return given
            tasks = given["tasks"]
            if isinstance(tasks, (list, tuple)):
                tasks = {str(name): {} for name in tasks}
            if isinstance(tasks, Mapping):
                tasks = {label: _named(str(label), fields) for label, fields in tasks.items()}
            return {**given, "tasks": tasks}

    def __init__(self, config: Any, label: str, recipe: Any) -> None:
        super().__init__(config, label, recipe)
        self.recordings: dict[str, Recordings] = {}  # of tasks with data, by label

    def check(self) -> None:
        for label, choice in self.config.tasks.items():
            task = choice.task.cls
            if not choice.data and not task.held_out:
                raise ValueError(
                    f"stages.{self.label}.tasks: {task.name} reads {task.reads}, which held-out recordings do not have; give its "
                    f"data, e.g. tasks: {{{label}: {{data: FILE}}}}, or use 'sottovoce evaluate' on the student"
                )

    def prepare(self, work: Work, teachers: Teachers) -> None:
        for label, choice in self._with_data().items():
            if choice.task.cls.compares and not self.recipe.teacher:
                raise ValueError(f"stages.{self.label}.tasks.{label} compares with a teacher, and this run has none; take it out")
            self.recordings[label] = choice.open(Path(), self.recipe.data.allow_commands)
            task_of(choice).check(present(self.recordings[label]))

    def _with_data(self) -> dict[str, MeasuredTask]:
        return {label: choice for label, choice in self.config.tasks.items() if choice.data}

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        results: dict[str, Any] = {"cost": cost_of(work.encoder)}
        results |= self._on_held_out(run, work.encoder)
        if self._with_data() and run.world.main:
            results |= self._on_own_data(run, work.encoder, kept_heads(run, work))
        work.encoder.cpu()
        return work, results

    def _on_held_out(self, run: Run, encoder: Encoder) -> dict[str, Any]:
        """Measures the tasks without data, on the held-out recordings."""
        chosen = {label: choice for label, choice in self.config.tasks.items() if not choice.data}
        teacher, device = run.teachers.origin, run.world.device
        batches = [prepared(batch.to(device), run.teachers.normalize) for batch in run.data.valid] if chosen else []
        if teacher is None or not batches:
            why = "there is no teacher" if teacher is None else "there is no held-out audio"
            if chosen:
                run.say(f"{self.label}: {', '.join(chosen)} not measured, because {why}")
            return {}
        results: dict[str, Any] = {"held_out_seconds": round(sum(batch.seconds for batch in batches), 1)}
        encoder = encoder.to(device).eval()
        for label, choice in chosen.items():
            task: Any = task_of(choice)
            results[label] = task.run(encoder, teacher.encoder, batches)
        return results

    def _on_own_data(self, run: Run, encoder: Encoder, scores: ScoreHeads | None) -> dict[str, Any]:
        """Measures the tasks with data. Each adds a record to ``evaluation/`` in the run's folder, as `sottovoce evaluate` would."""
        device, store = run.world.device, FeatureStore()
        model = Pretrained(encoder.eval(), encoder.config, "sottovoce", run.teachers.normalize, str(run.out), scores=scores)
        student = subject_of(model, run.out.name, "student" if self.recipe.teacher else "teacher").to(device)
        compares = any(choice.task.cls.compares for choice in self._with_data().values())
        # opened again, because the run's teacher may be in half precision
        reference = open_subject(self.recipe.teacher).to(device) if compares else None
        bench = Workbench(store, self.config.seeds, device, reference, run.say)
        measures: dict[str, Any] = {}
        failed: dict[str, str] = {}
        for label, choice in self._with_data().items():
            recordings = self.recordings[label]
            digest, audio = fingerprint(recordings, task_of(choice).files()), audio_digest(recordings, store.folder / DIGESTS)
            pair = replace(pair_of(student, label, choice, digest, bench, run.out / EVALUATION), audio=audio)
            outcome: TaskResult | Failure | None = None
            with contextlib.suppress(ValueError):  # the record may be of another student, from before --fresh
                outcome = _measured_before(pair)
            if outcome is None:
                outcome = measure(pair, with_durations(label, choice, present(recordings), store, run.say), bench)
            if isinstance(outcome, Failure):
                failed[label] = outcome.reason
                run.say(outcome.line())
            else:
                measures[label] = outcome.record["measures"]
        return {"measures": measures, **({"failed": failed} if failed else {})}


def _measured_before(pair: Pair) -> TaskResult | None:
    """The record of the pair, if the stage was interrupted after it was measured."""
    return earlier(pair, records_of([pair]), lambda: pair.audio)


def _named(label: str, fields: Any) -> Any:
    """A task with its name, which is the label by default."""
    fields = {} if fields is None else fields
    if not isinstance(fields, Mapping):
        return fields
    task = fields.get("task", label)
    if isinstance(task, Mapping) and "name" not in task:
        task = {"name": label, **task}
    return {**fields, "task": task}
