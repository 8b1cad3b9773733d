"""Injects faults into tiny runs of every verb and counts what they survive.

    python -m experiments.reliability.run --work DIR kill --minutes 10      # also: damage, disk, memory, clock, processes, torchrun
    python -m experiments.reliability.run --work DIR records                # adds the counts to records.jsonl

Trials are kept in DIR/trials.jsonl, so each command goes on where the one before stopped. A trial survives when the command, repeated after
the fault, ends with what an undisturbed one leaves (weights, losses, measures, pages), or when a fault that cannot be worked around is
named in one plain line. The commands run in forks of this process, which has imported everything once: a kill ends such a fork.

`disk` mounts a small tmpfs and needs root.
"""

from __future__ import annotations

import argparse
import atexit
import collections
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from sottovoce import cli
from sottovoce.core import ledger
from sottovoce.hub.pretrained import save_pretrained
from sottovoce.students.random import Random

FAST = [
    "data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=1", "precision=fp32", "save_minutes=0",
    "log_every=1",
]  # fmt: skip
STEPS = [
    "stages.prune.steps=12", "stages.prune.warmup=2", "pruning.ramp=6", "stages.distill.steps=12", "stages.distill.warmup=1",
]  # fmt: skip
SHAPE = {"dim": 32, "depth": 2, "heads": 4, "ffn_dim": 64, "conv_dims": (16,) * 7, "position_groups": 4, "position_kernel": 16}
STATES = ["prune.json", "cut.json", "distill.json", "evaluate.json", "first.json", "result.json"]  # of a run, in this order
MIB = 2**20


@dataclass
class Lab:
    """Teacher, speech, a finished student and the trials so far, in the folder `work`."""

    work: Path
    draw: random.Random = field(default_factory=lambda: random.Random())

    @property
    def teacher(self) -> Path:
        return self.work / "teacher"

    @property
    def speech(self) -> Path:
        return self.work / "speech"

    @property
    def labels(self) -> Path:
        return self.work / "labels.tsv"

    def prepare(self) -> None:
        """A tiny teacher of random weights, tones of three pitches, a student."""
        os.environ["SOTTOVOCE_CACHE"] = str(self.work / "cache")
        torch.set_num_threads(1)
        if not self.teacher.exists():
            torch.manual_seed(0)
            save_pretrained(self.teacher, Random(Random.Config(**SHAPE)).build(None), "hubert", normalize=False)  # type: ignore[arg-type]
        if not self.labels.exists():
            noise, rows = np.random.default_rng(0), ["path\tlabel\tsplit"]
            self.speech.mkdir(exist_ok=True)
            for i in range(24):
                t = np.arange(int(noise.uniform(1, 2) * 16_000)) / 16_000
                wave = 0.2 * np.sin(2 * np.pi * (200, 500, 1200)[i % 3] * t) + 0.02 * noise.standard_normal(len(t))
                soundfile.write(self.speech / f"{i}.wav", wave.astype(np.float32), 16_000)
                rows.append(f"{self.speech / f'{i}.wav'}\tw{i % 3}\t{('train', 'train', 'dev', 'test')[i // 3 % 4]}")
            self.labels.write_text("\n".join(rows) + "\n")

    def add(self, fault: str, verb: str, ok: bool, **more: Any) -> None:
        print(fault, verb, "survived" if ok else "FAILED", more, flush=True)
        ledger.append(self.work / "trials.jsonl", [json.dumps({"fault": fault, "verb": verb, "ok": ok, **more})])

    def trials(self, fault: str) -> list[dict[str, Any]]:
        return [trial for trial in ledger.read_all(self.work / "trials.jsonl") if trial["fault"] == fault]


# the verbs -------------------------------------------------------------------------------------------------------------------------


