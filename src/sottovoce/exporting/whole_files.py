"""Writes the files of a whole host, and checks that onnxruntime writes the same texts with them as torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sottovoce.core.ledger import dump, header, version
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.data import open_source
from sottovoce.data.draw import draw
from sottovoce.evaluation.features.pieces import Piece, decoded
from sottovoce.evaluation.kinds.transcripts import Decoding
from sottovoce.evaluation.statistics.metrics import edits
from sottovoce.evaluation.statistics.texts import language_code, normalizer
from sottovoce.exporting import audio
from sottovoce.exporting.proto import save
from sottovoce.exporting.runtime_host import RuntimeHost
from sottovoce.exporting.whole import DECODER, ENCODER, PRECISIONS, TOKENS, whole
from sottovoce.hosts.base import Host
from sottovoce.hub.folder import ABOUT, CHECK, replacing

LONGEST = 30.0  # seconds of a recording that are checked
FEWEST = 3  # recordings, if there are so many


def export_whole(
    host: Host, folder: Path, precision: str, data: str | Path | None, seconds: float, say: Callable[[str], None]
) -> Path:
    """Writes ``encoder.onnx``, ``decoder.onnx`` (of a host with a decoder), ``tokens.json`` and ``model.json`` into `folder`, and
    ``model.check.json``: how many of the recordings in `data` (about `seconds` of them; the demo speech by default) have the same text.

    Returns the path of the encoder. ValueError for a precision that is not "fp32" or "int8", and for a host without text.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"a whole model is exported in {' or '.join(PRECISIONS)}, not in {precision}; --layer last exports its encoder alone, also in "
            "other precisions"
        )
    say(f"translating {host.pretrained.source} to ONNX, encoder and {'decoder' if host.answers == 'tokens' else 'head'}")
    built = whole(host, precision)
    with replacing(folder) as new:
        save(built.encoder, new / ENCODER)
        if built.decoder is not None:
            save(built.decoder, new / DECODER)
        (new / TOKENS).write_text(json.dumps(built.tokens, ensure_ascii=False), encoding="utf-8")
        (new / ABOUT).write_text(dump(built.about), encoding="utf-8", errors="backslashreplace")
        clips = _clips(data, seconds)
        say(f"transcribing {len(clips)} recordings with torch and with onnxruntime")
        check = compared(host, RuntimeHost(new, torch.get_num_threads()), clips)
        record = {
            **header("export-whole"),
            "model": {key: built.about[key] for key in ("source", "kind", "precision")},
            "runtime": {"onnxruntime": version("onnxruntime")},
            **check,
        }
        (new / CHECK).write_text(dump(record), encoding="utf-8", errors="backslashreplace")
    say(_sentence(check))
    return folder / ENCODER


@dataclass(frozen=True)
class Spoken:
    """(S,) samples, the code of their language or "", and what was said, "" if it is not known."""

    wave: torch.Tensor
    language: str
    text: str


def _clips(data: str | Path | None, seconds: float) -> list[Spoken]:
    """Recordings of `data`, of its split "test" where there is one, in the order of a hash; noise if there is no speech."""
    try:
        source = open_source("demo" if data is None else data)
    except ValueError:
        if data is not None:
            raise
        return [Spoken(clip.wave, "", "") for clip in audio.noise().check]
    tests = [item for item in source if item.fields.get("split") == "test"] or list(source)
    clips: list[Spoken] = []
    left = seconds * SAMPLE_RATE
    for piece, wave in decoded([Piece(item) for item in sorted(tests, key=lambda item: draw(item.id))], ahead=8):
        if isinstance(wave, str) or len(wave) > LONGEST * SAMPLE_RATE:
            continue
        fields = piece.recording.fields
        clips.append(Spoken(wave, language_code(fields.get("language", "")), fields.get("text", "")))
        left -= len(wave)
        if left <= 0 and len(clips) >= FEWEST:
            break
    if not clips:
        raise ValueError(f"{data or 'the demo speech'} has no recording of at most {LONGEST:g} s that can be read")
    return clips


@torch.inference_mode()
def compared(host: Host, files: RuntimeHost, clips: list[Spoken]) -> dict[str, Any]:
    """Texts of both, compared: how many are equal; word errors of the files' texts against torch's and, where it is known what was said,
    of both against that; seconds of computing per second of audio."""
    counts = {"files to torch": [0, 0], "files": [0, 0], "torch": [0, 0]}
    equal, clock = 0, {"files": 0.0, "torch": 0.0}
    default = "en" if "en" in files.decoding.get("languages", {}) else ""
    for clip in clips:
        language = clip.language or default
        options = Decoding(window=LONGEST).options(host, "transcribe", language, len(clip.wave) / SAMPLE_RATE)
        began = time.perf_counter()
        (theirs,) = host.transcribe(clip.wave[None], **options)
        middle = time.perf_counter()
        ours = files.transcribe(clip.wave.numpy(), language)
        clock["torch"] += middle - began
        clock["files"] += time.perf_counter() - middle
        equal += ours == theirs.strip()
        form = normalizer("whisper", language)
        pairs = [("files to torch", theirs, ours)]
        pairs += [("files", clip.text, ours), ("torch", clip.text, theirs)] if clip.text else []
        for name, reference, hypothesis in pairs:
            found = edits(form(reference).split(), form(hypothesis).split())
            counts[name][0] += sum(found[:3])
            counts[name][1] += found.tokens
    total = sum(len(clip.wave) for clip in clips) / SAMPLE_RATE
    return {
        "recordings": len(clips),
        "audio_seconds": round(total, 1),
        "equal": equal,
        "wer": {name: round(100 * errors / words, 3) for name, (errors, words) in counts.items() if words},
        "seconds_per_second": {name: round(value / total, 4) for name, value in clock.items()},
    }


def _sentence(check: dict[str, Any]) -> str:
    errors = check["wer"]
    text = f"{check['equal']} of {check['recordings']} texts are those of torch"
    if "files to torch" in errors:
        text += f"; word errors against torch's {errors['files to torch']:.3g} %"
    if "files" in errors:
        text += f", against what was said {errors['files']:.3g} % (torch {errors['torch']:.3g} %)"
    return text
