"""Speaker identification (SUPERB SID): which of the known speakers is heard."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from sottovoce.data import Recording, Recordings
from sottovoce.registry import TASKS
from sottovoce.tasks.classification import Classification, Utterance, field
from sottovoce.tasks.probe import HELD_OUT, draw


@TASKS.register("sid")
class SpeakerIdentification(Classification):
    """Speaker identification: which of the training speakers is heard; accuracy."""

    title = "Speaker identification"
    reads = "the speaker in a column 'speaker'"

    @dataclass(frozen=True)
    class Config(Utterance):
        """SUPERB's values (s3prl, voxceleb1).

        session: a pattern that reads the recording session off a file's name. Where it is given, the data's own splits are set aside
        (speakers of train and test are often disjoint, and then nothing can be identified): of every speaker with two sessions or
        more, one is for testing, with three or more another one is the dev set, and the others are for training, so that the room and
        the microphone do not give the speaker away. Of speakers with two sessions a tenth of the training recordings is dev.
        """

        session: str = ""

    def answers(self, recording: Recording) -> dict[str, str]:
        return {"speaker": field(recording, "speaker", "label")}

    def arrange(self, recordings: Recordings) -> Recordings:
        return by_session(recordings, self.config.session) if self.config.session else recordings


def by_session(recordings: Recordings, pattern: str) -> Recordings:
    """The recordings of speakers with several sessions, split anew; see `SpeakerIdentification.Config`. ValueError when there are none."""
    try:
        session = re.compile(pattern)
    except re.error as problem:
        raise ValueError(f"session '{pattern}' is not a regular expression: {problem}") from None
    heard: dict[str, set[str]] = {}
    for item in recordings:
        found = session.search(Path(item.id).stem)
        if found and item.fields.get("speaker"):
            heard.setdefault(item.fields["speaker"], set()).add(found.group())
    dealt = {
        speaker: dict(zip(sorted(names, key=draw), ("test", "dev" if len(names) > 2 else "train"), strict=False))
        for speaker, names in heard.items()
        if len(names) > 1
    }
    if len(dealt) < 2:
        raise ValueError(f"session '{pattern}' finds no two speakers with two sessions each; it is matched against file names")
    made = Recordings(skipped=recordings.skipped)
    for item in recordings:
        found = session.search(Path(item.id).stem)
        sessions = dealt.get(item.fields.get("speaker", ""))
        if found and sessions:
            split = sessions.get(found.group(), "train")
            if split == "train" and "dev" not in sessions.values() and draw(item.id) < HELD_OUT:
                split = "dev"
            made.append(replace(item, fields={**item.fields, "split": split}))
    return made