def compress(lab: Lab, out: Path) -> list[str]:
    data = ["--data", str(lab.speech), "--out", str(out), "--device", "cpu", "--schedule", "recipe"]
    return ["compress", str(lab.teacher), *data, "--keep", "0.5", *FAST, *STEPS, "data.valid_share=0.2"]


def pretrain(lab: Lab, out: Path) -> list[str]:
    shape = [f"student.{key}={list(value) if isinstance(value, tuple) else value}" for key, value in SHAPE.items()]
    first = ["stages.first.steps=16", "stages.first.warmup=2", "objectives.masked_prediction.fit_frames=500"]
    data = ["--data", str(lab.speech), "--out", str(out), "--device", "cpu", "--schedule", "recipe"]
    return ["pretrain", "--recipe", "pretrain-tiny", *data, *FAST, *shape, *first]


def evaluate(lab: Lab, out: Path) -> list[str]:
    student = str(lab.work / "undisturbed-compress")
    return ["evaluate", student, "--vs", str(lab.teacher), "--task", "ks", "--data", str(lab.labels), "--out", str(out),
            "--cache", str(out / "cache"), "--seed", "1"]  # fmt: skip


def compare(lab: Lab, out: Path) -> list[str]:
    student = str(lab.work / "undisturbed-compress")
    return ["compare", student, str(lab.teacher), "--task", "ks", "--data", str(lab.labels), "--out", str(out), "--seed", "1",
            "--cache", str(out / "cache")]  # fmt: skip


def export(lab: Lab, out: Path) -> list[str]:
    return ["export", str(lab.work / "undisturbed-compress"), "--out", str(out), "--data", str(lab.speech), "--seconds", "2"]


def report(lab: Lab, out: Path) -> list[str]:
    return ["report", str(lab.work / "undisturbed-compress"), "--out", str(out / "page.html")]


VERBS: dict[str, Callable[[Lab, Path], list[str]]] = {
    "compress": compress, "pretrain": pretrain, "evaluate": evaluate, "export": export, "compare": compare, "report": report,
}  # fmt: skip


def outcome(out: Path) -> dict[str, Any]:
    """All of what a command left that does not depend on the time."""
    found: dict[str, Any] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("model.*") if path.suffix != ".json"
    }
    for row in ledger.read_all(out / "run/metrics.jsonl"):
        found[f"{row['stage']} {row['step']} {'loss' in row}"] = {k: v for k, v in row.items() if k != "audio_per_s"}
    for record in ledger.read_all(out / ledger.RECORDS):
        about = record.get("model") or record.get("models")
        found[f"{record.get('kind')} {about}"] = record.get("measures") or _timeless(record.get("comparisons") or record)
    for page in out.glob("page.html"):
        found["page"] = hashlib.sha256(page.read_bytes()).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    drop = ("date", "commit", "machine", "seconds", "took")
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in drop}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


