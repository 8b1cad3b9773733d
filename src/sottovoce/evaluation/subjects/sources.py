"""Subjects by name: models, exported files and controls."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data.files import printable
from sottovoce.encoder import Encoder
from sottovoce.evaluation.subjects.controls import CONTROLS, open_control
from sottovoce.evaluation.subjects.fingerprints import fingerprint
from sottovoce.evaluation.subjects.onnx_file import open_onnx
from sottovoce.evaluation.subjects.rater import NoFeatures
from sottovoce.evaluation.subjects.subject import Role, Subject
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.pruning import encoder_cost, total

UNTRAINED = "untrained:"
RECORD = Path("run") / "result.json"  # written by our runs


def open_subject(source: str, name: str | None = None) -> Subject:
    """The model at `source`: whatever `load_pretrained` takes, an exported ``.onnx`` file, a control (``log-mel``, ``fbank``), a quality
    model (``distillmos``, or ``distillmos:FILE`` with its weights), or ``untrained:SOURCE`` (``untrained:SOURCE#2``: of seed 2), the same
    shape with random weights. ValueError as `load_pretrained` has it."""
    if source in CONTROLS:
        return open_control(source, name)
    if source.startswith(UNTRAINED):
        of, _, seed = source.removeprefix(UNTRAINED).partition("#")
        if seed and not seed.isdigit():
            raise ValueError(f"'{source}': after # give the seed, a whole number, e.g. untrained:{of}#2")
        loaded = load_pretrained(of)
        default_name = f"untrained:{_short(of)}" + (f"#{seed}" if seed else "")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed or 1))
            encoder = Encoder(loaded.shape).reset_parameters().eval()
        subject = subject_of(replace(loaded, encoder=encoder), name or default_name, "control")
        return replace(subject, origin={"recipe": "untrained", "seed": int(seed or 1), "teacher": _short(of)})
    if (judge := judge_of(source)) is not None:
        return Subject(
            name or judge.name,
            "teacher",
            NoFeatures(),
            False,
            0,
            0,
            0.0,
            judge.fingerprint(),
            judge.name,
            judge.params,
            judge=judge,
        )
    if source.endswith(".onnx"):
        return open_onnx(source, name)
    loaded = load_pretrained(source)
    origin = origin_of(Path(source)) if Path(source).is_dir() else None
    role: Role = "student" if origin is not None and origin["teacher"] else "teacher"
    return replace(subject_of(loaded, name or _short(source), role), origin=origin, source=source)


def subject_of(loaded: Pretrained, name: str, role: Role) -> Subject:
    """The subject of a loaded model."""
    encoder = loaded.encoder
    cost = None if loaded.config is None else total(encoder_cost(loaded.config))
    return Subject(
        name=name,
        role=role,
        encoder=encoder,
        normalize=loaded.normalize,
        layers=loaded.depth + 1,
        dim=loaded.dim,
        frame_rate=frame_rate(encoder) if loaded.config is None else SAMPLE_RATE / loaded.config.frontend.stride,
        fingerprint=fingerprint(encoder, loaded.normalize),
        family=loaded.family,
        params=float(sum(p.numel() for p in encoder.parameters())) if cost is None else float(cost.params),
        macs_per_s=None if cost is None else float(cost.macs),
        scores=loaded.scores,
    )


def judge_of(source: str) -> Any:
    """The quality model (a teacher of a kind that gives scores) that `source` names, with a file of its weights behind a colon if they are
    not those of the kind's package; ``None`` if it names none. ValueError if the weights are not there."""
    kind, _, file = source.partition(":")
    if not re.fullmatch(r"[a-z_]+", kind) or Path(source).exists() or kind not in TEACHER_KINDS.names():
        return None
    cls = TEACHER_KINDS.get(kind)
    return cls.alone(**({"source": file} if file else {})) if cls.scores else None


@torch.inference_mode()
def frame_rate(encoder: nn.Module) -> float:
    """Frames a second."""
    one, two = (encoder(torch.zeros(1, count * SAMPLE_RATE)).last.shape[1] for count in (1, 2))
    return float(two - one)


def _short(source: str) -> str:
    return printable(Path(source).name or source)


def origin_of(folder: Path) -> dict[str, Any] | None:
    """The run that made the model in `folder`; ``None`` if it has no record of one."""
    try:
        result = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        budget, data = result.get("budget") or {}, result.get("data") or {}
        return {
            "recipe": result["recipe"].get("name"),
            "unit": budget.get("unit"),
            "keep": budget.get("target"),
            "seed": result["seed"],
            "teacher": (result["teacher"] or {}).get("name"),
            "data": data.get("source"),
            "hours": data.get("hours"),
            "commit": result.get("commit"),
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return None
