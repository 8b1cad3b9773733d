"""Records of the ledger as `evaluate` writes them, made up: eight models (one of them three seeds) on eight tasks, for the page's tests."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from sottovoce.encoder import ConvConfig, EncoderConfig, FrontendConfig, LayerConfig, PositionConfig

TASKS: dict[str, tuple[str, str, str, str, str, float, float, float]] = {
    # entry: name, title, measure, unit, better, value of log-mel, of the teacher, half an interval
    "asr-english": ("asr", "Speech recognition", "wer", "%", "lower", 61.0, 24.1, 1.4),
    "asv": ("asv", "Speaker verification", "eer", "%", "lower", 21.5, 12.9, 0.9),
    "er": ("er", "Emotion recognition", "accuracy", "%", "higher", 44.0, 61.5, 2.2),
    "ks-arabic": ("ks", "Keyword spotting", "accuracy", "%", "higher", 52.0, 93.1, 1.3),
    "ks-english": ("ks", "Keyword spotting", "accuracy", "%", "higher", 49.0, 95.4, 1.0),
    "pr-english": ("pr", "Phone recognition", "per", "%", "lower", 48.0, 14.2, 0.8),
    "qbe": ("qbe", "Query by example", "mtwv", "", "higher", 0.011, 0.071, 0.006),
    "sid": ("sid", "Speaker identification", "accuracy", "%", "higher", 75.0, 77.4, 2.0),
}
MODELS: list[tuple[str, str, str, float, float, dict[str, Any] | None, float]] = [
    # name, role, fingerprint, params, macs per second, origin, how much of the way from log-mel to the teacher
    ("demo", "teacher", "a0", 5_331_200, 522.6e6, None, 1.0),
    *(
        (f"dphubert-macs-25-s{s}", "student", f"b{s}", 2_031_502 + 9000 * s, 130.6e6, ("dphubert-demo", "macs", 0.25, s), 0.80)
        for s in (1, 2, 3)
    ),  # type: ignore[list-item]
    ("dphubert-params-25-s1", "student", "c1", 1_332_800, 203.9e6, ("dphubert-demo", "params", 0.25, 1), 0.74),  # type: ignore[list-item]
    ("dphubert-macs-50-s1", "student", "d1", 3_180_000, 261.3e6, ("dphubert-demo", "macs", 0.5, 1), 0.91),  # type: ignore[list-item]
    ("colld-macs-25-s1", "student", "e1", 1_990_000, 130.7e6, ("colld-pruned-demo", "macs", 0.25, 1), 0.86),  # type: ignore[list-item]
    ("first-layers-3", "student", "f1", 1_760_000, 240.1e6, ("layer-to-layer-random", "macs", 0.46, 1), 0.62),  # type: ignore[list-item]
    ("log-mel", "control", "0f", 0, 1.9e6, None, 0.0),
    ("untrained:demo", "control", "0e", 5_331_200, 522.6e6, None, -0.35),
]


def header(kind: str) -> dict[str, Any]:
    machine = {
        "system": "Linux",
        "cpu": "AMD EPYC",
        "threads": 1,
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "transformers": "5.23.0",
    }
    return {"schema": 1, "kind": kind, "sottovoce": "0.1.0.dev0", "commit": "8f0f582", "date": "2026-11-21", "machine": machine}


def evaluation(entry: str = "ks-arabic", model: int = 0, name: str | None = None) -> dict[str, Any]:
    """One model on one task. model: its place in MODELS. name: instead of its own."""
    called, role, fingerprint, params, macs, origin, quality = MODELS[model]
    task, title, measure, unit, better, low, high, half = TASKS[entry]
    draw = random.Random(f"{called} {entry}")
    value = low + (high - low) * (quality + draw.gauss(0, 0.04 if role == "student" else 0.0))
    bend = draw.uniform(2, 9)
    shares = [math.exp(-((i - bend) ** 2) / draw.uniform(3, 12)) for i in range(1 if called == "log-mel" else 13)]
    trials = []
    for seed in (1, 2, 3):
        devs = {
            lr: value + (-1 if better == "higher" else 1) * abs(math.log10(lr) + 2.2) * half + draw.gauss(0, half / 3)
            for lr in (1e-4, 1e-3, 1e-2, 1e-1)
        }
        best = (max if better == "higher" else min)(devs, key=lambda lr: devs[lr])
        sign = 1 if better == "higher" else -1
        trials += [
            {
                "seed": seed,
                "lr": lr,
                "dev": sign * dev,
                "best_step": 400,
                "steps": 600,
                "chosen": lr == best,
                "seconds": 3.1,
                "curve": [[100, sign * dev * 0.8], [400, sign * dev]],
            }
            for lr, dev in devs.items()
        ]
    found = {"recipe": origin[0], "unit": origin[1], "keep": origin[2], "seed": origin[3], "teacher": "demo"} if origin else None  # type: ignore[index]
    per_seed = [value - half / 4, value, value + half / 4]
    measures = {
        measure: {
            "value": value,
            "low": value - half,
            "high": value + half,
            "per_seed": per_seed,
            "unit": unit,
            "better": better,
            "items": 960,
        }
    }
    if measure == "wer":
        measures["cer"] = {**measures["wer"], "value": value / 2.4, "low": (value - half) / 2.4, "high": (value + half) / 2.4}
    split = {"recordings": 2882, "hours": 0.81, "speakers": 18}
    return {
        **header("evaluation"),
        "model": {
            "name": name or called,
            "role": role,
            "fingerprint": fingerprint,
            "params": params,
            "macs_per_s": macs,
            "layers": len(shares),
            "dim": 192,
            "frame_rate": 50.0,
            "family": "sottovoce",
            "origin": found,
        },
        "task": {
            "entry": entry,
            "name": task,
            "title": title,
            "config": {"training": {"steps": 600, "lrs": [1e-4, 1e-3, 1e-2, 1e-1]}},
        },
        "data": {
            "source": ["arabic_commands"],
            "fingerprint": "3fa2b0c4d1e6",
            "splits": {
                "train": split,
                "dev": {"recordings": 480, "hours": 0.13, "speakers": 6},
                "test": {"recordings": 960, "hours": 0.27, "speakers": 6},
            },
            "classes": 40 if measure == "accuracy" else None,
            "skipped": 0,
        },
        "seeds": [1, 2, 3],
        "measures": measures,
        "trials": trials if task != "qbe" else [],
        "layer_weights": [[share / sum(shares) for share in shares]] * 3 if task != "qbe" else [],
        "details": {},
        "cost": {"seconds": 12.3, "features_seconds": 5.2, "training_seconds": 6.0, "cached": True},
    }


def write_all(folder: Path) -> Path:
    """Every model on every task, one file each; the last control lacks one task."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, *_) in enumerate(MODELS):
        for entry in TASKS:
            if (name, entry) != ("untrained:demo", "asr-english"):
                (folder / f"{entry}--{i}.json").write_text(json.dumps(evaluation(entry, i)), encoding="utf-8")
    return folder


