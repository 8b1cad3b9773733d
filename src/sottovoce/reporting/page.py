"""`sottovoce report`: one HTML file with everything in it, drawn from run folders and the ledger. See docs/report.md."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from sottovoce.core import ledger
from sottovoce.core.extras import optional
from sottovoce.reporting import bars, curves, pareto, probes, speed, style, table, text
from sottovoce.reporting import board as boards
from sottovoce.reporting.board import Board, Row, TaskColumn
from sottovoce.reporting.collect import Gathered, ReportedRun, gather, is_run, question
from sottovoce.reporting.composition import picture
from sottovoce.reporting.figure import Chart, all_of

library = functools.partial(optional, extra="report", purpose="the report")

NAME = "report.html"
DEFAULT = Path("results")


def report(paths: Sequence[str | Path] = (), out: str | Path | None = None) -> Path:
    """Draws runs and results as one HTML page, or as a leaderboard in text if `out` ends in ``.md`` or ``.csv``. Returns the file.

    paths: folders of runs, folders that hold them, folders or files of results; ``results/`` by default. out: the file; by default
    ``report.html`` in the run's folder if there is just one run, else in the current folder. ValueError if there are no runs or
    results, or, for text, no evaluations.
    """
    wanted, out = [Path(path) for path in paths] or [DEFAULT], None if out is None else Path(out)
    if not paths and not DEFAULT.exists():
        raise ValueError("there is no results/ here; say what to report on: sottovoce report RUN_OR_RESULTS...")
    found = gather(wanted)
    as_text = table.FORMATS.get(out.suffix.lower()) if out else None
    if as_text and not found.evaluations:
        raise ValueError(
            f"no evaluations in {' '.join(map(str, wanted))}: there is no leaderboard to write; run: sottovoce evaluate MODEL"
        )
    made = as_text(boards.build(found.evaluations)) if as_text else render(found)
    if out is None:
        out = wanted[0] / NAME if len(wanted) == 1 and is_run(wanted[0]) else Path(NAME)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give --out a file, e.g. {out / NAME}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        ledger.write_atomically(out, made)
    except OSError as problem:
        raise ValueError(f"cannot write {out}: {problem.strerror}; choose another --out") from None
    return out


def render(found: Gathered) -> str:
    """The page as text. ValueError when an optional library is missing."""
    template = _template()
    plotly: str = library("plotly.offline").get_plotlyjs()
    folder = resources.files("sottovoce.reporting")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    view = View(found)
    return template.render(
        view=view,
        style=style,
        plotly=plotly,
        script=script,
        figures={chart.id: {**_figure(chart), "height": chart.height} for chart in view.every_chart() if chart.figure},
        # only these two scripts may run: what a file of the ledger holds is shown and can do nothing
        policy=f"script-src {_digest(plotly)} {_digest(script)}",
    )


@functools.cache
def _template() -> Any:
    jinja = library("jinja2")
    made = jinja.Environment(
        loader=jinja.PackageLoader("sottovoce.reporting", ""),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(text=text, arrow=style.ARROW, interval=style.interval)
    return made.get_template("page.html.j2")


def _plain(value: Any) -> str:
    """A value of a record without braces: '1: 93.2, 2: 171.0'."""
    return ", ".join(f"{key}: {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _figure(chart: Chart) -> dict[str, Any]:
    return {"choices": chart.choices} if chart.choices else {"figure": chart.figure}


@dataclass(frozen=True)
class Tile:
    """A number at the top of a run."""

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class RunView:
    """What the page says of one run."""

    run: ReportedRun
    index: int
    board: Board
    student: Row | None

    @property
    def charts(self) -> list[Chart]:
        return all_of([self.fidelity, *self.curves])

    @property
    def fidelity(self) -> Chart | None:
        return curves.fidelity(self.run, self.index)

    @property
    def curves(self) -> list[Chart]:
        return curves.curves(self.run, self.index)

    @property
    def kept(self) -> Any:
        return picture(self.run)

    @property
    def finished(self) -> bool:
        return self.run.finished

    @property
    def overview(self) -> dict[str, Any]:
        """One row of the table of runs; empty while the run is not finished."""
        record = self.run.record
        if not record:
            return {}
        budget, mean = record.get("budget"), (record.get("fidelity") or {}).get("mean") or {}
        return {
            "recipe": (record.get("recipe") or {}).get("name", ""),
            "params": record["cost"]["params"],
            "macs": record["cost"]["macs_per_s"],
            "budget": "" if not budget else "met" if budget.get("met") else "missed",
            "explained": mean.get("explained"),
            "seconds": record.get("seconds"),
        }

    @property
    def tiles(self) -> list[Tile]:
        record = self.run.record
        if not record:
            return []
        cost, teacher, budget = record["cost"], record.get("teacher") or {}, record.get("budget")
        tiles = []
        for title, key, unit in (("Parameters", "params", ""), ("Compute", "macs_per_s", "MAC/s")):
            theirs = teacher.get(key)
            note = f"{text.percent(cost[key] / theirs)} of the teacher's {text.amount(theirs, unit)}" if theirs else ""
            tiles.append(Tile(title, text.amount(cost[key], unit), note))
        if budget:
            asked = f"{text.percent(budget['target'], 2)} of {_unit(budget.get('unit'))} asked, {text.percent(budget['after'], 2)} kept"
            tiles.append(Tile("Budget", "met" if budget.get("met") else "missed", asked))
        latency = {name: row.get("latency_10s") for name, row in self.run.models.items()}
        if isinstance(latency.get("student"), int | float):
            theirs = latency.get("teacher")
            note = (
                f"for 10 s of audio; the teacher {1000 * theirs:.0f}{text.SPACE}ms"
                if isinstance(theirs, int | float)
                else "for 10 s"
            )
            tiles.append(Tile("Latency", f"{1000 * latency['student']:.0f}{text.SPACE}ms", note))
        if record.get("fidelity"):
            mean = record["fidelity"]["mean"]
            mapped = f"{text.number(mean['mapped'], 3)} after the best linear map"
            if curves.comparable(self.run):
                tiles.append(Tile("Cosine to the teacher", text.number(mean["cosine"], 3), mapped))
            else:
                tiles.append(Tile("Cosine to the teacher", "not comparable", f"its layers have another width; {mapped}"))
        tiles.append(Tile("Time", text.duration(record.get("seconds")), f"on {text.hours(record['data'].get('hours'))} of audio"))
        return tiles

    @property
    def recipe(self) -> str:
        recipe = self.run.record.get("recipe")
        return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else self.run.recipe

    @property
    def facts(self) -> list[tuple[str, str]]:
        record = self.run.record
        if not record:
            return []
        data = record["data"]
        teachers = record.get("teachers") or {"teacher": record.get("teacher") or {}}  # records of earlier versions name one
        named = [f"{each['name']} ({each.get('family') or each.get('kind')})" for each in teachers.values() if each.get("name")]
        machine = record.get("machine") if isinstance(record.get("machine"), dict) else {}
        where = ", ".join(f"{key}={value}" for key, value in (data.get("where") or {}).items())
        found = {
            "Teacher" if len(named) < 2 else "Teachers": ", ".join(named) or "none",
            "Data": f"{data.get('source')}{f' ({where})' if where else ''}, {text.hours(data.get('hours'))}",
            "Skipped recordings": str(data.get("skipped", 0)),
            "Held-out audio": text.duration(record.get("held_out_seconds")),
            "Seed": str(record.get("seed")),
            "Date": record.get("date") or text.NONE,
            "sottovoce": f"{record.get('sottovoce') or text.NONE}, commit {record.get('commit') or text.NONE}",
            "Machine": ", ".join(f"{key} {_plain(value)}" for key, value in (machine or {}).items()),
        }
        return list(found.items())

    @property
    def beside(self) -> list[dict[str, Any]]:
        """The run's student on every task, beside the teacher and the best control."""
        if self.student is None:
            return []
        made = []
        for task in self.board.tasks:
            cell = self.student.cells.get(task.key)
            if cell is None:
                continue
            others = [row for row in self.board.rows if task.key in row.cells]
            teacher = next((row.cells[task.key] for row in others if row.role == "teacher"), None)
            controls = sorted(
                (row for row in others if row.role == "control"), key=lambda row: -task.sign * row.cells[task.key].value
            )
            made.append(
                {
                    "task": task,
                    "places": style.places(self.board, task),
                    "cell": cell,
                    "teacher": teacher,
                    "gap": None if teacher is None else cell.value - teacher.value,
                    "control": controls[0].cells[task.key] if controls else None,
                    "control_name": controls[0].name if controls else "",
                }
            )
        return made


