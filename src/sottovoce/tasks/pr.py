"""Phone recognition (SUPERB PR): the sequence of phones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings
from sottovoce.data.manifests import read_lines
from sottovoce.data.phones import phones
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.classification import field
from sottovoce.evaluation.kinds.ctc import CTC, FrameClassifier
from sottovoce.evaluation.kinds.probing import Fold, Rows, Unusable
from sottovoce.evaluation.kinds.task import Metric
from sottovoce.evaluation.statistics.bootstrap import ratio
from sottovoce.evaluation.statistics.metrics import token_errors
from sottovoce.evaluation.statistics.texts import normalized

Source = Literal["auto", "phones", "lexicon", "espeak"]


@TASKS.register("pr")
class PhoneRecognition(CTC):
    """Phone recognition: a linear head with CTC; phone error rate.

    All phones of a run come from one source, since sources have different phone sets: the field ``phones`` (separated by spaces), a
    lexicon, or espeak-ng for the field ``text`` in the field ``language`` (default: English).
    """

    title = "Phone recognition"
    reads = "phones in a column 'phones', or the transcript in a column 'text'"
    superb = Training(lrs=(1e-2,), steps=100_000, batch=32, evaluate_every=1_000)
    short = Training(lrs=(3e-3, 1e-2), passes=20, batch=8, patience=6, layers_lr=0.03, standardize=True)
    metrics = (Metric("per", better="lower"),)

    @dataclass(frozen=True)
    class Config:
        """SUPERB's values (s3prl, ctc/libriphone), with its 16 x 2 accumulated utterances in one batch of 32.

        g2p: source of phones; "auto" uses the field ``phones`` if any recording has it, else the lexicon if there is one, else espeak-ng.
        lexicon: files of lines ``WORD  P1 P2 ...``; the first line of a word counts, and utterances with unknown words are skipped.
        SUPERB reads librispeech-lexicon-200k-g2p.txt and librispeech-lexicon-allothers-g2p.txt. stress: keep the digits that mark stress
        in a lexicon (AH0, AH1), as SUPERB does.
        """

        training: Training = Training()
        projector: int = 256
        g2p: Source = "auto"
        lexicon: tuple[str, ...] = ()
        stress: bool = True
        max_seconds: float | None = None

        def __post_init__(self) -> None:
            if self.g2p == "lexicon" and not self.lexicon:
                raise ValueError("g2p is 'lexicon' but there is no lexicon: name a file in 'lexicon'")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.source: Source = config.g2p
        self.lexicon: dict[str, list[str]] = {}

    def files(self) -> Sequence[str]:
        return tuple(self.config.lexicon)

    def arrange(self, recordings: Recordings) -> Recordings:
        if self.config.g2p == "auto":
            has_phones = any(recording.fields.get("phones") for recording in recordings)
            self.source = "phones" if has_phones else "lexicon" if self.config.lexicon else "espeak"
        if self.source == "lexicon":
            self.lexicon = read_lexicon(self.config.lexicon, self.config.stress)
        if self.source != "espeak":
            return recordings
        texts: dict[str, list[str]] = {}  # by language
        for recording in recordings:
            if recording.fields.get("text", "").strip():
                texts.setdefault(_language(recording), []).append(recording.fields["text"])
        transcripts = {language: iter(phones(each, language)) for language, each in texts.items()}
        return Recordings(
            (
                replace(item, fields={**item.fields, "phones": " ".join(next(transcripts[_language(item)]))})
                if item.fields.get("text", "").strip()
                else item
                for item in recordings
            ),
            recordings.skipped,
            recordings.trials,
        )

    def target(self, recording: Recording) -> list[str]:
        if self.source != "lexicon":
            return field(recording, "phones").split()
        words = normalized(field(recording, "text")).split()
        for word in words:
            if word not in self.lexicon:
                raise Unusable(f"{word} is not in the lexicon")
        return [phone for word in words for phone in self.lexicon[word]]

    def tokens(self, answer: list[str]) -> list[str]:
        return answer

    def head(self, dim: int) -> nn.Module:
        return FrameClassifier(dim, len(self.alphabet) + 1, self.config.projector)

    def errors(self, answer: list[str], tokens: list[str]) -> tuple[float, ...]:
        return token_errors(answer, tokens)

    def scores(self, rows: Rows) -> tuple[float, ...]:
        return (ratio(rows),)

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        return {**super().details(fold, rows), "phones_from": self.source}


def _language(recording: Recording) -> str:
    return recording.fields.get("language", "").strip() or "en"


def read_lexicon(files: tuple[str, ...], stress: bool = True) -> dict[str, list[str]]:
    """Word in upper case -> phones of its first pronunciation. ValueError for a file that is no lexicon."""
    lexicon: dict[str, list[str]] = {}
    for name in files:
        entries = [entry for entry in map(str.split, read_lines(Path(name))) if len(entry) > 1]
        if not entries:
            raise ValueError(f"{name} is no lexicon; its lines must read: WORD  P1 P2 ...")
        for word, *spoken in entries:
            lexicon.setdefault(word.upper(), spoken if stress else [re.sub(r"\d$", "", phone) for phone in spoken])
    return lexicon
