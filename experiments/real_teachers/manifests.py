"""Writes what the students of real teachers are trained on: the `train` rows of the corpora at hand.

    python -m experiments.real_teachers.manifests --speech FOLDER --out DIR

english.tsv: recordings in English, without the readers of `speechocean762`, whom no student hears. languages.tsv: all languages.
balanced.tsv: of those, at most 150 recordings of a second and more in each language of a corpus, chosen by a hash.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.corpora import rows, write

ENGLISH = ("librispeech_dev", "librispeech_spk", "picovoice_intents", "fsdd", "precise_community", "ami_excerpts")
OTHERS = ("mboshi_fr", "fillets_cs", "tuxpaint", "arabic_commands")
MOST, SHORTEST = 150, 1.0  # recordings in a language of a corpus, and their seconds
COLUMNS = ("path", "seconds", "speaker", "language", "text", "split")


def balanced(found: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """At most `MOST` rows in each language of a corpus."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in found:
        if float(row["seconds"]) >= SHORTEST:
            groups.setdefault((Path(row["path"]).parent.name, row["language"]), []).append(row)
    return [row for group in groups.values() for row in sorted(group, key=drawn)[:MOST]]


def drawn(row: Mapping[str, str]) -> str:
    """A number that does not depend on where the corpora are."""
    return hashlib.blake2b("/".join(Path(row["path"]).parts[-2:]).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    english = [row for corpus in ENGLISH for row in rows(options.speech, corpus) if row["language"] == "en"]
    others = [row for corpus in OTHERS for row in rows(options.speech, corpus)]
    write(options.out / "english.tsv", english, COLUMNS)
    write(options.out / "languages.tsv", [*english, *others], COLUMNS)
    write(options.out / "balanced.tsv", balanced([*english, *others]), COLUMNS)


if __name__ == "__main__":
    main()
