"""Writes what the students of real teachers are trained on: the `train` rows of the corpora at hand.

    python -m experiments.real_teachers.manifests --speech FOLDER --out DIR

english.tsv: recordings in English, without the readers of `speechocean762`, whom no student hears. languages.tsv: all languages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.corpora import rows, write

ENGLISH = ("librispeech_dev", "librispeech_spk", "picovoice_intents", "fsdd", "precise_community", "ami_excerpts")
OTHERS = ("mboshi_fr", "fillets_cs", "tuxpaint", "arabic_commands")
COLUMNS = ("path", "seconds", "speaker", "language", "text", "split")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    english = [row for corpus in ENGLISH for row in rows(options.speech, corpus) if row["language"] == "en"]
    others = [row for corpus in OTHERS for row in rows(options.speech, corpus)]
    write(options.out / "english.tsv", english, COLUMNS)
    write(options.out / "languages.tsv", [*english, *others], COLUMNS)


if __name__ == "__main__":
    main()