def _unit(unit: Any) -> str:
    return {"params": "the parameters", "macs": "the MACs", "latency": "the predicted latency"}.get(str(unit), str(unit))


class View:
    """Everything the template shows, in its order."""

    def __init__(self, found: Gathered) -> None:
        self.found = found
        self.board = boards.build(found.evaluations)
        shown = [run for run in found.runs if run.began] or found.runs
        shown.sort(key=lambda run: not run.finished)  # keeps the order of names within both
        self.runs = [RunView(run, i, self.board, self._student(run)) for i, run in enumerate(shown)]
        self.failed = [run for run in found.runs if run not in shown]
        self.colours = style.colours(self.board)
        self.pareto = pareto.pareto(self.board)
        self.bars = [bars.bars(self.board, task) for task in self.board.tasks]
        self.trials = all_of(probes.trials(self.board, task) for task in self.board.tasks)
        top = max(
            (
                max(each)
                for row in self.board.rows
                for task in self.board.tasks
                if len(each := probes.layer_weights(row, task)) > 1
            ),
            default=0.0,
        )
        self.heats = all_of(probes.heat(self.board, row, i, top or 1.0) for i, row in enumerate(self.board.rows))
        self.speed = speed.charts(found.benches)
        self.published = json.loads((resources.files("sottovoce.reporting") / "published.json").read_text(encoding="utf-8"))
        self.made = datetime.datetime.now(datetime.UTC).date().isoformat()
        self.version = ledger.version("sottovoce")

    @property
    def single(self) -> RunView | None:
        """The run, when the page shows no other."""
        return self.runs[0] if len(self.runs) == 1 and not self.failed else None

    @property
    def title(self) -> str:
        if self.single is not None:
            return self.single.run.name
        students = [row for row in self.board.rows if row.role == "student"]
        evaluated = {key for row in self.board.rows for key in row.runs}
        count = len(students) + sum(run.finished and run.run.key not in evaluated for run in self.runs)
        if not self.board.rows:
            return _many(len(self.runs), "run") if self.runs else "Measurements"
        return f"{_many(count, 'student')} compared" if count else "Models compared"

    @property
    def summary(self) -> str:
        """One line under the title."""
        measured = len(self.found.evaluations)
        parts = []
        if self.single is None and self.runs:
            counts = [
                (sum(run.finished for run in self.runs), "finished run"),
                (sum(not run.finished for run in self.runs), "unfinished run"),
                (len(self.failed), "failed start"),
            ]
            parts.append(", ".join(_many(count, what) for count, what in counts if count))
        if measured:
            rows, models = len(self.board.rows), sum(row.n for row in self.board.rows)
            tasks = len({task.question[0] for task in self.board.tasks})
            seeds = f" ({models} with their seeds)" if models > rows else ""
            parts.append(f"{_many(rows, 'model')}{seeds} on {_many(tasks, 'task')}, {_many(measured, 'evaluation')}")
        run = self.single.run.record if self.single is not None else {}
        if run:
            teacher = (run.get("teacher") or {}).get("name")
            parts.insert(0, f"student of {teacher}" if teacher else "trained without a teacher")
        return "; ".join(part for part in parts if part)

    @property
    def tabs(self) -> list[tuple[str, str]]:
        """(id, title) of those that have something to show."""
        several = len(self.board.rows) > 1
        one, many = ("run", "Run") if self.single else None, ("runs", "Runs") if self.runs and not self.single else None
        compare = ("compare", "Compare") if several else None
        made = [one, compare, many, ("tasks", "Tasks") if self.bars else None]
        made += [("layers", "Layers") if self.heats else None, ("rates", "Learning rates") if self.trials else None]
        made += [("speed", "Speed") if self.speed else None]
        made += [("published", "Published"), ("files", "Files")]
        return [tab for tab in made if tab is not None]

    def every_chart(self) -> list[Chart]:
        found = [chart for run in self.runs for chart in run.charts]
        found += all_of([self.pareto if ("compare", "Compare") in self.tabs else None])
        return [*found, *self.bars, *self.heats, *self.trials, *self.speed]

    def views(self) -> list[tuple[str, str]]:
        """What the Pareto plot can show upwards, by key."""
        return pareto.views(self.board)

    def costs(self) -> list[tuple[str, str]]:
        chosen = {key.split()[0] for key in (self.pareto.choices if self.pareto else {})}
        return [(key, title) for key, (title, _, _) in boards.COSTS.items() if key in chosen]

    def places(self, task: TaskColumn) -> int:
        return style.places(self.board, task)

    def common(self) -> str:
        """The tasks that the means are taken over."""
        return ", ".join(task.label for task in self.board.tasks if task.key in self.board.common)

    def corpora(self) -> list[dict[str, Any]]:
        """The data of each task, once."""
        made = []
        for task in self.board.tasks:
            record = next(one.record for one in self.found.evaluations if question(one.record) == task.question)
            data = record["data"]
            made.append(
                {
                    "task": task,
                    "source": ", ".join(map(str, data.get("source") or ())),
                    "splits": [(name, _split(split)) for name, split in data["splits"].items()],
                    "classes": data.get("classes"),
                    "skipped": data.get("skipped"),
                    "fingerprint": data["fingerprint"],
                    "config": json.dumps(record["task"]["config"], ensure_ascii=False),
                }
            )
        return made

    def measurements(self) -> list[dict[str, Any]]:
        """Every evaluation, one line each."""
        labels = {task.question: task.label for task in self.board.tasks}
        made = []
        for one in self.found.evaluations:
            record = one.record
            cost = record["cost"].get("seconds")
            made.append(
                {
                    "task": labels[question(record)],
                    "model": record["model"]["name"],
                    "seeds": ", ".join(map(str, record.get("seeds") or ())),
                    "date": record["date"],
                    "commit": record.get("commit") or "",
                    "seconds": cost if isinstance(cost, int | float) else None,
                    "file": one.file,
                }
            )
        return sorted(made, key=lambda row: (row["task"], row["model"]))

    def _student(self, run: ReportedRun) -> Row | None:
        """The row of the run's student; that of its seed, where there are several."""
        for row in self.board.rows:
            for each in row.members or (row,):
                if each.role == "student" and run.key in each.runs:
                    return each
        return None


def _split(split: Mapping[str, Any]) -> str:
    """'2882 recordings, 0.81 h, 18 speakers'."""
    parts = [f"{split.get('recordings', 0):,} recordings", text.hours(split.get("hours"))]
    if split.get("speakers"):
        parts.append(f"{split['speakers']} speakers")
    return ", ".join(parts)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
