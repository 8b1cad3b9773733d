"""Writes the manifests that `universal` learns from: the `train` rows of corpora whose licence is clear, and noises.

python -m experiments.universal.manifest --speech FOLDER --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.corpora import rows, write

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for name, corpora in (("train", CORPORA), ("noises", NOISES)):
        write(options.out / f"{name}.tsv", [row for corpus in corpora for row in rows(options.speech, corpus)], COLUMNS)


if __name__ == "__main__":
    main()
