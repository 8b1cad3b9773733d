"""Measures the recognisers that the students of this experiment come from, as they are: recognition and translation by the whole model.

    python -m experiments.real_teachers.run --models FOLDER --speech FOLDER [--only MODEL]

FOLDER of models holds ``moonshine-tiny``, ``whisper-tiny.en`` and ``whisper-base``; that of speech the corpora of ``tasks.yaml``. What is
measured already is not measured again, and no recording is decoded twice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sottovoce.evaluation.suite.run import evaluate

FOLDER = Path(__file__).parent
ENGLISH = ("librispeech", "librispeech-plain")
CELLS = [
    ("moonshine-tiny", (*ENGLISH, "speechocean")),
    ("whisper-tiny.en", (*ENGLISH, "speechocean")),
    ("whisper-base", (*ENGLISH, "fillets", "fillets-translated", "tuxpaint", "tuxpaint-translated")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--only", choices=[model for model, _ in CELLS], help="this model alone")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    for model, tasks in CELLS:
        if options.only not in (None, model):
            continue
        source = str(options.models / model)
        evaluate([source], data=FOLDER / "tasks.yaml", root=options.speech, tasks=tasks, out=options.out, seeds=[1], say=print)


if __name__ == "__main__":
    main()
