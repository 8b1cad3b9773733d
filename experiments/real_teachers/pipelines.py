"""Runs students in transformers' `pipeline`, with sottovoce and in an environment that does not have it: the texts must be the same.

    python -m experiments.real_teachers.pipelines STUDENT [STUDENT ...] --speech FOLDER --plain PYTHON

STUDENT: folders that `compress` wrote, of recognisers. PYTHON: the interpreter of an environment with torch, transformers and soundfile
(``python -m venv plain && plain/bin/pip install torch transformers soundfile``). Three test recordings of `librispeech_dev`; word errors
with Whisper's normaliser.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sottovoce.core import ledger
from sottovoce.evaluation.statistics.metrics import edits
from sottovoce.evaluation.statistics.texts import normalizer

FOLDER = Path(__file__).parent
CLIPS, LONGEST = 3, 12.0  # recordings; seconds

WRITES = """
import importlib.util, json, sys
import soundfile, torch, transformers

torch.set_num_threads(1)
known, folder, *paths = sys.argv[1:]
if known == "with":
    import sottovoce
elif importlib.util.find_spec("sottovoce"):
    sys.exit(f"sottovoce is installed for {sys.executable}")
recognise = transformers.pipeline("automatic-speech-recognition", model=folder, trust_remote_code=known == "without")
texts = []
for path in paths:
    wave, rate = soundfile.read(path, dtype="float32")
    texts.append(recognise({"raw": wave, "sampling_rate": rate})["text"])
code = type(recognise.model).__module__.split(".")[0]
print(json.dumps({"texts": texts, "code": code, "torch": torch.__version__, "transformers": transformers.__version__}))
"""


def written(python: str, known: str, folder: Path, paths: list[Path]) -> dict[str, Any]:
    """What the pipeline of a process writes, "with" sottovoce or "without" it."""
    with tempfile.TemporaryDirectory() as empty:  # another working directory, so that no source code of ours is on its path
        command = [python, "-c", WRITES, known, str(folder.resolve()), *(str(path.resolve()) for path in paths)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=empty, env=environment(known))
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def environment(known: str) -> dict[str, str]:
    """The variables of a process; without sottovoce, also without the paths on which it may be."""
    return {name: value for name, value in os.environ.items() if known == "with" or name != "PYTHONPATH"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", type=Path, nargs="+")
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--plain", required=True, help="the interpreter of an environment without sottovoce")
    options = parser.parse_args()
    ledger.commit()
    rows = csv.DictReader((options.speech / "librispeech_dev/manifest.tsv").open(encoding="utf-8"), delimiter="\t")
    chosen = [row for row in rows if row["split"] == "test" and float(row["seconds"]) < LONGEST][:CLIPS]
    paths, references = [options.speech / row["path"] for row in chosen], [row["text"] for row in chosen]
    form = normalizer("whisper", "en")
    differ = []
    for student in options.students:
        said = {
            "with": written(sys.executable, "with", student, paths),
            "without": written(options.plain, "without", student, paths),
        }
        found = [
            edits(form(right).split(), form(text).split()) for right, text in zip(references, said["with"]["texts"], strict=True)
        ]
        equal = said["with"]["texts"] == said["without"]["texts"]
        differ += [] if equal else [str(student)]
        record = {
            "name": student.resolve().name,
            **ledger.header("pipelines"),
            "recordings": [row["path"] for row in chosen],
            "equal": equal,
            "wer": round(100 * sum(sum(each[:3]) for each in found) / sum(each.tokens for each in found), 2),
            **said,
        }
        ledger.write(FOLDER / ledger.RECORDS, record)
        print(f"{student}: {'the same texts' if equal else 'OTHER TEXTS'} without sottovoce; word errors {record['wer']} %")
    if differ:
        sys.exit(f"other texts without sottovoce: {', '.join(differ)}")


if __name__ == "__main__":
    main()