# running them ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A command in a fork of this process."""

    pid: int
    log: Path
    status: int | None = None

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self, seconds: float = 400.0) -> int | None:
        """Its status; ``None`` when it still runs after so long, and it is then killed."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if self.status is None:
            self.kill()
            return None
        return self.status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def plain(self) -> bool:
        """Whether it ended with a message of one line instead of a trace."""
        return "Traceback" not in self.said() and bool(re.search(r"^sottovoce: .+$", self.said(), re.MULTILINE))


def start(lab: Lab, command: Sequence[str], setup: Callable[[], None] = lambda: None, name: str = "log") -> Child:
    """setup: called first in the fork."""
    log = lab.work / f"{name}.txt"
    pid = os.fork()
    if pid:
        return Child(pid, log)
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.setpgrp()
        sys.argv = ["sottovoce", *command]
        setup()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # what nobody guarded against
            sys.excepthook(*sys.exc_info())
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def undisturbed(lab: Lab, verb: str) -> tuple[dict[str, Any], float]:
    """What the command leaves when nothing happens, and how long it takes."""
    out = lab.work / f"undisturbed-{verb}"
    took = lab.work / f"undisturbed-{verb}.seconds"
    if not took.exists():
        shutil.rmtree(out, ignore_errors=True)
        if verb in ("report", "evaluate"):
            out.mkdir()
        began = time.monotonic()
        child = start(lab, VERBS[verb](lab, out))
        assert child.wait() == 0, child.said()
        took.write_text(str(time.monotonic() - began))
    return outcome(out), float(took.read_text())


def fresh(lab: Lab, verb: str, under: Path | None = None) -> Path:
    out = (under or lab.work) / f"trial-{verb}"
    shutil.rmtree(out, ignore_errors=True)
    if verb in ("report", "evaluate"):
        out.mkdir()
    return out


def state(out: Path) -> str:
    """The last of the stages that a run has finished."""
    done = [name for name in STATES if (out / "run" / name).exists()]
    if not (out / "run").exists():
        return "started" if not out.exists() or not any(out.iterdir()) else "writing"
    return f"after {done[-1].removesuffix('.json')}" if done else "in the first stage"


# the faults ------------------------------------------------------------------------------------------------------------------------


def kill(lab: Lab, until: float, aim: int) -> None:
    """``kill -9`` at random moments, up to eight times in a run; every verb in turn. Often the moment is soon after a stage is done."""
    share = {"report": 0.13, "evaluate": 0.15, "compare": 0.13, "export": 0.13, "pretrain": 0.16, "compress": 0.3}
    while time.monotonic() < until:
        done = collections.Counter(trial["verb"] for trial in lab.trials("kill") for _ in range(len(trial["kills"])))
        verb = min(share, key=lambda name: done[name] / share[name])
        if done.total() >= aim:
            return
        whole, took = undisturbed(lab, verb)
        out, kills = fresh(lab, verb), list[str]()
        for _ in range(8):
            child = start(lab, VERBS[verb](lab, out))
            ahead = [
                name
                for name in STATES[:-1]
                if not (out / "run" / name).exists() and (name != "first.json") == (verb == "compress")
            ]
            wanted = lab.draw.choice(["", *ahead[:2]]) if verb in ("compress", "pretrain") else ""
            end = time.monotonic() + (3 * took if wanted else lab.draw.uniform(0, 0.8 * took))
            while time.monotonic() < end and child.poll() is None and not (wanted and (out / "run" / wanted).exists()):
                time.sleep(0.002)
            if wanted:
                time.sleep(lab.draw.uniform(0, 0.2 * took))
            if child.poll() is not None:
                break
            child.kill()
            kills.append(state(out))
        child = start(lab, VERBS[verb](lab, out))
        status = child.wait()
        same = outcome(out) == whole
        if kills:
            lab.add("kill", verb, status == 0 and same, kills=kills, said="" if status == 0 and same else child.said()[-600:])


def _damages() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    def flip(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x41]) + data[middle + 1 :]

    yield "flipped byte", flip
    yield "zeros", lambda data: bytes(len(data))
    yield "cut short", lambda data: data[: len(data) // 3]
    yield "empty", lambda data: b""


def stopped(lab: Lab) -> Path:
    """A run of `compress` that was killed in its second stage that trains, with two checkpoints."""
    out = lab.work / "stopped"
    if not out.exists():
        child = start(lab, compress(lab, out))
        while '"distill", "step": 5' not in _text(out / "run/metrics.jsonl") and child.poll() is None:
            time.sleep(0.002)
        child.kill()
    return out


def _equal(left: dict[str, Any], whole: dict[str, Any], name: str, noted: bool) -> bool:
    """Of a damaged journal the rows are lost, which is said; the weights are what they would have been."""
    journal = name == "metrics.jsonl" and noted
    return left == whole or (journal and all(left[key] == whole[key] for key in whole if key.startswith("model.")))


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def damage(lab: Lab, until: float, aim: int) -> None:
    """Every file of a killed run, damaged in every way, before it goes on."""
    whole, _ = undisturbed(lab, "compress")
    before = stopped(lab)
    names = sorted(path.name for path in (before / "run").iterdir() if path.is_file() and path.stat().st_size)
    tried = {(trial["file"], trial["how"]) for trial in lab.trials("damage")}
    for how, change in _damages():
        for name in names:
            if (name, how) in tried or name.startswith("lock") or time.monotonic() > until:
                continue
            out = fresh(lab, "compress")
            shutil.copytree(before, out)
            path = out / "run" / name
            path.write_bytes(change(path.read_bytes()))
            child = start(lab, compress(lab, out))
            status = child.wait()
            noted = bool(re.search("done again|not used|are left out", child.said()))
            same, refused = status == 0 and _equal(outcome(out), whole, name, noted), status == 2 and child.plain()
            end = "identical" if same else "refused in a line" if refused else f"status {status}"
            lab.add("damage", "compress", same or refused, file=name, how=how, end=end, named=noted,
                    said="" if same else child.said()[-400:])  # fmt: skip


def disk(lab: Lab, until: float, aim: int) -> None:
    """A disk with so many KiB left; afterwards there is space, and the command is repeated."""
    mount = lab.work / "disk"
    for verb in ("compress", "evaluate", "export", "report", "compare", "pretrain"):
        whole, _ = undisturbed(lab, verb)
        tried = {trial["kib"] for trial in lab.trials("disk") if trial["verb"] == verb}
        for left in (0, 8, 48, 160, 400, 800, 1200):
            if left in tried or time.monotonic() > until:
                continue
            mount.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(mount)], check=True)
            try:
                out = fresh(lab, verb, mount)
                _fill(mount, left)
                child = start(lab, VERBS[verb](lab, out))
                status, plain = child.wait(), child.plain()
                said = child.said()
                (mount / "filler").unlink()
                again = start(lab, VERBS[verb](lab, out))
                same = again.wait() == 0 and outcome(out) == whole
                ok = same and (status == 0 or (status in (1, 2) and plain))
                lab.add("disk", verb, ok, kib=left, status=status, identical_afterwards=same,
                        said=said.strip()[-300:] if status else "", then="" if same else again.said()[-300:])  # fmt: skip
            finally:
                subprocess.run(["umount", "-l", str(mount)], check=True)


def _fill(mount: Path, left: int) -> None:
    """Leaves about so many KiB."""
    free = os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize
    with (mount / "filler").open("wb") as file:
        file.write(bytes(max(0, free - left * 1024)))


def memory(lab: Lab, until: float, aim: int) -> None:
    """An address space that ends so many MiB above what the process has when the command begins."""
    for verb in ("compress", "evaluate", "export"):
        undisturbed(lab, verb)
        tried = {trial["mib"] for trial in lab.trials("memory") if trial["verb"] == verb}
        for mib in (4, 16, 40, 80, 150, 300):
            if mib in tried or time.monotonic() > until:
                continue

            def limit(mib: int = mib) -> None:
                now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (now + mib * MIB,) * 2)

            child = start(lab, VERBS[verb](lab, fresh(lab, verb)), limit)
            status = child.wait()
            lab.add("memory", verb, status == 0 or (status is not None and child.plain()), mib=mib, status=status,
                    said="" if status == 0 else child.said().strip()[-400:])  # fmt: skip


def clock(lab: Lab, until: float, aim: int) -> None:
    """A clock that jumps by a year at every 50th look, to and fro; and a steady clock that leaps ahead by hours, as after a suspension."""
    for verb in ("compress", "evaluate"):
        whole, _ = undisturbed(lab, verb)
        tried = {trial["jump"] for trial in lab.trials("clock") if trial["verb"] == verb}
        for jump in ("year to and fro", "back to 1970", "hours ahead"):
            if jump in tried or time.monotonic() > until:
                continue
            out = fresh(lab, verb)
            child = start(lab, VERBS[verb](lab, out), lambda jump=jump: _jump(jump))  # type: ignore[misc]
            status = child.wait()
            same = outcome(out) == whole
            lab.add("clock", verb, status == 0 and same, jump=jump, status=status, said="" if same else child.said()[-400:])


def _jump(how: str) -> None:
    """Replaces Python's clocks in this process."""
    wall, steady, looks = time.time, time.monotonic, 0

    def jumping() -> float:
        nonlocal looks
        looks += 1
        return wall() + (3.15e7 if looks // 50 % 2 else -3.15e7)

    def leaping() -> float:
        nonlocal looks
        looks += 1
        return steady() + looks // 50 * 7200.0

    if how == "hours ahead":
        time.monotonic = leaping
    else:
        time.time = jumping if how == "year to and fro" else lambda: 1.0


def processes(lab: Lab, until: float, aim: int) -> None:
    """One of two processes is killed; then two, one or three go on."""
    whole, took = pair(lab, lab.work / "undisturbed-pair")
    for then in (2, 1, 3, 2, 1, 2):
        if time.monotonic() > until or len(lab.trials("process lost")) >= 6:
            return
        out = fresh(lab, "compress")
        both = ranks(lab, out, 2)
        time.sleep(lab.draw.uniform(0.2, 0.8) * took)
        victim = lab.draw.randrange(2)
        if both[victim].poll() is not None:
            continue
        both[victim].kill()
        began, other = time.monotonic(), both[1 - victim]
        status = other.wait(60)
        seconds = time.monotonic() - began
        lab.add("process lost", "compress", status == 1 and seconds < 10 and other.plain(), rank=victim, status=status,
                seconds=round(seconds, 1), said=other.said().strip()[-300:])  # fmt: skip
        where = state(out)
        rest = ranks(lab, out, then)
        fine = all(child.wait() == 0 for child in rest)
        same = fine and outcome(out) == whole
        told = "began with 2 processes" in rest[0].said()
        lab.add("resumed", "compress", same if then == 2 else fine and told, processes=then, state=where, identical=same,
                said="" if fine else "".join(child.said()[-400:] for child in rest))  # fmt: skip


def ranks(lab: Lab, out: Path, count: int) -> list[Child]:
    """The processes of one run, as torchrun starts them."""
    port = free_port()
    if count == 1:
        return [start(lab, compress(lab, out))]

    def setup(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = str(port)

    return [start(lab, compress(lab, out), lambda rank=rank: setup(rank), f"rank{rank}") for rank in range(count)]  # type: ignore[misc]


def pair(lab: Lab, out: Path) -> tuple[dict[str, Any], float]:
    began, kept = time.monotonic(), lab.work / "pair.seconds"
    if not kept.exists():
        both = ranks(lab, out, 2)
        assert all(child.wait() == 0 for child in both), both[0].said() + both[1].said()
        kept.write_text(str(time.monotonic() - began))
    return outcome(out), float(kept.read_text())


def torchrun(lab: Lab, until: float, aim: int) -> None:
    """One of the two processes of a real torchrun is killed: how soon the command ends and names it. Then the command is repeated."""
    whole, took = launched(lab, lab.work / "undisturbed-torchrun")
    for _ in range(6):
        if time.monotonic() > until or len(lab.trials("torchrun")) >= 6:
            return
        out = fresh(lab, "compress")
        launcher, log = launch(lab, out)
        wait_for_updates(out, launcher, lab.draw.randrange(1, 10))
        time.sleep(lab.draw.uniform(0, 0.1) * took)
        pids = processes_of(launcher.pid)
        if launcher.poll() is not None or len(pids) != 2:
            launcher.kill()
            continue
        rank = lab.draw.randrange(2)
        os.kill(pids[rank], signal.SIGKILL)
        began = time.monotonic()
        named = ended = None
        while time.monotonic() - began < 60 and ended is None:
            if named is None and "lost its connection to another process" in log.read_text(errors="replace"):
                named = time.monotonic() - began
            if launcher.poll() is not None:
                ended = time.monotonic() - began
            time.sleep(0.02)
        launcher.kill()
        left = [pid for pid in pids if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)]
        said = log.read_text(errors="replace")
        theirs = f"traceback : Signal 9 (SIGKILL) received by PID {pids[rank]}" in said
        where = state(out)
        again, log = launch(lab, out)
        same = again.wait(400) == 0 and outcome(out) == whole
        in_time = (named is not None and named < 10) or (theirs and ended is not None and ended < 10)
        ok = ended is not None and in_time and not left and same
        lab.add("torchrun", "compress", ok, rank=rank, state=where, seconds=None if ended is None else round(ended, 1),
                named=None if named is None else round(named, 1), named_by_torchrun=theirs, left=len(left), identical_afterwards=same,
                said=said.strip()[-600:])  # fmt: skip


def launch(lab: Lab, out: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """`compress` by torchrun with two processes, and its log."""
    log = lab.work / "torchrun.txt"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, "-m", "sottovoce", *compress(lab, out)],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ), log