def run_record() -> dict[str, Any]:
    """What `compress` leaves in run/result.json."""
    mean = {"cosine": 0.91, "mapped": 0.93, "explained": 0.8}
    counts = {"frontend.convs.0": 50, "layers.0.head": 1, "layers.0.ffn": 254}
    return {
        **header("run"),
        "recipe": {"stages": {"prune": {"kind": "train"}, "cut": {"kind": "cut"}, "distill": {"kind": "train"}}, "seed": 1},
        "seed": 1,
        "data": {"source": "demo", "hours": 0.205, "skipped": 0, "where": {"split": "train"}},
        "teacher": {"name": "demo", "family": "hubert", "params": 5331200.0, "macs_per_s": 522610201.6},
        "cost": {"params": 2051502.0, "macs_per_s": 130644320.0},
        "stages": [
            {"stage": "prune", "kind": "train", "seconds": 44.4, "updates": 36},
            {"stage": "cut", "kind": "cut", "seconds": 0.2},
            {"stage": "distill", "kind": "train", "seconds": 21.6, "updates": 24},
        ],
        "seconds": 66.2,
        "budget": {
            "unit": "macs",
            "target": 0.25,
            "before": 0.4,
            "after": 0.24998,
            "met": True,
            "text": "kept",
            "counts": counts,
        },
        "held_out_seconds": 37.3,
        "fidelity": {"frames": 1858, "mean": mean, "layers": [{"layer": i, **mean} for i in range(4)]},
    }


def write_run(folder: Path, evaluations: bool = True) -> Path:
    """A finished run's folder as far as a page reads it; the stage before the cut has left no weights."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    (folder / "run" / ".sottovoce").touch()
    (folder / "run" / "result.json").write_text(json.dumps(run_record()), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"stage": "prune", "step": step, "loss": 5 - step / 10, "sparsity": step / 50, "target": 0.75}
        for step in range(10, 40, 10)
    ]
    rows += [{"stage": "prune", "step": 36, "valid/loss": 2.0}, {"stage": "distill", "step": 24, "loss": 1.5}]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "distill", "step": 25, "loss": NaN}\n{"stage": "dis'
    (folder / "run" / "metrics.jsonl").write_text(text, encoding="utf-8")
    (folder / "run" / "cut.json").write_text(json.dumps({"kept": {"layers.0.head": [2]}}), encoding="utf-8")
    layers = (LayerConfig(1, 8, 254), LayerConfig(0, 8, 0, attention=False))
    shape = EncoderConfig(FrontendConfig((ConvConfig(50, 10, 5),)), 16, PositionConfig(8, 16), layers).to_dict()
    (folder / "config.json").write_text(json.dumps({"encoder": shape}), encoding="utf-8")
    if evaluations:
        (folder / "evaluation").mkdir(exist_ok=True)
        for entry in TASKS:
            for model in (0, 1, 8):
                (folder / "evaluation" / f"{entry}-{model}.json").write_text(
                    json.dumps(evaluation(entry, model)), encoding="utf-8"
                )
    return folder
