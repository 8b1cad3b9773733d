"""Who speaks when: the turns of a recording, from its fields or from an RTTM file."""

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
    """(start, end, speaker) of every turn, in seconds into the recording, in order of time.

    From the field ``turns`` (JSON, ``[[start, end, speaker], ...]``) or, without it, from the RTTM file that the field ``rttm`` names;
    an RTTM file counts from the start of the audio file, and what lies outside the recording is cut off. An RTTM file of several
    recordings has this one under the name of the audio file without its suffix, or under the recording's id.
    Raises ValueError when the recording has neither field, and when what it has is broken.
    """
    if recording.fields.get("turns"):
        return _ordered(_from_json(recording))
    path = recording.fields.get("rttm")
    if not path:
        raise ValueError(
            f"nothing says who speaks when in {recording.id}; give its manifest a column 'rttm' with the path of an RTTM file"
        )
    everyone = read_rttm(Path(path))
    names = (Path(recording.path).stem, recording.id, Path(recording.id).stem)
    chosen = next((everyone[name] for name in names if name in everyone), None)
    if chosen is None and len(everyone) == 1:  # a file for this recording alone may call it anything
        (chosen,) = everyone.values()
    if chosen is None:
        raise ValueError(
            f"{path} says nothing about {names[0]}; use the audio file's name without its suffix as the second column"
        )
    end = math.inf if recording.duration is None else recording.duration
    moved = ((max(a - recording.start, 0.0), min(b - recording.start, end), who) for a, b, who in chosen)
    return _ordered(turn for turn in moved if turn[0] < turn[1])


def read_rttm(path: Path, skipped: list[Skipped] | None = None) -> dict[str, list[Turn]]:
    """Turns of every recording of an RTTM file, by the recording's name.

    A broken line goes into `skipped`; without that, and when no line can be used, it is a ValueError that names the line.
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
        if not cells or cells[0] != "SPEAKER":  # comments, and the types that say nothing of turns
            continue
        try:
            start, seconds, who = float(cells[3]), float(cells[4]), cells[7]
            turn = _turn(start, start + seconds, who)
        except (IndexError, ValueError):
            if skipped is not None:
                skipped.append({"path": f"{path}:{number}", "reason": MALFORMED})
                continue
            raise ValueError(
                f"line {number} of {path} is no RTTM; it must read: SPEAKER <file> 1 <start> <seconds> <NA> <NA> <speaker> <NA> <NA>"
            ) from None
        turns.setdefault(cells[1], []).append(turn)
    if not turns:
        raise ValueError(f"{path} has no line that begins with SPEAKER; give an RTTM file with one line for each turn")
    return turns


def turns_text(turns: Iterable[Turn]) -> str:
    """What goes into the field ``turns``."""
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
