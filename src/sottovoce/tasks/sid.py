"""Speaker identification (SUPERB SID): which of the known speakers speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings
from sottovoce.data.draw import draw
from sottovoce.evaluation.kinds.classification import Classification, UtteranceHead, field
from sottovoce.evaluation.kinds.learned import Fold, Item, held_out
from sottovoce.evaluation.kinds.sessions import check_session, session_of


@TASKS.register("sid")
class SpeakerIdentification(Classification):
    """Speaker identification: which of the training speakers speaks; accuracy."""

    title = "Speaker identification"
    reads = "the speaker in a column 'speaker'"

    @dataclass(frozen=True)
    class Config(UtteranceHead):
        """SUPERB's values (s3prl, voxceleb1).

        session: a pattern that matches the recording session in a file's name. If it is given, the data's own splits are ignored
        (train and test often have different speakers). Each session is tested by a classifier that is trained on other sessions of the
        speakers, so that room and microphone do not reveal the speaker. In each of `folds` folds, one session of each speaker with
        two or more is the test set. One session of every third speaker with at least three is the dev set; if there is none, a tenth
        of the training recordings. Scores are over all folds together.
        """

        session: str = ""
        folds: int = 3

        def __post_init__(self) -> None:
            check_session(self.session)
            if self.folds < 2:
                raise ValueError("folds must be at least 2")

    def answers(self, recording: Recording) -> dict[str, str]:
        return {"speaker": field(recording, "speaker", "label")}

    def arrange(self, recordings: Recordings) -> Recordings:
        return with_sessions(recordings, self.config.session) if self.config.session else recordings

    def folds(self, splits: dict[str, list[Item]]) -> Iterator[Fold]:
        if not self.config.session:
            yield from super().folds(splits)
            return
        items = [item for part in splits.values() for item in part]
        turns = {id(item): int(item.piece.recording.fields["turn"]) for item in items}
        several = {item.group for item in items if turns[id(item)] >= 2}  # at least three sessions
        with_dev = set(sorted(several, key=draw)[::3])
        for fold in range(self.config.folds):
            parts: dict[str, list[Item]] = {"train": [], "dev": [], "test": []}
            for item in items:
                turn = turns[id(item)] % self.config.folds
                dev = turn == (fold + 1) % self.config.folds and item.group in with_dev
                parts["test" if turn == fold else "dev" if dev else "train"].append(item)
            if not parts["dev"]:
                held = held_out({item.piece.recording.id for item in parts["train"]})
                parts["dev"] = [item for item in parts["train"] if item.piece.recording.id in held]
                parts["train"] = [item for item in parts["train"] if item.piece.recording.id not in held]
            yield Fold(**parts)


def with_sessions(recordings: Recordings, pattern: str) -> Recordings:
    """The recordings of speakers with several sessions. A field ``turn`` numbers each speaker's sessions from 0. ValueError without any."""
    sessions: dict[str, set[str]] = {}
    for item in recordings:
        session = session_of(item, pattern)
        if session is not None and item.fields.get("speaker"):
            sessions.setdefault(item.fields["speaker"], set()).add(session)
    turns = {
        speaker: {name: i for i, name in enumerate(sorted(names, key=draw))}
        for speaker, names in sessions.items()
        if len(names) > 1
    }
    if len(turns) < 2:
        raise ValueError(f"session '{pattern}' finds no two speakers with two sessions each; it is matched against file names")
    arranged = Recordings(skipped=recordings.skipped)
    for item in recordings:
        session = session_of(item, pattern)
        if session is not None and item.fields.get("speaker", "") in turns:
            turn = turns[item.fields["speaker"]][session]
            arranged.append(replace(item, fields={**item.fields, "split": "", "turn": str(turn)}))
    return arranged
