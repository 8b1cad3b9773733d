"""Base class of tasks that a whole model does: what it writes for a recording is compared with a text."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.kinds.classification import field
from sottovoce.evaluation.kinds.learned import Item, LabelledTask, Rows, Unusable, summary
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.kinds.transcripts import Transcript, Transcripts, transcribe
from sottovoce.evaluation.statistics.texts import language_code, normalizer
from sottovoce.evaluation.subjects.subject import Subject

AUTO = "auto"
FOLDER = "transcripts"
WORST = 10  # recordings that are listed


@dataclass(frozen=True)
class Written:
    """The reference of a recording: its text in the form that is compared, and the language that is spoken, a code or ""."""

    text: str
    language: str


class HostTask(LabelledTask):
    """Lets the whole model, decoder or head included, write a text for each recording of the test split, or of data without splits. It
    trains nothing, and has no seeds. A task's file defines `does`, `column`, `count` and `scores`, and a Config with `decoding` and
    `normalize`.

    does: what a host is asked for. column: of the reference. written: the language of the texts, "" for that of the speech.
    """

    needs = "host"
    does: ClassVar[Literal["transcribe", "translate"]]
    column: ClassVar[str]
    written: ClassVar[str] = ""

    def count(self, hypothesis: str, reference: str) -> tuple[float, ...]:
        """The numbers of one recording, which `scores` sums. Both texts are normalised."""
        raise TypeError(f"{type(self).__name__} must define count")

    def language(self, recording: Recording) -> str:
        """The code of the language that is spoken: the setting, else the recording's field `language` or `locale`; "" if unknown."""
        option = self.config.decoding.language
        fields = recording.fields
        return language_code((fields.get("language") or fields.get("locale") or "") if option in ("", AUTO) else option)

    def target(self, recording: Recording) -> Written:
        language = self.language(recording)
        text = self.form(language)(field(recording, self.column))
        if not text:
            raise Unusable(f"no words in the {self.column}")
        return Written(text, language)

    def form(self, language: str) -> Any:
        """The normaliser of texts of recordings in this language."""
        return normalizer(self.config.normalize, self.written or language)

    def check(self, recordings: Recordings) -> None:
        splits, skipped = self.items(self.arrange(recordings))
        self.tested(splits, skipped)

    def measure(self, subject: Subject, recordings: Recordings, bench: Workbench) -> Outcome:
        splits, skipped = self.items(self.arrange(recordings))
        items = self.tested(splits, skipped)
        host, auto = subject.host, self.config.decoding.language == AUTO
        languages = ["" if auto else item.target.language for item in items]
        for language in sorted(set(languages)):
            host.asked(self.does, language, self.config.decoding.beams)  # what it cannot do, it says before anything is decoded
        began = time.monotonic()
        transcripts = self.transcripts(subject, bench)
        skipped += transcribe(
            host,
            [item.piece for item in items],
            languages,
            self.config.decoding,
            self.does,
            transcripts,
            lambda done, total: bench.progress("decoding", done, total),
        )
        middle = time.monotonic()
        pairs = [(item, transcripts.kept[item.piece.key]) for item in items if item.piece.key in transcripts.kept]
        if not pairs:
            raise ValueError(f"none of the test recordings can be used for {self.name}; see what was skipped and why")
        rows = np.array(
            [self.count(self.form(item.target.language)(each.text), item.target.text) for item, each in pairs], dtype=np.float64
        )
        groups = [item.group for item, _ in pairs]
        measures = self.measures([rows], groups)
        return Outcome(
            measures=measures,
            data=summary({"test": [item for item, _ in pairs]}),
            seconds={"decoding": middle - began, "scoring": time.monotonic() - middle},
            details={
                **self.facts(rows, [item for item, _ in pairs], [each for _, each in pairs]),
                "host": {
                    "kind": host.name,
                    "params": sum({weight.data_ptr(): weight.numel() for weight in host.parameters()}.values()),  # tied ones once
                    "fingerprint": subject.host_fingerprint,
                },
                **({} if transcripts.path is None else {"transcripts": transcripts.path.name}),
            },
            skipped=skipped,
            rows=[rows],
            groups=groups,
        )

    def transcripts(self, subject: Subject, bench: Workbench) -> Transcripts:
        """Those that are kept in the folder of results, named by the model and a digest of all that decides the texts."""
        if bench.out is None:
            return Transcripts(None)
        digest = hashlib.sha256(repr((subject.host_fingerprint, self.does, asdict(self.config.decoding))).encode()).hexdigest()
        name = re.sub(r"[^\w.-]+", "-", subject.name)
        return Transcripts(bench.out / FOLDER / f"{name}-{self.does}-{digest[:8]}.jsonl")

    def facts(self, rows: Rows, items: Sequence[Item], transcripts: Sequence[Transcript]) -> dict[str, Any]:
        """For the record: scores by language, the worst recordings, and seconds of computing per second of audio, of the encoder and of
        the whole host, as they were when the recordings were decoded, in batches."""
        names = np.array([item.target.language or "und" for item in items])
        languages = {
            str(name): {
                **{
                    metric.name: _rounded(value)
                    for metric, value in zip(self.metrics, self.scores(rows[names == name]), strict=True)
                },
                "items": int((names == name).sum()),
            }
            for name in np.unique(names)
        }
        audio = sum(each.audio for each in transcripts)
        seconds = {key: round(sum(getattr(each, key) for each in transcripts) / audio, 4) for key in ("encoder", "host")}
        return {
            **({"languages": languages} if len(languages) > 1 or "und" not in languages else {}),
            "worst": self.worst(rows, [each.recording for each in transcripts]),
            "seconds_per_second": seconds,
            "cut": sum(each.cut > 1 for each in transcripts),
        }

    def worst(self, rows: Rows, names: Sequence[str]) -> list[dict[str, Any]]:
        """The recordings with the worst values of the first metric."""
        values = [self.metrics[0].sign * self.scores(row[None])[0] for row in rows]
        order = sorted(range(len(rows)), key=lambda i: (values[i], names[i]))[:WORST]
        return [{"recording": names[i], self.metrics[0].name: _rounded(self.metrics[0].sign * values[i])} for i in order]


def _rounded(value: float) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 4)
