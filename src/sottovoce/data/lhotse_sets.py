"""Reads Lhotse cuts and Shar shards.

Our own decoder reads cuts that are a stretch of one audio file, and all items of Shar shards: it seeks, names the fault of a bad file,
and does not need lhotse. Lhotse reads the other cuts (mixed, resampled, speed-perturbed, with audio in the manifest). Cuts whose audio is
a command or an address are skipped unless the user allows them.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from sottovoce.data import columns
from sottovoce.data.decode import BadAudio, header_seconds, read_frames
from sottovoce.data.files import MISSING, NOT_TEXT, fault, is_text, open_regular, printable, reason
from sottovoce.data.headers import Stitched
from sottovoce.data.json_lines import MALFORMED, UnusableRow, json_rows
from sottovoce.data.recording import Recording, Recordings, Samples, count_reasons, file_state

TYPES = {"MonoCut", "MultiCut", "MixedCut", "PaddingCut", "Cut"}


def is_cut(row: Mapping[str, Any]) -> bool:
    return row.get("type") in TYPES or {"id", "start", "duration", "recording"} <= row.keys()


def read_cuts(path: Path, allow_commands: bool = False) -> Recordings:
    """Cuts of a ``.jsonl`` or ``.jsonl.gz`` manifest. Skips cuts whose audio or impulse response is a command or an address, unless
    `allow_commands`. ValueError when the manifest needs lhotse and lhotse cannot be imported, and when no row can be used."""
    recordings = Recordings()
    for number, row in json_rows(path):
        where = f"{path}:{number}"
        try:
            if isinstance(row, str):
                raise UnusableRow(row)
            if why := "" if allow_commands else outside(row):
                raise UnusableRow(why)
            item = _simple(row, path) or _foreign(row, path, where)
            if not all(map(is_text, (item.id, *item.fields.values()))):
                raise UnusableRow(NOT_TEXT)
            recordings.append(item)
        except UnusableRow as problem:
            recordings.skipped.append({"path": where, "reason": str(problem)})
    if not recordings:
        raise ValueError(f"{path} has no usable rows ({count_reasons(recordings.skipped)})")
    return recordings


def outside(row: Any) -> str:
    """Reason why lhotse would run, fetch or unpickle something for a cut, anywhere in it; empty when it would not."""
    stack = [row]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            stack += value.values()
            kind = value.get("type")
            if "source" in value and ("channels" in value or kind in ("file", "command", "url", "memory", "shar")):
                if kind == "command":
                    return "its audio is a command, which is not run without --allow-commands"
                if kind == "url" or (kind == "file" and "://" in str(value["source"])):
                    return "its audio is an address, which is not fetched without --allow-commands"
                if kind not in ("file", "memory", "shar"):
                    return f"{MALFORMED}: an unknown kind of source"
    return ""


def _simple(row: Mapping[str, Any], manifest: Path) -> Recording | None:
    """The recording of a cut that is one channel of one unchanged file; None for other cuts. Raises UnusableRow."""
    try:
        recording = row["recording"]
        (source,) = recording["sources"]
        if row["type"] != "MonoCut" or recording.get("transforms") or source["type"] != "file":
            return None
        file, index = str(source["source"]), source["channels"].index(row["channel"])
        identity, start, duration = str(row["id"]), row["start"], row["duration"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if not os.path.isabs(file) and not os.path.exists(file) and "\0" not in file and os.path.exists(manifest.parent / file):
        file = os.path.join(manifest.parent, file)
    begin, length = _time(start, "start"), _time(duration, "duration")
    fields = _fields(row.get("supervisions") or [])
    return Recording(printable(identity), file, begin or 0.0, length or None, index, fields, str(recording.get("id", file)))


def _time(value: Any, name: str) -> float | None:
    try:
        return columns.number(value, name)
    except ValueError as problem:
        raise UnusableRow(f"{MALFORMED}: {problem}") from None


def _fields(supervisions: Any) -> dict[str, str]:
    """Speaker, language and gender of the first supervision, and the texts of all, joined."""
    rows = [row for row in supervisions if isinstance(row, dict)] if isinstance(supervisions, list) else []
    fields = {key: str(rows[0][key]) for key in ("speaker", "language", "gender") if rows and rows[0].get(key)}
    texts = [str(row["text"]) for row in rows if row.get("text")]
    return {**fields, "text": " ".join(texts)} if texts else fields


def _foreign(row: Mapping[str, Any], path: Path, where: str) -> Recording:
    """The recording of a cut that lhotse reads. Raises UnusableRow; ValueError when lhotse cannot be imported."""
    if not is_cut(row) or "id" not in row:
        raise UnusableRow(MALFORMED)
    try:
        import lhotse  # noqa: F401
        from lhotse.serialization import deserialize_item
    except ImportError as problem:
        raise ValueError(
            f"{path} has cuts that only lhotse can read, and importing it failed ({problem}); install lhotse with all it needs"
        ) from None
    files = tuple(dict.fromkeys(_files(row)))
    try:
        cut = deserialize_item(copy.deepcopy(row))
        fields = _fields([vars(supervision) for supervision in cut.supervisions])
        group = cut.recording_id if hasattr(cut, "recording_id") else cut.id
        seconds = _time(float(cut.duration), "duration")
    except UnusableRow:
        raise
    except Exception as problem:  # lhotse raises many kinds of errors for a bad cut
        raise UnusableRow(f"{MALFORMED}: lhotse does not read it ({type(problem).__name__})") from None
    return Recording(printable(str(row["id"])), where, 0.0, seconds or None, None, fields, str(group), CutLoader(cut, files))


@dataclass(frozen=True)
class CutLoader:
    """Loader of a cut that lhotse reads (see `Recording.loader`). files: all audio files that the cut names."""

    cut: Any
    files: tuple[str, ...] = ()

    def __call__(self, start: float, seconds: float) -> tuple[Samples, int]:
        for path in self.files:
            if why := fault(path):  # lhotse would block on a pipe
                raise BadAudio(why)
        rate = int(self.cut.sampling_rate)
        audio = np.atleast_2d(self.cut.load_audio()).T  # (frames, channels)
        first = round(start * rate)
        last = None if seconds == float("inf") else first + int(np.ceil(seconds * rate)) + 1
        return audio[first:last].astype(np.float32, copy=False), rate

    def seconds(self) -> float | None:
        """Seconds from the start of the cut to the end of its shortest file; None when the cut changes the audio. Raises BadAudio."""
        recording = getattr(self.cut, "recording", None)
        if recording is None or recording.transforms or any(source.type != "file" for source in recording.sources):
            return None
        return max(min(map(header_seconds, self.files)) - self.cut.start, 0.0)

    def identity(self) -> str:
        """Hash of the cut's description and the state of its files."""
        description = json.dumps(self.cut.to_dict(), sort_keys=True, default=str)
        states = [file_state(path) for path in self.files]
        return hashlib.blake2b(repr((description, states)).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _files(data: Any) -> Iterator[str]:
    """Yield every audio file that a cut names."""
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
    recordings = Recordings()
    for cuts in sorted(folder.glob("cuts.*.jsonl*")):
        shard = cuts.name.split(".")[1]
        tars = sorted(folder.glob(f"recording.{shard}.tar*"))
        if len(tars) != 1 or tars[0].name.endswith(".gz"):
            raise ValueError(
                f"{cuts} has no recording.{shard}.tar beside it; export the shards with fields={{'recording': 'flac'}}, uncompressed"
            )
        members = _members(tars[0])
        named: set[str] = set()
        for number, row in json_rows(cuts):
            try:
                if isinstance(row, str):
                    raise UnusableRow(row)
                item = _shard_item(row, tars[0], members)
            except UnusableRow as problem:
                recordings.skipped.append({"path": f"{cuts}:{number}", "reason": str(problem)})
                continue
            named.add(str(row["id"]))
            if item is None:
                recordings.skipped.append({"path": f"{tars[0]}/{row['id']}", "reason": MISSING})
            else:
                recordings.append(item)
        if rest := len(members.keys() - named):
            recordings.note(tars[0], f"{rest} recordings are not used because {cuts.name} does not list them")
    if not recordings:
        raise ValueError(f"the Shar shards in {folder} hold no audio; export them with fields={{'recording': 'flac'}}")
    return recordings


def _shard_item(row: Mapping[str, Any], tar: Path, members: Mapping[str, tuple[int, int]]) -> Recording | None:
    """The recording of one cut; None when the tar has no audio for it. Raises UnusableRow."""
    recording = row.get("recording") or {}
    if not isinstance(row.get("id"), (str, int)) or not isinstance(recording, dict):
        raise UnusableRow(MALFORMED)
    identity = str(row["id"])
    start, duration = _time(row.get("start"), "start") or 0.0, _time(row.get("duration"), "duration")
    fields = _fields(row.get("supervisions") or [])
    if not all(map(is_text, (identity, *fields.values()))):
        raise UnusableRow(NOT_TEXT)
    if identity not in members:
        return None
    loader = TarLoader(str(tar), *members[identity], start)
    return Recording(
        identity, f"{tar}/{identity}", 0.0, duration or None, None, fields, str(recording.get("id", identity)), loader
    )


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Cut id -> (offset, size) of its audio in the tar."""
    try:
        with open_regular(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            return {
                member.name.rpartition(".")[0]: (member.offset_data, member.size)
                for member in tar
                if member.isfile() and not member.name.endswith((".json", ".nodata", ".nometa"))
            }
    except (tarfile.TarError, OSError, ValueError) as problem:
        raise ValueError(f"cannot read the shard {path}: {problem}") from None


@dataclass(frozen=True)
class TarLoader:
    """Loader of one member of a tar. offset, size: its bytes. start: where the recording begins in it, seconds."""

    path: str
    offset: int
    size: int
    start: float

    def __call__(self, start: float, seconds: float) -> tuple[Samples, int]:
        with self._open() as stream:
            return read_frames(stream, self.start + start, seconds)

    def seconds(self) -> float:
        """Seconds from the start of the recording to the end of the member. Raises BadAudio."""
        with self._open() as stream:
            return max(header_seconds(stream) - self.start, 0.0)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            stream = open_regular(self.path)
        except OSError as problem:
            raise BadAudio(reason(problem)) from None
        with stream:
            end = stream.seek(0, os.SEEK_END)
            span = (min(self.offset, end), min(self.offset + self.size, end))
            yield cast(BinaryIO, io.BufferedReader(Stitched(stream, [span]), 2**16))

    def identity(self) -> str:
        """Position in the tar, and the state of the tar."""
        return repr((os.path.abspath(self.path), self.offset, self.size, self.start, file_state(self.path)))