def launched(lab: Lab, out: Path) -> tuple[dict[str, Any], float]:
    began, kept = time.monotonic(), lab.work / "torchrun.seconds"
    if not kept.exists():
        shutil.rmtree(out, ignore_errors=True)
        process, log = launch(lab, out)
        assert process.wait(400) == 0, log.read_text(errors="replace")
        kept.write_text(str(time.monotonic() - began))
    return outcome(out), float(kept.read_text())


def wait_for_updates(out: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Until the journal has so many rows, or the process has ended."""
    while _text(out / "run/metrics.jsonl").count("\n") < count and process.poll() is None:
        time.sleep(0.01)


def processes_of(parent: int) -> list[int]:
    """The processes that torchrun has started, by their rank."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    found: dict[int, int] = {}
    for pid in map(int, text.split()):
        values = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(value.removeprefix(b"RANK=")): pid for value in values if value.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]


def _is_zombie(pid: int) -> bool:
    return ") Z " in _text(Path(f"/proc/{pid}/stat"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


FAULTS = {
    "kill": kill,
    "damage": damage,
    "disk": disk,
    "memory": memory,
    "clock": clock,
    "processes": processes,
    "torchrun": torchrun,
}


def records(lab: Lab) -> None:
    """Adds one record for each fault and verb: how often it was tried and survived."""
    counts: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for trial in ledger.read_all(lab.work / "trials.jsonl"):
        counts[f"{trial['fault']}-{trial['verb']}".replace(" ", "-")].append(trial)
    for name, trials in counts.items():
        weigh = [(len(trial.get("kills", "x")), trial["ok"]) for trial in trials]
        where = collections.Counter(kill for trial in trials for kill in trial.get("kills", ()))
        made = {
            "name": name,
            **ledger.header("reliability"),
            "tried": sum(count for count, _ in weigh),
            "survived": sum(count for count, ok in weigh if ok),
            "runs": len(trials),
            **{key: max(known) for key in ("seconds", "named") if (known := [t[key] for t in trials if t.get(key) is not None])},
            "shared_machine": True,
            **({"where": dict(where)} if where else {}),
            "failed": [{k: v for k, v in trial.items() if k not in ("said", "then")} for trial in trials if not trial["ok"]],
        }
        ledger.write(Path(__file__).parent / ledger.RECORDS, made)
        print(name, made["tried"], made["survived"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="+", choices=[*FAULTS, "records"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    lab = Lab(options.work.resolve())
    lab.prepare()
    for name in options.faults:
        if name == "records":
            records(lab)
        else:
            undisturbed(lab, "compress")
            FAULTS[name](lab, time.monotonic() + 60 * options.minutes, options.kills)


if __name__ == "__main__":
    main()
