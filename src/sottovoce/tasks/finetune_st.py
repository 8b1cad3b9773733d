"""Speech-to-text translation with a fine-tuned encoder and a text decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.data import Recording, Recordings
from sottovoce.probing.beam import beam_search
from sottovoce.probing.decoder import Adapter, Decoder, PretrainedDecoder
from sottovoce.probing.metrics import CorpusScore
from sottovoce.probing.tuning import Tuned, Tuning
from sottovoce.probing.units import Characters, Pretrained, SubWords, Units
from sottovoce.registry import TASKS
from sottovoce.tasks.base import Metric, leading
from sottovoce.tasks.classification import field
from sottovoce.tasks.finetune import FineTuned
from sottovoce.tasks.learned import Fold, Item, LearnedTask, Rows

IGNORED = -100


@dataclass(frozen=True)
class Translating:
    """How speech is translated. Sizes are those of fairseq's small S2T Transformer, characters those of CoVoST 2's baselines.

    target: the language to translate into, for data with several; "": the column 'translation'. units: characters, or "bpe": at most
    `vocabulary` sub-words, learned from the training translations. stride: so many frames become one before the decoder.
    decoder: "" for a Transformer of our own, of dim, layers, heads, ffn_dim and dropout; or a model of transformers, by name or folder,
    with its own tokens and sizes. smoothing: of labels. beam: hypotheses kept on the test set (the dev set: greedy search). length_penalty:
    a hypothesis is scored by log-probability / tokens ** length_penalty. max_tokens: most tokens said; never more than half
    as many again as the longest training translation. tokenize: sacrebleu's for BLEU, "zh" or "ja-mecab" for instance.
    """

    training: Tuning = Tuning()
    primary: Literal["bleu", "chrf"] = "bleu"
    target: str = ""
    units: Literal["characters", "bpe"] = "characters"
    vocabulary: int = 1000
    stride: int = 4
    decoder: str = ""
    dim: int = 256
    layers: int = 6
    heads: int = 4
    ffn_dim: int = 2048
    dropout: float = 0.1
    smoothing: float = 0.1
    beam: int = 5
    length_penalty: float = 1.0
    max_tokens: int = 512
    tokenize: str = "13a"

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice the heads ({self.heads})")
        if min(self.beam, self.layers, self.max_tokens) < 1 or self.length_penalty < 0:
            raise ValueError("beam, layers and max_tokens must be at least 1, length_penalty at least 0")


@dataclass(frozen=True)
class Reference:
    """A translation: as text, and for training as tokens without start and end."""

    text: str
    ids: list[int]


class Translation(LearnedTask):
    """Translation of what is said, by a decoder that attends to the encoder's frames. BLEU and chrF by sacrebleu.

    With a `target`, a recording's translation is its field ``translation_TARGET``, else what any recording of the same ``sentence`` in
    that language (its ``language`` or ``locale``) has as ``text``; recordings in the target language are left out.
    """

    reads = (
        "the translation in a column 'translation' (or, with the option target, the text of the same 'sentence' in that language)"
    )
    metrics: tuple[Metric, ...] = (Metric("bleu", ""), Metric("chrf", ""))
    units: Units

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.metrics = leading(self.metrics, config.primary)

    def arrange(self, recordings: Recordings) -> Recordings:
        target = self.config.target
        if not target:
            return recordings
        texts = {
            item.fields["sentence"]: item.fields["text"]
            for item in recordings
            if target in _languages(item) and item.fields.get("sentence") and item.fields.get("text")
        }
        made = Recordings(skipped=recordings.skipped)
        for item in recordings:
            if target not in _languages(item):
                own = item.fields.get(f"translation_{target}", "") or texts.get(item.fields.get("sentence", ""), "")
                made.append(replace(item, fields={**item.fields, "translation": own}))
        return made

    def target(self, recording: Recording) -> str:
        return " ".join(field(recording, "translation").split())

    def prepare(self, fold: Fold) -> Fold:
        config = self.config
        self.bleu = CorpusScore(
            "BLEU", tokenize=config.tokenize, force=True
        )  # force: no warning of weak models' spaced full stops
        self.chrf = CorpusScore("CHRF")
        texts = [item.target for item in fold.train]
        if config.decoder:
            self.units = Pretrained(config.decoder)
        else:
            self.units = SubWords(texts, config.vocabulary) if config.units == "bpe" else Characters(texts)

        def spelled(items: list[Item]) -> list[Item]:
            return [replace(item, target=Reference(item.target, self.units.encode(item.target))) for item in items]

        train = spelled(fold.train)
        self.longest = min(config.max_tokens, round(1.5 * max(len(item.target.ids) for item in train)) + 1)
        return super().prepare(Fold(train, spelled(fold.dev), spelled(fold.test)))

    def head(self, dim: int) -> nn.Module:
        return Translator(dim, self.units, self.config)

    def loss(self, outputs: Heard, lengths: Tensor, targets: list[Reference]) -> Tensor:
        """Cross-entropy with smoothed labels, the mean over all tokens of the batch and their ends."""
        start, end = self.units.start, self.units.end
        ids = [target.ids[: self.longest] for target in targets]
        read = padded([[start, *each] for each in ids], end, lengths.device)
        wanted = padded([[*each, end] for each in ids], IGNORED, lengths.device)
        logits = outputs.decoder(read, outputs.memory, outputs.frames)
        return F.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, label_smoothing=self.config.smoothing
        )

    def count(self, outputs: Heard, lengths: Tensor, targets: list[Reference]) -> Rows:
        """(B, parts of BLEU, then of chrF)."""
        said = self.said(outputs)
        rows = [
            [*self.bleu.parts(text, target.text), *self.chrf.parts(text, target.text)]
            for text, target in zip(said, targets, strict=True)
        ]
        return np.array(rows, dtype=np.float64)

    def said(self, outputs: Heard) -> list[str]:
        """What is understood, as text."""
        decoder, memory = outputs.decoder, outputs.memory
        state = decoder.begin(memory, outputs.frames)
        limits = [self.longest] * len(memory)
        found = beam_search(decoder, state, limits, outputs.beam, self.config.length_penalty, memory.device)
        return [self.units.decode(ids) for ids, _ in found]

    def scores(self, rows: Rows) -> tuple[float, ...]:
        middle = self.bleu.width
        found = {"bleu": self.bleu.score(rows[:, :middle]), "chrf": self.chrf.score(rows[:, middle : middle + self.chrf.width])}
        return tuple(found[metric.name] for metric in self.metrics)

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """The signatures of sacrebleu, to be published beside the scores, and how many units there are."""
        signatures = {"bleu": self.bleu.signature, "chrf": self.chrf.signature}
        return {"signatures": signatures, "units": self.units.size, "longest": self.longest}


@TASKS.register("finetune-st")
class SpeechTranslation(FineTuned, Translation):
    """Speech translation, encoder fine-tuned: a Transformer decoder, beam search; BLEU and chrF, means over source languages."""

    title = "Speech translation"
    Config = Translating

    def ready(self, model: Tuned) -> Tuned:
        assert isinstance(model.head, Translator)
        model.head.beam = self.config.beam
        return model


@dataclass(frozen=True)
class Heard:
    """What a decoder attends to: (B, T, D) and (B,) frames; and the width of a search in it."""

    memory: Tensor
    frames: Tensor
    decoder: Any
    beam: int


class Translator(nn.Module):
    """Adapter and decoder. The decoder runs in the loss, which knows what was said before, and in the search."""

    def __init__(self, dim: int, units: Units, config: Translating) -> None:
        super().__init__()
        self.decoder: Decoder | PretrainedDecoder
        if config.decoder:
            self.decoder = PretrainedDecoder(config.decoder, units.start, units.end)
        else:
            sizes = (config.dim, config.layers, config.heads, config.ffn_dim, config.dropout)
            self.decoder = Decoder(units.size, units.start, units.end, *sizes)
        self.adapter = Adapter(dim, self.decoder.width, config.stride)
        self.beam = 1

    def forward(self, x: Tensor, lengths: Tensor) -> Heard:
        memory, frames = self.adapter(x, lengths)
        return Heard(memory, frames, self.decoder, self.beam)


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """(B, longest) of rows filled up with `value`."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row, device=device) for row in rows], True, value)


def _languages(item: Recording) -> set[str]:
    return {item.fields.get("language", ""), item.fields.get("locale", "")}
