"""Emotion recognition (SUPERB ER), over folds of speakers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording
from sottovoce.data.draw import draw
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.classification import Classification, UtteranceHead, field
from sottovoce.evaluation.kinds.probing import Fold, Item


@TASKS.register("er")
class EmotionRecognition(Classification):
    """Emotion recognition on speakers who are not in the training data; accuracy over all folds."""

    title = "Emotion recognition"
    reads = "the emotion in a column 'label' (and 'fold' or 'speaker', to make folds of)"

    superb = Training(lrs=(1e-4,), steps=30_000, batch=32, evaluate_every=1_000)

    @dataclass(frozen=True)
    class Config(UtteranceHead):
        """SUPERB's values (s3prl, iemocap): five folds, and a fifth of the training folds as dev set.

        folds: 0 uses the data's own split; otherwise a column 'fold' is used or, without one, speakers are divided into `folds` folds.
        """

        folds: int = 5
        dev_share: float = 0.2

    def answers(self, recording: Recording) -> dict[str, str]:
        return {"emotion": field(recording, "label")}

    def folds(self, splits: dict[str, list[Item]]) -> Iterator[Fold]:
        if not self.config.folds:
            yield from super().folds(splits)
            return
        everything = [item for items in splits.values() for item in items]
        named = {id(item): item.piece.recording.fields.get("fold", "") for item in everything}
        if not all(named.values()):
            speakers = sorted({item.group for item in everything})
            if len(speakers) < self.config.folds or "" in speakers:
                raise ValueError(
                    f"er cannot make {self.config.folds} folds of {len(speakers)} speakers; name them in a column 'speaker' or 'fold', "
                    "or set folds: 0 to use the data's own split"
                )
            named = {id(item): str(speakers.index(item.group) % self.config.folds) for item in everything}
        for fold in sorted(set(named.values())):
            others = [item for item in everything if named[id(item)] != fold]
            dev = {id(item) for item in others if draw(item.piece.recording.id) < self.config.dev_share}
            yield Fold(
                [item for item in others if id(item) not in dev],
                [item for item in others if id(item) in dev],
                [item for item in everything if named[id(item)] == fold],
            )
