"""A whole host as ONNX files: what its encoder makes of raw audio, and its decoder or head.

B batch, S samples, T frames that the decoder reads, L layers of the decoder, H heads, D width of a head, N tokens, P tokens before them.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Batch
from sottovoce.evaluation.kinds.transcripts import FEWEST_TOKENS
from sottovoce.exporting import onnx, quantize
from sottovoce.exporting.graph import traceable
from sottovoce.hosts.base import Host
from sottovoce.hosts.whisper import WhisperHost

if TYPE_CHECKING:
    from onnx import ModelProto

ENCODER, DECODER, TOKENS = "encoder.onnx", "decoder.onnx", "tokens.json"
PRECISIONS = ("fp32", "int8")
WINDOW = 30.0  # seconds that the most tokens of a text are for
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how sentencepiece writes a byte


class EncoderSide(nn.Module):
    """(B, S) raw 16 kHz samples and (B,) valid samples -> what the decoder reads, and (B,) frames of it that count.

    Of a host with a decoder: (B, 2 L, H, T, D) keys and values of its layers' attention to the audio, computed once for a recording. Of a
    recogniser by CTC: (B, T, C) logits.
    """

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = copy.deepcopy(host).eval()
        self.host.encoder = traceable(host.encoder)

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        batch = Batch(wave, lengths.clamp(min=self.host.encoder.config.frontend.kernel))
        features = self.host.listen(batch)
        if self.host.answers == "frames":
            outputs = self.host.outputs(features, batch)
            return outputs.logits, outputs.valid.sum(1)
        states = self.host.states(features)
        frames = torch.full_like(lengths, states.last.shape[1]) if states.lengths is None else states.lengths
        pairs = []
        for layer in self.host.rest.model.decoder.layers:
            attention = layer.encoder_attn
            for product in (attention.k_proj, attention.v_proj):
                pairs.append(product(states.last).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2))
        return torch.stack(pairs, dim=1), frames


class DecoderSide(nn.Module):
    """A step of a decoder: (B, N) tokens, (B, 2 L, H, P, D) keys and values of the tokens before, and what `EncoderSide` gives -> (B, V)
    logits of the next token, and keys and values of all tokens. P is 0 at the first step."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.decoder, self.head = host.rest.model.decoder, host.rest.proj_out
        self.width = int(self.decoder.layers[0].encoder_attn.k_proj.in_features)
        self.masked = "encoder_attention_mask" in inspect.signature(type(self.decoder).forward).parameters

    def forward(self, tokens: Tensor, past: Tensor, cross: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        before: Any = DynamicCache()
        audio = DynamicCache()
        for i in range(len(self.decoder.layers)):
            before.update(past[:, 2 * i], past[:, 2 * i + 1], i)
            audio.update(cross[:, 2 * i], cross[:, 2 * i + 1], i)
        cache = EncoderDecoderCache(before, audio)
        cache.is_updated = dict.fromkeys(range(len(self.decoder.layers)), True)  # so that it reads `audio` and computes nothing
        states = cross.new_zeros(cross.shape[0], cross.shape[3], self.width)  # only their shape is read
        if self.masked:
            outside = torch.arange(cross.shape[3], device=cross.device) >= frames[:, None, None, None]
            mask = {"encoder_attention_mask": torch.finfo(cross.dtype).min * outside}
        else:
            mask = {}
        out = self.decoder(input_ids=tokens, encoder_hidden_states=states, past_key_values=cache, use_cache=True, **mask)
        present = torch.stack([x for layer in before.layers for x in (layer.keys, layer.values)], dim=1)
        last = out.last_hidden_state[:, -1:]  # of three axes, so that it becomes a product that int8 knows
        return self.head(last)[:, 0], present


@dataclass(frozen=True)
class WholeModel:
    """The files of a host. decoder: ``None`` for a recogniser by CTC. tokens: the bytes of each token, a character for each byte."""

    encoder: ModelProto
    decoder: ModelProto | None
    tokens: list[str]
    about: dict[str, Any]


def whole(host: Host, precision: str) -> WholeModel:
    """The host as ONNX graphs, its tokens, and how to decode. ValueError for a host without text."""
    if not host.text:
        raise ValueError(
            f"{host.pretrained.source}: a host of kind {host.name} writes no text; export its encoder with --layer last"
        )
    encoder = encoder_graph(host)
    decoder = decoder_graph(host) if host.answers == "tokens" else None
    if precision == "int8":
        encoder = quantize.quantize_dynamic(encoder)
        decoder = None if decoder is None else quantize.quantize_dynamic(decoder, tables=True)
    about = {**facts(host, precision), "decoding": decoding(host)}
    for model in filter(None, (encoder, decoder)):
        onnx.describe(model, {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()})
    return WholeModel(encoder, decoder, spelled(host.tokenizer, host.answers == "frames"), about)


@torch.no_grad()
def encoder_graph(host: Host) -> ModelProto:
    side = EncoderSide(host)
    front = host.encoder.config.frontend
    least = front.kernel + front.stride
    samples = max(SAMPLE_RATE, 4 * least)
    example = torch.randn(2, samples), torch.tensor([samples, samples - front.stride])
    side(*example)  # what a host computes once, it computes now
    batch = torch.export.Dim("batch")
    axes = {"wave": {0: batch, 1: torch.export.Dim("samples", min=least, max=_longest(host))}, "lengths": {0: batch}}
    outputs = ["logits" if host.answers == "frames" else "cross", "frames"]
    return onnx.program(side, example, axes, ["wave", "lengths"], outputs)


@torch.no_grad()
def decoder_graph(host: Host) -> ModelProto:
    side = DecoderSide(host).eval()
    attention = side.decoder.layers[0].encoder_attn
    heads, width = attention.k_proj.out_features // attention.head_dim, attention.head_dim
    pairs = 2 * len(side.decoder.layers)
    tokens = torch.tensor([[1, 2, 3], [3, 2, 1]])
    example = tokens, torch.randn(2, pairs, heads, 5, width), torch.randn(2, pairs, heads, 7, width), torch.tensor([7, 6])
    batch = torch.export.Dim("batch")
    axes = {
        "tokens": {0: batch, 1: torch.export.Dim("count")},
        "past": {0: batch, 3: torch.export.Dim("before")},
        "cross": {0: batch, 3: torch.export.Dim("frames_read")},
        "frames": {0: batch},
    }
    return onnx.program(side, example, axes, ["tokens", "past", "cross", "frames"], ["logits", "present"])


def facts(host: Host, precision: str) -> dict[str, Any]:
    """What the files say of themselves."""
    from sottovoce import __version__

    shape = host.encoder.config
    longest = _longest(host)
    return {
        "sottovoce": __version__,
        "source": onnx.source_name(host.pretrained),
        "kind": host.name,
        "precision": precision,
        "sampling_rate": SAMPLE_RATE,
        "kernel": shape.frontend.kernel,
        **({"longest": longest} if longest else {}),
    }


def _longest(host: Host) -> int | None:
    """The most samples that the encoder's file takes; ``None`` for any number.

    A student of Whisper takes two frames less than the decoder's window has, and its silence behind the recording, so that there is always
    a frame to fill.
    """
    shape = host.encoder.config
    if not isinstance(host, WhisperHost) or shape.window:
        return shape.longest or None
    return (host.frames - 2) * shape.frontend.stride - round(host.tail * SAMPLE_RATE)


def decoding(host: Host) -> dict[str, Any]:
    """What a program must know to turn outputs into tokens."""
    if host.answers == "frames":
        return {"blank": int(host.rest.config.pad_token_id)}
    config = host.rest.generation_config
    most = host.most_tokens
    assert most is not None
    start = [int(config.decoder_start_token_id)]
    without_times = getattr(config, "no_timestamps_token_id", None)
    multilingual = bool(getattr(config, "is_multilingual", False))
    return {
        "start": start,
        "languages": {name.strip("<|>"): i for name, i in config.lang_to_id.items()} if multilingual else {},
        "tasks": dict(config.task_to_id) if multilingual else {},
        "without_times": [] if without_times is None else [int(without_times)],
        "end": host.end,
        "never": list(config.suppress_tokens or []),
        "not_first": list(config.begin_suppress_tokens or []),
        "most_tokens": most,
        "tokens_per_second": round(most / WINDOW, 4),
        "fewest_tokens": FEWEST_TOKENS,
    }


def spelled(tokenizer: Any, frames: bool = False) -> list[str]:
    """The bytes of each token, as text with a character for each byte; "" for tokens that are not text. frames: of a recogniser by CTC,
    whose blank alone is no text.

    The bytes of all tokens of a text, one after the other, are the text in UTF-8, perhaps with a space before it.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if frames:
        hidden = {tokenizer.pad_token_id}
    else:
        marks = [i for i, token in tokenizer.added_tokens_decoder.items() if str(token).startswith("<")]
        hidden = {*tokenizer.all_special_ids, *marks}
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    steps = "" if backend is None else json.dumps(json.loads(backend.to_str()).get("decoder"))
    if '"ByteLevel"' in steps:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte = {letter: chr(value) for value, letter in bytes_to_unicode().items()}
        return ["" if i in hidden else "".join(byte[letter] for letter in name) for i, name in enumerate(names)]

    def written(name: str) -> str:
        if found := BYTE.fullmatch(name):
            return chr(int(found[1], 16))
        text = " " if name == delimiter else name.replace("▁", " ")
        return text.encode().decode("latin-1")

    return ["" if i in hidden else written(name) for i, name in enumerate(names)]
