"""A run in its folder: files, finished stages, and the teachers, data and devices that stages share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from sottovoce.core.config import plain
from sottovoce.core.ledger import write_atomically
from sottovoce.data import Data, Stream, open_data, workers
from sottovoce.data.files import is_text, printable
from sottovoce.encoder import kernels
from sottovoce.hub.folder import refuse_name
from sottovoce.train import track
from sottovoce.train.checkpoint import Checkpoints
from sottovoce.train.dist import World
from sottovoce.train.recipe import Recipe, build_recipe, present_form
from sottovoce.train.targets import open_teachers

MARK = ".sottovoce"  # marks a folder as a run of ours
CLEARING = ".clearing"  # marks a folder in which --fresh was interrupted
RECIPE, RESULT, SKIPPED = "recipe.yaml", "result.json", "skipped.jsonl"
PROCESSES = "processes"  # in RECIPE: with how many the run began
JOURNAL = "journal"  # in the JSON of a stage: its rows
DIGEST = "sha256"  # in the JSON of a stage: of the rest of it


class Stopped(Exception):
    """The run was stopped by a signal and has saved its state."""

    exit_status = 143


class Run:
    """A run, opened once per command. ``run/`` in `out` holds the recipe, metrics, checkpoints and a JSON for each finished stage."""

    def __init__(
        self, out: Path, recipe: Recipe, data: str, world: World, check: Callable[[Run], None] = lambda run: None
    ) -> None:
        """check: raises ValueError for a new run that must not start. Called with teachers and data open, before anything is written."""
        self.out, self.folder, self.recipe, self.spec, self.world = out, out / "run", recipe, data, world
        self.checkpoints = Checkpoints(self.folder)
        self._check = check
        self.processes = world.size  # with which the run began
        self.stop, self._asked = False, 0.0

    @contextlib.contextmanager
    def open(self, fresh: bool = False) -> Iterator[Run]:
        """Locks the folder and loads teachers and data. ValueError if another process uses the folder, or if it holds another run."""
        claim(self.out)
        lock = FileLock(self.folder / f"lock{self.world.rank or ''}")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another run is working in {self.out}; wait for it, or choose another --out") from None
        handlers: dict[signal.Signals, Any] = {}
        try:
            if threading.current_thread() is threading.main_thread():
                asking = (getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGHUP"))
                kinds = [
                    kind for kind in asking if kind is not None and signal.getsignal(kind) is not signal.SIG_IGN
                ]  # as under nohup
                handlers = {kind: signal.signal(kind, self._on_signal) for kind in kinds}
            if self.world.main:
                for left in self.folder.glob("*.part"):  # left by a killed write
                    left.unlink(missing_ok=True)
            if self.world.main and (self.folder / CLEARING).exists():
                self._clear()  # the clearing was killed; what is left belongs to no run
            self.world.wait()
            if not fresh:
                self.check_same()
            if not fresh and self.result() is not None:  # nothing left to do: needs neither teachers nor data
                yield self
                return
            self.teachers = open_teachers(self.recipe, self.world, self.say)
            self.data = self._load_data()
            if fresh or not self.begun:
                self._check(self)
            if fresh and self.world.main:  # not earlier: an error in the new command must not delete the old run
                self._clear()
            self.world.wait()
            self._remember()
            # a resumed run computes as before, to the last bit
            kernels.keep_in(self.folder / f"kernels{self.world.rank or ''}.jsonl")
            self.world.wait()
            self.journal = track.Journal(self.folder, self.world.main)
            yield self
        finally:
            for kind, handler in handlers.items():
                signal.signal(kind, handler)
            if hasattr(self, "journal"):
                self.journal.close()
            kernels.keep_in(None)
            lock.release()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.stop and now - self._asked > 1:  # a second signal, not the same one sent to us and to our group
            workers.end_soon()
            raise KeyboardInterrupt
        if not self.stop:
            self._asked = now
            with contextlib.suppress(OSError):  # the terminal may be gone
                self.say("stopping after this update; Ctrl-C or SIGTERM again to stop at once")
        self.stop = True

    def _clear(self) -> None:
        """Removes the files of earlier runs. A mark file is there meanwhile, so that a half-cleared folder is not taken for a run."""
        (self.folder / CLEARING).touch()
        for path in self.folder.iterdir():
            if path.name.startswith("lock") or path.name in (MARK, CLEARING, SKIPPED):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / CLEARING).unlink()

    def _settings(self) -> dict[str, Any]:
        settings = _readable({"data_source": self.spec, **plain(self.recipe)})
        assert isinstance(settings, dict)
        return settings

    @property
    def begun(self) -> bool:
        """Whether its folder holds a run."""
        return (self.folder / RECIPE).exists()

    def check_same(self) -> None:
        """ValueError if the folder holds a run with other settings."""
        path = self.folder / RECIPE
        if self.begun:
            mine, had = self._settings(), read_recipe(path)
            self.processes = int(had.pop(PROCESSES, self.world.size))
            source = {"data_source": had.pop("data_source", None)}
            try:  # an older version's settings, with the defaults of newer fields
                theirs = {**source, **plain(build_recipe(present_form(had)))}
            except (ValueError, TypeError):
                theirs = {**source, **had}
            changed = sorted(key for key, _ in differences(mine, theirs) if not key.startswith("data.workers"))
            if not changed and list(mine["stages"]) != list(theirs["stages"]):
                changed = ["the order of stages"]
            if changed:
                raise ValueError(
                    f"{self.out} holds a run with other settings ({', '.join(changed[:4])}); "
                    "repeat its command to resume it, use --fresh to start over, or choose another --out"
                )

    def _remember(self) -> None:
        """Writes the resolved recipe."""
        if self.world.main and not self.begun:
            settings = {PROCESSES: self.processes, **self._settings()}
            write_atomically(self.folder / RECIPE, yaml.safe_dump(settings, sort_keys=False))
        if self.processes != self.world.size:
            self.say(
                f"the run began with {self.processes} processes and goes on with {self.world.size}: the same batches in the "
                "same order, but sums are rounded differently and random draws are others, so the student is not equal to the last bit"
            )

    def _load_data(self) -> Data:
        data = open_data(
            self.spec,
            self.recipe.data,
            self.recipe.seed,
            rank=self.world.rank,
            world=self.world.size,
            multiple=self.processes,
            skipped_file=self.folder / SKIPPED if self.world.main else None,
            progress=track.occasionally(lambda done, total: self.say(f"reading the data: {done:,} of {total:,} recordings")),
        )
        self.say(data.summary())
        return data

    # what stages use ------------------------------------------------------------------------------------------------------------

    def stream(self, stage: str) -> Stream:
        """The stage's own pass over the training data, from the start."""
        self.data.train.load({"epoch": 1000 * list(self.recipe.stages).index(stage), "batch": 0})
        return self.data.train

    def accumulate(self, batches: int) -> int:
        """Batches of each process in an update of which a process had `batches` when the run began: as many in all, or a few more where
        they do not come out even."""
        return -(-batches * self.processes // self.world.size)

    def updates_after(self, stage: str) -> int:
        """Updates of the stages after this one."""
        stages = self.recipe.build_stages()
        return sum(each.updates for each in stages[[each.label for each in stages].index(stage) + 1 :])

    def autocast(self) -> AbstractContextManager[Any]:
        kind = self.world.device.type
        want = self.recipe.precision
        if want == "bf16" or (want == "auto" and kind == "cuda"):
            return torch.autocast(kind, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def say(self, text: str) -> None:
        if self.world.main:
            track.say(text)

    def stopped(self, where: str) -> None:
        raise Stopped(f"stopped and saved {where}; run the same command again to resume")

    # finished stages ------------------------------------------------------------------------------------------------------------

    def done(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage wrote, or ``None``; also when that is damaged."""
        path = self.folder / f"{stage}.json"
        if not path.exists():
            return None
        report = _unsealed(path.read_bytes())
        if report is None:
            self.say(f"{path} is damaged and is not used: {stage} is done again")
            return None
        report.pop(JOURNAL, None)
        return report

    def check_journal(self) -> None:
        """Writes the rows of finished stages again where the journal has lost them."""
        self.journal.settle({label: self._rows(label) for label in self.recipe.stages})

    def resume_journal(self, stage: str, rows: list[str] | None, step: int) -> None:
        """Removes the rows of later stages, and those of this one that its training will write again. rows: those that it goes on from,
        where the checkpoint of update `step` has them."""
        labels = list(self.recipe.stages)
        before = labels[: labels.index(stage)]
        rows = self.journal.until(stage, step) if rows is None else rows
        self.journal.settle({**{label: self._rows(label) for label in before}, stage: rows})

    def _rows(self, stage: str) -> list[str] | None:
        """The journal's rows of a finished stage; ``None`` if it is not finished, or of an earlier version."""
        path = self.folder / f"{stage}.json"
        report = _unsealed(path.read_bytes()) if path.exists() else None
        return None if report is None else report.get(JOURNAL)

    def forget(self, stages: Iterable[str]) -> None:
        """Removes what these stages wrote when they were finished: they are done again. Called by every process at the same time."""
        self.world.wait()
        for stage in stages if self.world.main else ():
            (self.folder / f"{stage}.json").unlink(missing_ok=True)
        self.world.wait()

    def result(self) -> dict[str, Any] | None:
        """The record of the finished run, or ``None``; also when it cannot be read, and is then written again."""
        try:
            found = json.loads((self.folder / RESULT).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def saved(self, stage: str) -> dict[str, Any] | None:
        """The newest intact checkpoint of this stage; ``None`` if there is none."""
        return self.checkpoints.load(stage, self.say)

    def finish(self, stage: str, report: dict[str, Any]) -> None:
        if self.world.main:
            write_atomically(self.folder / f"{stage}.json", _sealed({**report, JOURNAL: self.journal.rows.get(stage, [])}))
            self.checkpoints.clear()
        self.world.wait()


def check_folder(out: Path) -> None:
    """ValueError if the folder holds anything else than a run, which is never overwritten, or cannot be written to."""
    refuse_name(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder to --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "run" / MARK).is_file():
        raise ValueError(f"{out} is not empty and holds no run of sottovoce; choose another --out")
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise ValueError(f"cannot write to the folder {out}: Permission denied")


def claim(out: Path) -> None:
    """Makes the folder and marks it as a run. ValueError as `check_folder` has it."""
    check_folder(out)
    try:
        (out / "run").mkdir(parents=True, exist_ok=True)
        (out / "run" / MARK).touch()
    except OSError as problem:
        raise ValueError(f"cannot write to the folder {out}: {problem.strerror}") from None


def _sealed(report: Mapping[str, Any]) -> str:
    """JSON with its own SHA-256."""
    text = json.dumps(report, indent=1)
    return json.dumps({**report, DIGEST: hashlib.sha256(text.encode()).hexdigest()}, indent=1)


def _unsealed(text: bytes) -> dict[str, Any] | None:
    """The report in `text`; ``None`` when it is damaged. Earlier versions wrote no digest."""
    try:
        report = json.loads(text)
    except ValueError:
        return None
    if not isinstance(report, dict):
        return None
    digest = report.pop(DIGEST, None)
    return report if digest is None or json.loads(_sealed(report))[DIGEST] == digest else None


def read_recipe(path: Path) -> dict[str, Any]:
    """ValueError when it cannot be read."""
    try:
        had = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        had = None
    if not isinstance(had, dict):
        raise ValueError(f"{path} is damaged; put it back, use --fresh to start over, or choose another --out")
    return had


def _readable(value: Any) -> Any:
    """The same nested data, with file names that are not valid text (see `data.files`) escaped for YAML."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return printable(value) if isinstance(value, str) and not is_text(value) else value


def differences(mine: Any, theirs: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys whose values differ between two nested mappings."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {**mine, **theirs}:
            yield from differences(mine.get(key), theirs.get(key), f"{where}.{key}" if where else str(key))
    elif mine != theirs:
        yield where, mine
