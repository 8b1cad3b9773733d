"""What a host writes for recordings: decoded once and kept beside the records, so that other scores need no other decoding."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core import ledger
from sottovoce.core.types import SAMPLE_RATE, Batch
from sottovoce.data import Skipped
from sottovoce.evaluation.features.pieces import Piece, decoded
from sottovoce.hosts.base import Host

FRAME = SAMPLE_RATE // 10  # samples whose energies are compared to find a quiet place
SEARCHED = 1 / 3  # of a window, at its end: where it may be cut
FEWEST_TOKENS = 16  # that any recording may have


@dataclass(frozen=True)
class Decoding:
    """How recordings are decoded.

    language: a code for all of them; "": each recording's column 'language'; "auto": the host finds it out. A host of one language ignores
    it. beams: hypotheses; 1 is greedy search. window: seconds; longer recordings are cut at quiet places into pieces of at most so much,
    whose texts are joined. batch: the most pieces at a time, of one language and similar length. tokens_per_second: the most tokens
    per second of audio, against endless repetition; ``None``: the host's own limit for a whole window, as a rate.
    """

    language: str = ""
    beams: int = 1
    window: float = 30.0
    batch: int = 8
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        if min(self.beams, self.batch) < 1:
            raise ValueError("beams and batch must be at least 1")
        if self.window < 1 or (self.tokens_per_second is not None and self.tokens_per_second <= 0):
            raise ValueError("window must be at least 1 second, tokens_per_second above 0")

    def options(self, host: Host, task: str, language: str, seconds: float) -> dict[str, Any]:
        """The options of `Host.greedy` for recordings of at most so many seconds. ValueError for what the host cannot do."""
        options = host.asked(task, language, self.beams)
        if host.most_tokens is None:
            return options
        rate = host.most_tokens / self.window if self.tokens_per_second is None else self.tokens_per_second
        return {**options, "max_new_tokens": min(host.most_tokens, max(FEWEST_TOKENS, math.ceil(rate * seconds)))}


@dataclass(frozen=True)
class Transcript:
    """recording: its id. key: `Piece.key`. audio: seconds. encoder, host: the share of the time that its batches took, in seconds, of the
    encoder and of the whole host with the encoder. cut: into how many pieces."""

    recording: str
    key: str
    text: str
    audio: float
    encoder: float
    host: float
    cut: int = 1


class Transcripts:
    """The transcripts of one host with one decoding, in a ``.jsonl`` file (``None``: in memory only)."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.kept: dict[str, Transcript] = {}
        for row in [] if path is None else ledger.read_all(path):
            kept = Transcript(**row)
            self.kept[kept.key] = kept

    def add(self, transcripts: Sequence[Transcript]) -> None:
        if self.path is not None and transcripts:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            ledger.append(self.path, [json.dumps(asdict(each), ensure_ascii=False) for each in transcripts])
        self.kept.update((each.key, each) for each in transcripts)


@dataclass
class Segment:
    """The `number`-th piece of a recording that was cut for decoding. of: how many there are."""

    piece: Piece
    wave: Tensor
    number: int = 0
    of: int = 1


def transcribe(
    host: Host,
    pieces: Sequence[Piece],
    languages: Sequence[str],
    decoding: Decoding,
    task: str,
    transcripts: Transcripts,
    progress: Callable[[float, float], None],
) -> list[Skipped]:
    """Decodes the pieces that are not yet among `transcripts`, and adds them. Returns the pieces that cannot be read.

    languages: of each piece; "": the host finds it out. progress: called with (seconds of audio done, seconds in all). Batches are the same
    whatever is kept already, so that a run that was stopped ends with the same texts.
    """
    skipped: list[Skipped] = []
    total = sum(piece.length or 0.0 for piece in pieces)
    done = 0.0
    by_language: dict[str, list[Piece]] = {}
    for piece, language in zip(pieces, languages, strict=True):
        by_language.setdefault(language, []).append(piece)
    for language, of_language in sorted(by_language.items()):
        parts: dict[str, list[tuple[int, Transcript]]] = {}
        for batch in _batches(of_language, decoding, skipped):
            if not all(segment.piece.key in transcripts.kept for segment in batch):
                whole = []
                for segment, transcript in zip(batch, _decode(host, batch, language, decoding, task), strict=True):
                    of_piece = parts.setdefault(segment.piece.key, [])
                    of_piece.append((segment.number, transcript))
                    if len(of_piece) == segment.of:
                        whole.append(_joined([part for _, part in sorted(of_piece, key=lambda each: each[0])]))
                transcripts.add([each for each in whole if each.key not in transcripts.kept])
            done += sum(len(segment.wave) for segment in batch) / SAMPLE_RATE
            progress(min(done, total), total)
    return skipped


def _batches(pieces: Sequence[Piece], decoding: Decoding, skipped: list[Skipped]) -> Iterator[list[Segment]]:
    """Segments of similar length together; pieces that cannot be read go to `skipped`."""
    batch: list[Segment] = []
    for piece, wave in decoded(sorted(pieces, key=lambda piece: (piece.length or 0.0, piece.recording.id))):
        if isinstance(wave, str):
            skipped.append(Skipped(path=piece.recording.path, reason=wave))
            continue
        waves = cut(wave, round(decoding.window * SAMPLE_RATE))
        for number, part in enumerate(waves):
            batch.append(Segment(piece, part, number, len(waves)))
            if len(batch) == decoding.batch:
                yield batch
                batch = []
    if batch:
        yield batch


def cut(wave: Tensor, most: int) -> list[Tensor]:
    """(S,) samples in pieces of at most `most`, cut where a tenth of a second is quietest in the last third of each."""
    parts = []
    while len(wave) > most:
        first = most - int(most * SEARCHED)
        frames = wave[first:most].unfold(0, FRAME, FRAME // 2)
        quiet = first + int(frames.square().mean(1).argmin()) * (FRAME // 2) + FRAME // 2
        parts.append(wave[:quiet])
        wave = wave[quiet:]
    return [*parts, wave]


@torch.inference_mode()
def _decode(host: Host, batch: Sequence[Segment], language: str, decoding: Decoding, task: str) -> list[Transcript]:
    waves = [segment.wave for segment in batch]
    lengths = torch.tensor([len(wave) for wave in waves])
    options = decoding.options(host, task, language, int(lengths.max()) / SAMPLE_RATE)
    audio = Batch(nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths).to(next(host.parameters()).device)
    began = _now()
    features = host.listen(audio)
    middle = _now()
    texts = host.texts(host.greedy(features, audio, **options))
    encoder, whole = middle - began, _now() - began
    return [
        Transcript(
            segment.piece.recording.id,
            segment.piece.key,
            text.strip(),
            round(len(segment.wave) / SAMPLE_RATE, 4),
            round(share * encoder, 5),
            round(share * whole, 5),
        )
        for segment, text, share in zip(batch, texts, (lengths / lengths.sum()).tolist(), strict=True)
    ]


def _now() -> float:
    """Seconds; on a GPU, when it has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _joined(parts: Sequence[Transcript]) -> Transcript:
    """The transcript of a recording that was decoded in pieces."""
    first = parts[0]
    if len(parts) == 1:
        return first
    text = " ".join(part.text for part in parts if part.text)
    audio, encoder, host = (round(sum(getattr(part, key) for part in parts), 5) for key in ("audio", "encoder", "host"))
    return Transcript(first.recording, first.key, text, audio, encoder, host, len(parts))
