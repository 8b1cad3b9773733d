"""Opens a source of recordings: a folder, a manifest of any common kind, Lhotse Shar shards, one file, or ``demo``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sottovoce.core.registry import CORPORA
from sottovoce.data.files import MISSING, NOT_REGULAR, fault, open_regular, printable, reason
from sottovoce.data.lhotse_sets import read_shar
from sottovoce.data.manifests import read_json_lines, read_list, read_table
from sottovoce.data.recording import Recording, Recordings, count_reasons, distinct

if TYPE_CHECKING:
    from sottovoce.data.corpora.base import Corpus

AUDIO = frozenset(  # what libsndfile reads
    (".wav", ".wave", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mp1", ".mpga", ".aiff", ".aif", ".aifc", ".au", ".snd",
     ".caf", ".w64", ".rf64", ".sph", ".nist", ".voc", ".ircam", ".sf", ".avr", ".paf", ".pvf", ".svx", ".8svx", ".wve")
)  # fmt: skip
OTHER_AUDIO = frozenset(  # what libsndfile does not read
    (".m4a", ".m4b", ".m4p", ".m4r", ".mp4", ".m4v", ".mov", ".aac", ".adts", ".wma", ".asf", ".wmv", ".amr", ".awb", ".3gp", ".3gpp",
     ".3ga", ".3g2", ".webm", ".weba", ".mka", ".mkv", ".avi", ".flv", ".f4a", ".f4v", ".mpg", ".mpeg", ".ra", ".ram", ".rm", ".rmvb",
     ".ape", ".wv", ".tta", ".tak", ".mpc", ".mp+", ".ofr", ".alac", ".ac3", ".eac3", ".ac4", ".dts", ".dsf", ".dff", ".spx", ".shn",
     ".qcp", ".evs", ".lc3", ".silk", ".vox", ".gsm", ".dss", ".ds2", ".dvf", ".msv", ".adpcm", ".g722", ".g726", ".g729", ".ul", ".ulaw",
     ".al", ".alaw", ".sln", ".sln16", ".pcm", ".raw", ".s16", ".s16le", ".f32", ".f32le", ".cda", ".mogg", ".ogx", ".ogv", ".oma", ".at3",
     ".aa", ".aax", ".aa3", ".wvx", ".xwma", ".xm", ".wax")
)  # fmt: skip
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar", ".parquet", ".arrow", ".h5", ".hdf5",
            ".tfrecord", ".ark", ".npz", ".npy", ".lmdb", ".mdb")  # fmt: skip
NO_AUDIO = frozenset(
    (".txt", ".tsv", ".csv", ".json", ".jsonl", ".lab", ".textgrid", ".rttm", ".ctm", ".stm", ".xml", ".html", ".md", ".pdf", ".yaml",
     ".yml", ".py", ".sh", ".png", ".jpg", ".jpeg", ".trans", ".lst", ".scp", ".phn", ".wrd", ".log", ".cfg", ".toml", ".gz")
)  # fmt: skip
TABLES = (".tsv", ".csv")
JSON = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".ndjson")
LISTS = (".txt", ".lst")
DEMO = "demo"
KINDS = "a folder of audio, a .tsv, .csv or .jsonl manifest, a folder of Lhotse Shar shards, an audio file or 'demo'"

Spec = str | Path | Recording | Sequence["str | Path | Recording"]


def open_source(spec: Spec, allow_commands: bool = False) -> Recordings:
    """All recordings of a source, in a fixed order and with unique ids. Rows that cannot be used are in ``.skipped``.

    spec is one of these, or a list of them:

    - a folder, searched recursively for audio; labels are read too if it has the layout of a corpus in ``sottovoce.data.corpora``
    - a csv or tsv with a header and a ``path`` column, optionally ``channel`` and columns of a stretch (see `sottovoce.data.columns`);
      other columns become ``fields``
    - a fairseq tsv; JSON lines of NeMo (``audio_filepath`` or ``path``, ``duration``, ``offset``); Lhotse cuts; a folder of Shar shards
    - a text file of paths; an audio file; ``demo``, which is synthesised once and cached

    Relative paths in a manifest start at its folder, at ``clips/`` in it (Common Voice), or at the folder above. Decodes no audio.
    allow_commands: run the commands and fetch the addresses that Lhotse cuts name as audio; otherwise such cuts are skipped. Raises
    ValueError for a source that is missing, empty or of an unknown kind.
    """
    return distinct(_open(spec, allow_commands))


def _open(spec: Spec, allow_commands: bool) -> Recordings:
    if isinstance(spec, Recording):
        return Recordings([spec])
    if not isinstance(spec, (str, Path)):
        parts = [_open(part, allow_commands) for part in spec]
        if not parts:
            raise ValueError(f"no data given; give {KINDS}")
        return Recordings(
            (item for part in parts for item in part),
            (row for part in parts for row in part.skipped),
            (trial for part in parts for trial in part.trials),
            (note for part in parts for note in part.notes),
        )
    if spec == DEMO:
        from sottovoce.data.demo import demo_manifest  # needs an optional package

        return read_table(demo_manifest())
    if "://" in str(spec):
        raise ValueError(f"{spec} is a remote address; copy the data to a disk first and give its path")
    path = Path(spec).expanduser()
    shown = printable(str(path))
    if path.is_dir():
        if any(path.glob("cuts.*.jsonl*")):
            return read_shar(path)
        corpus = _corpus(path)
        return read_folder(path) if corpus is None else corpus.read(path)
    if why := fault(str(path)):
        problem = "does not exist" if why == MISSING else f"is {why}" if why == NOT_REGULAR else f"cannot be read ({why})"
        raise ValueError(f"{shown} {problem}; give {KINDS}")
    name = path.name.lower()
    if name.endswith(TABLES):
        return read_table(path)
    if name.endswith(JSON):
        return read_json_lines(path, allow_commands)
    if name.endswith(LISTS):
        return read_list(path)
    if path.suffix.lower() in AUDIO:
        return Recordings([Recording(printable(path.name), str(path))])
    if path.suffix.lower() in OTHER_AUDIO:
        raise ValueError(f"{shown}: {path.suffix.lower()} is not read; convert it to WAV or FLAC")
    raise ValueError(f"{shown} is of an unknown kind; give {KINDS}")


def _corpus(folder: Path) -> Corpus | None:
    """The reader of the corpus whose layout the folder has, if any."""
    corpora: Iterator[Corpus] = (CORPORA.get(name)() for name in CORPORA.names())
    try:
        return next((corpus for corpus in corpora if corpus.matches(folder)), None)
    except OSError:  # a folder that cannot be listed
        return None


def read_folder(folder: Path) -> Recordings:
    """Audio files below a folder, found by suffix. Follows symbolic links. Skips hidden audio and formats that libsndfile does not read;
    counts archives in the notes. ValueError when there is no audio."""
    recordings = Recordings()
    archives: dict[str, int] = {}
    files: list[str] = []
    for name in _walk(folder, recordings):
        plain, suffix = os.path.basename(name).lower(), os.path.splitext(name)[1].lower()
        if plain.startswith("._"):  # metadata of macOS
            continue
        if suffix in AUDIO and not plain.startswith("."):
            files.append(name)
        elif suffix in AUDIO or suffix in OTHER_AUDIO:
            why = (
                f"{suffix} is not read; convert it to WAV or FLAC"
                if suffix in OTHER_AUDIO
                else "hidden: its name begins with a dot"
            )
            recordings.skipped.append({"path": os.path.join(folder, name), "reason": why})
        elif kind := next((kind for kind in ARCHIVES if plain.endswith(kind)), ""):
            archives[kind] = archives.get(kind, 0) + 1
        elif not plain.startswith(".") and suffix not in NO_AUDIO and _holds_audio(os.path.join(folder, name)):
            recordings.skipped.append({"path": os.path.join(folder, name), "reason": "audio with an unknown suffix"})
    for kind, count in sorted(archives.items()):
        recordings.note(folder, f"{count} {kind} not opened; unpack archives that hold recordings")
    if not files:
        details = f" ({count_reasons(recordings.skipped)})" if recordings.skipped else f" ({', '.join(sorted(AUDIO))})"
        raise ValueError(f"{printable(str(folder))} holds no audio files that can be read{details}; give {KINDS}")
    recordings.extend(Recording(printable(file), os.path.join(folder, file)) for file in sorted(files))
    recordings.skipped.sort(key=lambda row: row["path"])
    return recordings


def _holds_audio(path: str) -> bool:
    """Whether a file starts like a readable audio format."""
    try:
        with open_regular(path) as stream:
            head = stream.read(16)
    except (OSError, ValueError):
        return False
    chunks = head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM") and head[8:12] in (b"WAVE", b"AIFF", b"AIFC")
    return chunks or head[:4] in (b"fLaC", b"OggS", b".snd", b"caff") or head[:3] == b"ID3" or head[:7] == b"NIST_1A"


def _walk(folder: Path, recordings: Recordings) -> Iterator[str]:
    def refused(problem: OSError) -> None:
        recordings.skipped.append({"path": str(problem.filename), "reason": f"a folder that cannot be read ({reason(problem)})"})

    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True, onerror=refused):
        real = os.path.realpath(where)
        if real in seen:  # a link to a parent, or a second path to the same folder
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            yield Path(os.path.relpath(os.path.join(where, name), folder)).as_posix()
