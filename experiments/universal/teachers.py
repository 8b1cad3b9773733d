"""Checks the teachers of `universal` before they teach: how well CAM++ tells speakers apart, and what a short silence does to Whisper.

python -m experiments.universal.teachers --speech FOLDER --whisper DIR
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F

from sottovoce.core import ledger
from sottovoce.core.types import Batch, Features, Vectors
from sottovoce.train.teachers import Teacher, TeacherSettings
from sottovoce.train.teachers.campplus import CamPlusPlus
from sottovoce.train.teachers.encoder import EncoderTeacher

FOLDER = Path(__file__).parent
EACH, SEED = 12, 0  # recordings of each speaker
CLIPS, LONGEST, LAYERS = 14, 12.0, (2, 4, 6)  # for Whisper: recordings, seconds, layers
HERE = TeacherSettings(torch.device("cpu"), pack=True)

Rows = list[dict[str, str]]


def manifest(speech: Path, corpus: str) -> Rows:
    with open(speech / corpus / "manifest.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def batch(speech: Path, row: dict[str, str]) -> Batch:
    wave, _ = soundfile.read(speech / row["path"], dtype="float32")
    return Batch(torch.from_numpy(wave)[None])


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """In per cent: where as many pairs of one speaker are refused as pairs of two are accepted."""
    order = np.argsort(scores)
    refused = np.cumsum(same[order]) / same.sum()
    accepted = 1 - np.cumsum(~same[order]) / (~same).sum()
    at = int(np.argmin(np.abs(refused - accepted)))
    return float(50 * (refused[at] + accepted[at]))


def speakers(speech: Path, teacher: Teacher) -> dict[str, float]:
    """The equal error rate over all pairs of recordings, `EACH` of each speaker of librispeech_dev."""
    by_speaker: dict[str, Rows] = defaultdict(list)
    for row in manifest(speech, "librispeech_dev"):
        by_speaker[row["speaker"]].append(row)
    draw = random.Random(SEED)
    chosen = [row for rows in by_speaker.values() for row in draw.sample(rows, EACH)]
    vectors = []
    for row in chosen:
        answer = teacher.answer(batch(speech, row))
        assert isinstance(answer, Vectors)
        vectors.append(F.normalize(answer.vectors[0], dim=0))
    every = torch.stack(vectors)
    names = np.array([row["speaker"] for row in chosen])
    one, other = np.triu_indices(len(names), 1)
    error = equal_error_rate((every @ every.T).numpy()[one, other], names[one] == names[other])
    return {"eer": round(error, 2), "recordings": len(chosen), "speakers": len(by_speaker)}


def silence(speech: Path, whisper: str, tail: float) -> dict[str, float]:
    """Mean cosine of Whisper's layers with `tail` seconds of silence to those with the whole window; dimensions are standardised."""
    rows = [row for corpus in ("librispeech_dev", "speechocean762", "arabic_commands") for row in manifest(speech, corpus)]
    rows = [row for row in rows if row["split"] == "train" and float(row["seconds"]) < LONGEST]
    whole, short = (EncoderTeacher(EncoderTeacher.Config(source=whisper, tail=each), HERE) for each in (None, tail))
    found: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {layer: [] for layer in LAYERS}
    for row in random.Random(SEED).sample(rows, CLIPS):
        answers = [teacher.answer(batch(speech, row)) for teacher in (whole, short)]
        for layer, pairs in found.items():
            one, other = (answer.hidden[layer][0] for answer in answers if isinstance(answer, Features))
            pairs.append((one, other))
    cosines = {}
    for layer, pairs in found.items():
        one, other = (torch.cat(each) for each in zip(*pairs, strict=True))
        mean, deviation = one.mean(0), one.std(0)
        cosines[f"layer_{layer}"] = round(
            float(F.cosine_similarity((one - mean) / deviation, (other - mean) / deviation).mean()), 4
        )
    return {"tail": tail, "recordings": CLIPS, **cosines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--whisper", required=True)
    parser.add_argument("--tails", type=float, nargs="+", default=[0.0, 1.0, 4.0])
    options = parser.parse_args()
    ledger.commit()
    found = {"speakers-campplus": speakers(options.speech, CamPlusPlus(CamPlusPlus.Config(), HERE))}
    found |= {f"silence-{tail:g}s": silence(options.speech, options.whisper, tail) for tail in options.tails}
    for name, scores in found.items():
        print(name, scores)
        ledger.write(FOLDER / ledger.RECORDS, {"name": name, **ledger.header("teacher"), "scores": scores})


if __name__ == "__main__":
    main()
