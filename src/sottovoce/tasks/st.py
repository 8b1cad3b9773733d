"""Speech translation (SUPERB-SG ST) with a text decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording, Recordings
from sottovoce.evaluation.heads.beam import beam_search
from sottovoce.evaluation.heads.decoder import Adapter, Decoder, PretrainedDecoder, SpeechContext
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.heads.text_units import Characters, PretrainedTokens, SubWords, Units
from sottovoce.evaluation.kinds.classification import field
from sottovoce.evaluation.kinds.learned import Fold, Item, LearnedTask, Model, Rows
from sottovoce.evaluation.kinds.probing import ProbeTask
from sottovoce.evaluation.kinds.task import Metric, leading
from sottovoce.evaluation.statistics.metrics import CorpusScore

IGNORED = -100


@dataclass(frozen=True)
class Translating:
    """Settings of translation. Defaults: SUPERB-SG's (Tsai et al. 2022; s3prl's, whose model is fairseq's S2T Transformer),
    except for the batch size (there 80,000 frames, about 290 recordings of CoVoST 2) and the vocabulary.

    primary: the metric that is tuned on the dev set and reported first. "perplexity" of the reference's tokens needs no search on dev and
    ranks weak models whose sentences are all wrong; compare it only between models with the same units.
    target: the language to translate into, for data with several; "": the column 'translation'. units: characters, or "bpe": at most
    `vocabulary` sub-words, learned from the training translations. stride: factor by which frames are reduced before the decoder.
    encoder_layers: of a Transformer on the reduced frames, with the decoder's sizes.
    decoder: "" for our Transformer, of dim, layers, heads, ffn_dim and dropout; or a model from transformers, by name or folder, with its
    own tokens and sizes. smoothing: of labels. beam: hypotheses on the test set (dev: greedy search). length_penalty: a hypothesis has
    the score log-probability / tokens ** length_penalty. max_tokens: most output tokens; also limited to 1.5 times the longest training
    translation. tokenize: sacrebleu's for BLEU, e.g. "zh" or "ja-mecab".
    """

    training: Any = Training()
    primary: Literal["bleu", "chrf", "perplexity"] = "bleu"
    target: str = ""
    units: Literal["characters", "bpe"] = "bpe"
    vocabulary: int = 8000
    stride: int = 4
    encoder_layers: int = 3
    decoder: str = ""
    dim: int = 512
    layers: int = 3
    heads: int = 8
    ffn_dim: int = 2048
    dropout: float = 0.1
    smoothing: float = 0.1
    beam: int = 20
    length_penalty: float = 1.0
    max_tokens: int = 512
    tokenize: str = "13a"

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice the heads ({self.heads})")
        if min(self.beam, self.layers, self.max_tokens) < 1 or min(self.length_penalty, self.encoder_layers) < 0:
            raise ValueError("beam, layers and max_tokens must be at least 1, length_penalty and encoder_layers at least 0")


@dataclass(frozen=True)
class Reference:
    """A reference translation: its text, and its tokens without start and end."""

    text: str
    ids: list[int]


class Translation(LearnedTask):
    """Speech translation by a decoder that attends to the encoder's frames. BLEU and chrF by sacrebleu, and perplexity.

    With a `target`, the translation of a recording is its field ``translation_TARGET``, else the ``text`` of a recording of the same
    ``sentence`` in that language (field ``language`` or ``locale``). Recordings in the target language are left out.
    """

    reads = (
        "the translation in a column 'translation' (or, with the option target, the text of the same 'sentence' in that language)"
    )
    metrics: tuple[Metric, ...] = (Metric("bleu", ""), Metric("chrf", ""), Metric("perplexity", "", better="lower"))
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
        arranged = Recordings(skipped=recordings.skipped)
        for item in recordings:
            if target not in _languages(item):
                own = item.fields.get(f"translation_{target}", "") or texts.get(item.fields.get("sentence", ""), "")
                arranged.append(replace(item, fields={**item.fields, "translation": own}))
        return arranged

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
            self.units = PretrainedTokens(config.decoder)
        else:
            self.units = SubWords(texts, config.vocabulary) if config.units == "bpe" else Characters(texts)

        def spelled(items: list[Item]) -> list[Item]:
            return [replace(item, target=Reference(item.target, self.units.encode(item.target))) for item in items]

        train = spelled(fold.train)
        self.longest = min(config.max_tokens, round(1.5 * max(len(item.target.ids) for item in train)) + 1)
        return super().prepare(Fold(train, spelled(fold.dev), spelled(fold.test)))

    def head(self, dim: int) -> nn.Module:
        return Translator(dim, self.units, self.config)

    def loss(self, outputs: SpeechMemory, lengths: Tensor, targets: list[Reference]) -> Tensor:
        """Cross-entropy with smoothed labels, mean over all tokens of the batch including end tokens."""
        logits, tokens = self.read(outputs, targets)
        return F.cross_entropy(
            logits.flatten(0, 1), tokens.flatten(), ignore_index=IGNORED, label_smoothing=self.config.smoothing
        )

    def read(self, outputs: SpeechMemory, targets: list[Reference]) -> tuple[Tensor, Tensor]:
        """(B, L, V) logits of the reference tokens (teacher forcing); (B, L) these tokens, IGNORED in the padding."""
        start, end, device = self.units.start, self.units.end, outputs.memory.device
        ids = [target.ids[: self.longest] for target in targets]
        tokens = padded([[*each, end] for each in ids], IGNORED, device)
        return outputs.decoder(padded([[start, *each] for each in ids], end, device), outputs.memory, outputs.frames), tokens

    def count(self, outputs: SpeechMemory, lengths: Tensor, targets: list[Reference]) -> Rows:
        """(B, K): counts for BLEU, counts for chrF, cross-entropy of the reference in nats, its tokens."""
        logits, references = self.read(outputs, targets)
        nats = F.cross_entropy(logits.mT.float(), references, ignore_index=IGNORED, reduction="none").sum(1).tolist()
        tokens = (references != IGNORED).sum(1).tolist()
        texts = self.translations(outputs) if outputs.beam else [""] * len(targets)
        rows = [
            [*self.bleu.parts(text, target.text), *self.chrf.parts(text, target.text), *surprise]
            for text, target, *surprise in zip(texts, targets, nats, tokens, strict=True)
        ]
        return np.array(rows, dtype=np.float64)

    def translations(self, outputs: SpeechMemory) -> list[str]:
        """The translations that beam search finds."""
        decoder, memory = outputs.decoder, outputs.memory
        state = decoder.begin(memory, outputs.frames)
        limits = [self.longest] * len(memory)
        hypotheses = beam_search(decoder, state, limits, outputs.beam, self.config.length_penalty, memory.device)
        return [self.units.decode(ids) for ids, _ in hypotheses]

    def ready(self, model: Model) -> Model:
        assert isinstance(model.head, Translator)
        model.head.beam = self.config.beam
        return model

    def scores(self, rows: Rows) -> tuple[float, ...]:
        middle, end = self.bleu.width, self.bleu.width + self.chrf.width
        nats, tokens = rows[:, end : end + 2].sum(0)
        values = {
            "bleu": self.bleu.score(rows[:, :middle]),
            "chrf": self.chrf.score(rows[:, middle:end]),
            "perplexity": float(np.exp(nats / tokens)),
        }
        return tuple(values[metric.name] for metric in self.metrics)

    def details(self, fold: Fold, rows: list[Rows]) -> dict[str, Any]:
        """Signatures of sacrebleu, to publish with the scores; the number of units and the longest output."""
        signatures = {"bleu": self.bleu.signature, "chrf": self.chrf.signature}
        return {"signatures": signatures, "units": self.units.size, "longest": self.longest}


@TASKS.register("st")
class SpeechTranslation(ProbeTask, Translation):
    """Speech translation: a Transformer on the features, beam search; BLEU and chrF."""

    title = "Speech translation"
    version = 2  # 1: the default schedule was the benchmark's
    superb = Training(lrs=(2e-3,), steps=32_000, batch=256, evaluate_every=2_000, patience=16, clip=10.0, warmup=10_000)
    short = Training(lrs=(3e-3,), passes=30, batch=32, patience=6, layers_lr=0.03, standardize=True, warmup=250)

    @dataclass(frozen=True)
    class Config(Translating):
        __doc__ = Translating.__doc__

        training: Training = Translating.training


@dataclass(frozen=True)
class SpeechMemory:
    """Input of a decoder: (B, T, D) and (B,) frames. beam: width of the search, 0 for none."""

    memory: Tensor
    frames: Tensor
    decoder: Any
    beam: int


class Translator(nn.Module):
    """Adapter, encoder and decoder. The decoder runs in the loss, with teacher forcing, and in the search."""

    def __init__(self, dim: int, units: Units, config: Translating) -> None:
        super().__init__()
        self.decoder: Decoder | PretrainedDecoder
        if config.decoder:
            self.decoder = PretrainedDecoder(config.decoder, units.start, units.end)
        else:
            sizes = (config.dim, config.layers, config.heads, config.ffn_dim, config.dropout)
            self.decoder = Decoder(units.size, units.start, units.end, *sizes)
        self.adapter = Adapter(dim, self.decoder.width, config.stride)
        self.encoder = SpeechContext(self.decoder.width, config.encoder_layers, config.heads, config.ffn_dim, config.dropout)
        self.beam = 0 if config.primary == "perplexity" else 1

    def forward(self, x: Tensor, lengths: Tensor) -> SpeechMemory:
        memory, frames = self.encoder(*self.adapter(x, lengths))
        return SpeechMemory(memory, frames, self.decoder, self.beam)


def padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """(B, longest): rows padded with `value`."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row, device=device) for row in rows], True, value)


def _languages(item: Recording) -> set[str]:
    return {item.fields.get("language", ""), item.fields.get("locale", "")}
