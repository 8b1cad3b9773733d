"""`open_source`: recordings from a folder, a manifest of any common kind, Lhotse Shar shards, one file, or ``demo``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sottovoce.core.registry import CORPORA
from sottovoce.data.lhotse_sets import read_shar
from sottovoce.data.manifests import read_json_lines, read_list, read_table
from sottovoce.data.recording import Recording, Recordings

if TYPE_CHECKING:
    from sottovoce.data.corpora.base import Corpus

AUDIO = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".rf64", ".sph", ".nist")
)
TABLES = (".tsv", ".csv")
JSON = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".ndjson")
LISTS = (".txt", ".lst")
DEMO = "demo"
KINDS = "a folder of audio, a .tsv, .csv or .jsonl manifest, a folder of Lhotse Shar shards, an audio file or 'demo'"

Spec = str | Path | Recording | Sequence["str | Path | Recording"]


def open_source(spec: Spec) -> Recordings:
    """All recordings of a source, in a fixed order, with the manifest rows that were not understood as ``.skipped``.

    spec is one of: a folder (searched recursively for audio, in order of name; where it has the official layout of a corpus that
    ``sottovoce.data.corpora`` knows, the labels are read too); a csv or tsv with a header and a ``path`` column (and
    optionally ``seconds`` or ``duration``, ``start`` or ``offset``, ``channel``; other columns become ``fields``); a fairseq tsv; JSON
    lines as NeMo writes them (``audio_filepath`` or ``path``, ``duration``, ``offset``); Lhotse cuts; a folder of Lhotse Shar shards; a
    text file of paths; an audio file; ``demo``, which is synthesised once and cached; or a list of these. Relative paths in a
    manifest are looked for in its folder, then in ``clips/`` there (Common Voice), then in the folder above. No audio is decoded here.
    Raises ValueError, in one sentence, for a source that is missing, empty or of another kind.
    """
    if isinstance(spec, Recording):
        return Recordings([spec])
    if not isinstance(spec, (str, Path)):
        parts = [open_source(part) for part in spec]
        if not parts:
            raise ValueError(f"no data given; give {KINDS}")
        return Recordings(
            (item for part in parts for item in part),
            (row for part in parts for row in part.skipped),
            (trial for part in parts for trial in part.trials),
        )
    if spec == DEMO:
        from sottovoce.data.demo import demo_manifest  # needs an optional package

        return read_table(demo_manifest())
    if "://" in str(spec):
        raise ValueError(f"{spec} is a remote address; copy the data to a disk first and give its path")
    path = Path(spec).expanduser()
    if path.is_dir():
        if any(path.glob("cuts.*.jsonl*")):
            return read_shar(path)
        corpus = _corpus(path)
        return read_folder(path) if corpus is None else corpus.read(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give {KINDS}")
    name = path.name.lower()
    if name.endswith(TABLES):
        found = read_table(path)
    elif name.endswith(JSON):
        found = read_json_lines(path)
    elif name.endswith(LISTS):
        found = read_list(path)
    elif path.suffix.lower() in AUDIO:
        return Recordings([Recording(path.name, str(path))])
    else:
        raise ValueError(f"{path} is of no known kind; give {KINDS}")
    if not found:
        bad = f"{len(found.skipped)} malformed" if found.skipped else "none"
        raise ValueError(f"{path} has no usable rows ({bad} after the header); each row must name an audio file")
    return found


def _corpus(folder: Path) -> Corpus | None:
    """The reader of the official layout that a folder has, if any."""
    corpora: Iterator[Corpus] = (CORPORA.get(name)() for name in CORPORA.names())
    try:
        return next((corpus for corpus in corpora if corpus.matches(folder)), None)
    except OSError:  # a folder that may not be looked into
        return None


def read_folder(folder: Path) -> Recordings:
    """Audio files below a folder by their suffix, hidden ones left out, symbolic links followed."""
    files = sorted(_walk(folder))
    if not files:
        raise ValueError(f"{folder} holds no audio files ({', '.join(sorted(AUDIO))}); give {KINDS}")
    return Recordings(Recording(file, os.path.join(folder, file)) for file in files)


def _walk(folder: Path) -> Iterator[str]:
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link to a folder above, or a second way to the same one
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if os.path.splitext(name)[1].lower() in AUDIO and not name.startswith("."):
                yield Path(os.path.relpath(os.path.join(where, name), folder)).as_posix()
