"""Writes the manifests that `universal` learns from: the `train` rows of corpora whose licence is clear, and noises.

python -m experiments.universal.manifest --speech FOLDER --out DIR
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

# Left out: emodb and mboshi_fr (licence unclear), fillets_cs and tuxpaint (GPL-2), and fsdd (CC BY-SA, which would bind the weights).
CORPORA = (
    "librispeech_dev",
    "librispeech_spk",
    "speechocean762",
    "arabic_commands",
    "picovoice_intents",
    "precise_community",
    "ami_excerpts",
)
NOISES = ("esc10",)
COLUMNS = ("path", "seconds", "speaker")


def rows(speech: Path, corpora: tuple[str, ...]) -> list[dict[str, str]]:
    """The `train` rows, with absolute paths."""
    found = []
    for corpus in corpora:
        with open(speech / corpus / "manifest.tsv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if row["split"] == "train":
                    found.append({**row, "path": str((speech / row["path"]).resolve())})
    return found


def write(path: Path, found: list[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, delimiter="\t", extrasaction="ignore")
        table.writeheader()
        table.writerows(found)
    print(f"{path}: {len(found)} recordings, {sum(float(row['seconds']) for row in found) / 3600:.2f} hours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "train.tsv", rows(options.speech, CORPORA))
    write(options.out / "noises.tsv", rows(options.speech, NOISES))


if __name__ == "__main__":
    main()
