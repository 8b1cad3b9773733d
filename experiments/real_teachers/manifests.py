"""Writes what the students of real teachers are trained on: the `train` rows of the corpora at hand.

    python -m experiments.real_teachers.manifests --speech FOLDER --out DIR

english.tsv: recordings in English, without the readers of `speechocean762`, whom no student hears. languages.tsv: all languages.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

ENGLISH = ("librispeech_dev", "librispeech_spk", "picovoice_intents", "fsdd", "precise_community", "ami_excerpts")
OTHERS = ("mboshi_fr", "fillets_cs", "tuxpaint", "arabic_commands")
COLUMNS = ("path", "seconds", "speaker", "language", "text", "split")


def rows(speech: Path, corpus: str) -> list[dict[str, str]]:
    """The corpus's `train` rows, with absolute paths."""
    with open(speech / corpus / "manifest.tsv", encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == "train"]
    return [{**row, "path": str((speech / row["path"]).resolve())} for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    english = [row for corpus in ENGLISH for row in rows(options.speech, corpus) if row["language"] == "en"]
    others = [row for corpus in OTHERS for row in rows(options.speech, corpus)]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, found in (("english", english), ("languages", [*english, *others])):
        with open(options.out / f"{name}.tsv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(found)
        print(f"{name}.tsv: {len(found)} recordings, {sum(float(row['seconds']) for row in found) / 3600:.1f} hours")


if __name__ == "__main__":
    main()
