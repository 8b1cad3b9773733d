"""`sottovoce demo`: compresses the built-in teacher, prints what it cost, and finds spoken phrases; offline, in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sottovoce.core import ledger
from sottovoce.core.registry import TASKS
from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder, normalize
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.timing.latency import latency
from sottovoce.train import api, phrase_search
from sottovoce.train.track import duration, say
from sottovoce.train.work import Work, cost_of


def main(out: Path, steps: int | None = None, fresh: bool = False, table: bool = True) -> dict[str, dict[str, Any]]:
    """Compresses ``demo`` to 25 % of its MACs by both steps of DPHuBERT on synthesised speech, prints the table, and lets the student
    find phrases. table: whether to print. Returns the rows of the table."""
    began = time.monotonic()
    say("Compressing the built-in teacher 'demo' to a quarter of its compute, on speech synthesised here. No network is used.")
    result = api.compress("demo", recipe="dphubert-demo", data="demo", out=out, steps=steps, fresh=fresh)
    models, wants_norm = models_of(out)
    rows = compare(models, wants_norm)
    found = phrase_search.search(models, wants_norm)
    facts = {"seconds": round(time.monotonic() - began, 1), "models": rows, "search": phrase_search.record(found)}
    ledger.write(out / "run" / "demo.json", {**ledger.header("demo"), **facts})
    api.draw_report(out)  # again, now that there are latencies
    if table:
        show(rows)
        phrase_search.show(found)
    say(result.why)
    result.check()
    say(f"The student is in {out} ({duration(time.monotonic() - began)} in all), its page in {out / 'report.html'}.")
    say(f"Try:  sottovoce inspect {out}")
    return rows


def models_of(out: Path) -> tuple[dict[str, Encoder], bool]:
    """The teacher, the student, the student right after the cut, and an untrained one of that shape; and whether they read normalised
    waveforms."""
    teacher = load_pretrained("demo")
    student, after_cut = load_pretrained(out.resolve()).encoder, Work.load(out / "run" / "cut.safetensors")
    if after_cut is None:
        raise ValueError(f"{out / 'run' / 'cut.safetensors'} is missing or damaged; give --fresh to start over")
    assert isinstance(student, Encoder)
    assert isinstance(teacher.encoder, Encoder)
    torch.manual_seed(0)
    untrained = Encoder(student.config).reset_parameters().eval()
    models = {
        "teacher": teacher.encoder,
        "student": student,
        "before last stage": after_cut.encoder.eval(),
        "untrained": untrained,
    }
    return models, teacher.normalize


def compare(models: dict[str, Encoder], wants_norm: bool) -> dict[str, dict[str, Any]]:
    """Cost, speed and fidelity to the teacher of each model."""
    batches = held_out(wants_norm)
    task = TASKS.get("fidelity")
    rows = {}
    for name, model in models.items():
        fidelity = task(task.Config()).run(model, models["teacher"], batches)
        disk = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        rows[name] = {**cost_of(model), "megabytes": disk / 1e6, "latency_10s": latency(model), "fidelity": fidelity}
    return rows


def held_out(wants_norm: bool) -> list[Batch]:
    """Demo speech by voices that are not in the training data."""
    from sottovoce.data import DataConfig, open_data

    data = open_data(
        "demo",
        DataConfig(seconds_per_batch=40, min_seconds=0.6, max_seconds=6.0, valid_share=0.5, where={"split": "test"}),
        seed=0,
    )
    batches = list(data.valid)
    return [Batch(normalize(b.wave, b.lengths), b.lengths, b.ids) for b in batches] if wants_norm else batches


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Prints two tables: cost, and fidelity layer by layer."""
    console = Console()
    table = Table(title="cost, and likeness to the teacher", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("params", "MMAC/s", "MB", "ms/10 s", "cosine", "explained"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in rows.items():
        mean = row["fidelity"]["mean"]
        numbers = (
            f"{row['params']:,.0f}",
            f"{row['macs_per_s'] / 1e6:,.0f}",
            f"{row['megabytes']:.1f}",
            f"{1000 * row['latency_10s']:.0f}",
        )
        table.add_row(name, *numbers, f"{mean['cosine']:.3f}", f"{mean['explained']:.1%}")
    console.print(table)
    students = [name for name in rows if name != "teacher"]
    layers = Table(title="cosine to the teacher, layer by layer", title_justify="left")
    for name in ("layer", *students):
        layers.add_column(name, justify="right", no_wrap=True)
    for i, row in enumerate(rows["teacher"]["fidelity"]["layers"]):
        layers.add_row(str(row["layer"]), *(f"{rows[name]['fidelity']['layers'][i]['cosine']:.2f}" for name in students))
    console.print(layers)
    console.print(
        "Measured on voices that are not in the training data. cosine: mean over frames and layers; explained: share of the teacher's "
        "variance after the best linear map, fitted on other batches. MMAC/s: million multiply-accumulates per second of audio.",
        highlight=False,
    )
