"""Lhotse's cuts and Shar shards.

A cut that is a stretch of one audio file, and every item of a Shar shard, is read by our own decoder: it seeks, it names what is
wrong with a file, and it does not need lhotse. Cuts that are more than that (mixed, resampled, speed-perturbed, with audio in a
command or in memory) are given to lhotse.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sottovoce.data.decode import BadAudio, read_frames
from sottovoce.data.recording import Recording, Recordings, Samples, file_state

TYPES = {"MonoCut", "MultiCut", "MixedCut", "PaddingCut", "Cut"}


def is_cut(row: Mapping[str, Any]) -> bool:
    return row.get("type") in TYPES or {"id", "start", "duration", "recording"} <= row.keys()


def read_cuts(path: Path) -> Recordings:
    """Cuts of a ``.jsonl`` or ``.jsonl.gz`` manifest. ValueError when it needs lhotse and lhotse does not work."""
    made = Recordings()
    foreign: set[str] = set()
    for number, row in _rows(path):
        simple = None if row is None else _simple(row, path)
        if simple is not None:
            made.append(simple)
        elif row is not None and is_cut(row) and "id" in row:
            foreign.add(str(row["id"]))
            made.append(Recording(str(row["id"]), f"{path}:{number}"))
        else:
            made.skipped.append({"path": f"{path}:{number}", "reason": "malformed manifest row"})
    if foreign:
        cuts = _load_foreign(path, foreign)
        made[:] = [_foreign(item, cuts[item.id]) if item.id in cuts else item for item in made]
    return made


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except ValueError:
                        row = None
                    yield number, row if isinstance(row, dict) else None
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        raise ValueError(f"cannot read {path}: {problem}") from None


def _simple(row: Mapping[str, Any], manifest: Path) -> Recording | None:
    """The recording of a cut that is one channel of one untouched file; None for any other."""
    try:
        recording = row["recording"]
        (source,) = recording["sources"]
        if row["type"] != "MonoCut" or recording.get("transforms") or source["type"] != "file":
            return None
        file, channel = str(source["source"]), source["channels"].index(row["channel"])
        start, duration = float(row["start"]), float(row["duration"])
        identity = str(row["id"])
    except (KeyError, TypeError, ValueError):
        return None
    if not os.path.isabs(file) and not os.path.exists(file) and os.path.exists(manifest.parent / file):
        file = os.path.join(manifest.parent, file)
    return Recording(
        identity, file, start, duration, channel, _fields(row.get("supervisions") or []), str(recording.get("id", file))
    )


def _fields(supervisions: Any) -> dict[str, str]:
    """Text, speaker and language of the first supervision; the texts of several are joined."""
    rows = [row for row in supervisions if isinstance(row, dict)]
    made = {key: str(rows[0][key]) for key in ("speaker", "language", "gender") if rows and rows[0].get(key)}
    texts = [str(row["text"]) for row in rows if row.get("text")]
    return {**made, "text": " ".join(texts)} if texts else made


def _load_foreign(path: Path, wanted: set[str]) -> dict[str, Any]:
    try:
        from lhotse import CutSet
    except ImportError as problem:
        raise ValueError(
            f"{path} has cuts that only lhotse can read, and importing it failed ({problem}); install lhotse with all it needs"
        ) from None
    try:
        return {cut.id: cut for cut in CutSet.from_file(path) if cut.id in wanted}
    except Exception as problem:  # whatever lhotse makes of a manifest that it does not like
        raise ValueError(f"lhotse cannot read the cuts of {path}: {problem}") from None


def _foreign(item: Recording, cut: Any) -> Recording:
    fields = _fields([vars(supervision) for supervision in cut.supervisions])
    group = cut.recording_id if hasattr(cut, "recording_id") else cut.id
    return Recording(item.id, item.path, 0.0, float(cut.duration), None, fields, str(group), CutLoader(cut))


@dataclass(frozen=True)
class CutLoader:
    cut: Any

    def __call__(self, start: float, seconds: float) -> tuple[Samples, int]:
        rate = int(self.cut.sampling_rate)
        audio = np.atleast_2d(self.cut.load_audio()).T  # (frames, channels)
        first = round(start * rate)
        last = None if seconds == float("inf") else first + int(np.ceil(seconds * rate)) + 1
        return audio[first:last].astype(np.float32, copy=False), rate

    def identity(self) -> str:
        """What the cut says, and the state of the files that it names."""
        said = json.dumps(self.cut.to_dict(), sort_keys=True, default=str)
        states = [file_state(path) for path in _files(self.cut.to_dict())]
        return hashlib.blake2b(repr((said, states)).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _files(data: Any) -> Iterator[str]:
    """Every audio file in a cut as plain data."""
    if isinstance(data, dict):
        if data.get("type") == "file" and "source" in data:
            yield str(data["source"])
        for value in data.values():
            yield from _files(value)
    elif isinstance(data, list):
        for value in data:
            yield from _files(value)


def read_shar(folder: Path) -> Recordings:
    """Items of Lhotse Shar shards on disk: ``cuts.NNN.jsonl.gz`` beside ``recording.NNN.tar``. Audio is read from the tar by position."""
    made = Recordings()
    for cuts in sorted(folder.glob("cuts.*.jsonl*")):
        shard = cuts.name.split(".")[1]
        tars = sorted(folder.glob(f"recording.{shard}.tar*"))
        if len(tars) != 1 or tars[0].name.endswith(".gz"):
            raise ValueError(
                f"{cuts} has no recording.{shard}.tar beside it; export the shards with fields={{'recording': 'flac'}}, uncompressed"
            )
        rows = [row for _, row in _rows(cuts) if row is not None]
        members = _members(tars[0])
        for row in rows:
            identity = str(row.get("id", ""))
            place = members.get(identity)
            label = f"{tars[0]}/{identity}"
            if place is None:
                made.skipped.append({"path": label, "reason": "missing"})
                continue
            start, duration = float(row.get("start") or 0.0), row.get("duration")
            group = str((row.get("recording") or {}).get("id", identity))
            loader = TarLoader(str(tars[0]), *place, start)
            made.append(
                Recording(identity, label, 0.0, None if duration is None else float(duration), None,
                          _fields(row.get("supervisions") or []), group, loader)
            )  # fmt: skip
    if not made:
        raise ValueError(f"the Shar shards in {folder} hold no audio; export them with fields={{'recording': 'flac'}}")
    return made


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Cut id -> (offset, size) of its audio in the tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {
                member.name.rpartition(".")[0]: (member.offset_data, member.size)
                for member in tar
                if member.isfile() and not member.name.endswith((".json", ".nodata", ".nometa"))
            }
    except (tarfile.TarError, OSError) as problem:
        raise ValueError(f"cannot read the shard {path}: {problem}") from None


@dataclass(frozen=True)
class TarLoader:
    """Audio of one member of a tar. start: seconds into the member where the recording begins."""

    path: str
    offset: int
    size: int
    start: float

    def __call__(self, start: float, seconds: float) -> tuple[Samples, int]:
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                data = stream.read(self.size)
        except OSError:
            raise BadAudio("missing") from None
        return read_frames(io.BytesIO(data), self.start + start, seconds)

    def identity(self) -> str:
        """Where in which state of the tar."""
        return repr((os.path.abspath(self.path), self.offset, self.size, self.start, file_state(self.path)))
