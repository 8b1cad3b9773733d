"""Reads the speaker turns of a recording from its fields or from an RTTM file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from sottovoce.data.files import read_lines
from sottovoce.data.json_lines import MALFORMED
from sottovoce.data.recording import Recording, Skipped

Turn = tuple[float, float, str]


def turns_of(recording: Recording) -> list[Turn]:
    """(start, end, speaker) of every turn, in seconds into the recording, sorted by time.

    The field ``turns`` (JSON, ``[[start, end, speaker], ...]``) takes priority over the RTTM file in ``rttm``. Times in an RTTM file
    count from the start of the audio file; turns are cut to the recording. An RTTM file of several recordings must name this one by its
    audio file without the suffix, or by its id. Raises ValueError when both fields are missing or the turns are malformed.
    """
    if recording.fields.get("turns"):
        return _ordered(_from_json(recording))
    path = recording.fields.get("rttm")
    if not path:
        raise ValueError(
            f"{recording.id} has no speaker turns; add a column 'rttm' with the path of an RTTM file to its manifest"
        )
    turns_by_name = read_rttm(Path(path))
    names = (Path(recording.path).stem, recording.id, Path(recording.id).stem)
    turns = next((turns_by_name[name] for name in names if name in turns_by_name), None)
    if turns is None and len(turns_by_name) == 1:  # a file for one recording may use any name
        (turns,) = turns_by_name.values()
    if turns is None:
        raise ValueError(f"{path} has no turns for {names[0]}; use the audio file's name without its suffix as the second column")
    end = math.inf if recording.duration is None else recording.duration
    clipped = ((max(a - recording.start, 0.0), min(b - recording.start, end), who) for a, b, who in turns)
    return _ordered(turn for turn in clipped if turn[0] < turn[1])


def read_rttm(path: Path, skipped: list[Skipped] | None = None) -> dict[str, list[Turn]]:
    """Recording name -> turns, for all recordings of an RTTM file.

    Malformed lines are added to `skipped`; if `skipped` is None, they raise a ValueError. ValueError, too, when no line can be used.
    """
    try:
        lines = read_lines(path)
    except ValueError as problem:
        raise ValueError(
            f"cannot read the RTTM file {path} ({problem}); correct the path, which is relative to the manifest"
        ) from None
    turns: dict[str, list[Turn]] = {}
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells or cells[0] != "SPEAKER":  # comments and other types
            continue
        try:
            start, seconds, who = float(cells[3]), float(cells[4]), cells[7]
            turn = _turn(start, start + seconds, who)
        except (IndexError, ValueError):
            if skipped is not None:
                skipped.append({"path": f"{path}:{number}", "reason": MALFORMED})
                continue
            raise ValueError(
                f"line {number} of {path} is not RTTM; it must read: SPEAKER <file> 1 <start> <seconds> <NA> <NA> <speaker> <NA> <NA>"
            ) from None
        turns.setdefault(cells[1], []).append(turn)
    if not turns:
        raise ValueError(f"{path} has no line that begins with SPEAKER; give an RTTM file with one line for each turn")
    return turns


def turns_text(turns: Iterable[Turn]) -> str:
    """The turns as JSON for the field ``turns``."""
    return json.dumps([[round(start, 6), round(end, 6), who] for start, end, who in _ordered(turns)])


def _from_json(recording: Recording) -> list[Turn]:
    try:
        return [_turn(float(start), float(end), str(who)) for start, end, who in json.loads(recording.fields["turns"])]
    except (TypeError, ValueError):
        raise ValueError(
            f"the turns of {recording.id} cannot be read; write them as JSON: [[start, end, speaker], ...], in seconds"
        ) from None


def _turn(start: float, end: float, who: str) -> Turn:
    if not 0 <= start <= end < math.inf:
        raise ValueError("no stretch of time")
    return start, end, who


def _ordered(turns: Iterable[Turn]) -> list[Turn]:
    return sorted(turn for turn in turns if turn[0] < turn[1])
