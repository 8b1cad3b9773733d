"""Text decoders on speech: a subsampler, then a Transformer of our own or a pre-trained one from transformers.

Shapes: B rows, T frames, L tokens, D width, V classes.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.encoder.distance import sinusoids
from sottovoce.evaluation.heads.linear import inside

Pair = tuple[Tensor, Tensor]  # keys and values, (B, heads, length, width)


class Adapter(nn.Module):
    """(B, T, dim) -> (B, T / stride, width): convolutions of stride 2 with gated linear units (as fairseq's S2T subsampler).

    Padding does not change the outputs.
    """

    def __init__(self, dim: int, width: int, stride: int) -> None:
        super().__init__()
        if stride < 1 or stride & (stride - 1):
            raise ValueError(f"the decoder's stride must be 1, 2, 4 or another power of 2, not {stride}")
        count = stride.bit_length() - 1
        self.convs = nn.ModuleList(nn.Conv1d(dim if i == 0 else width, 2 * width, 5, 2, 2) for i in range(count))
        self.project = nn.Identity() if count else nn.Linear(dim, width)

    def forward(self, x: Tensor, frames: Tensor) -> Pair:
        for conv in self.convs:
            x = x * inside(x.shape[1], frames)[..., None]
            x = F.glu(conv(x.transpose(1, 2)), dim=1).transpose(1, 2)
            frames = (frames + 1) // 2
        return self.project(x), frames


class SpeechContext(nn.Module):
    """(B, T, D) -> (B, T, D): a pre-norm Transformer encoder with sinusoidal positions; the identity without layers.

    Padding does not change the outputs.
    """

    def __init__(self, dim: int, layers: int, heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, ffn_dim, dropout, F.gelu, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm, self.dropout = nn.LayerNorm(dim) if layers else nn.Identity(), nn.Dropout(dropout if layers else 0.0)

    def forward(self, x: Tensor, frames: Tensor) -> Pair:
        if self.layers:
            x = self.dropout(x + waves(0, x.shape[1], x))
        outside = ~inside(x.shape[1], frames)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=outside)
        return self.norm(x), frames


class DecoderAttention(nn.Module):
    """Multi-head attention whose keys and values may come from a cache."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.pair = nn.Linear(dim, 2 * dim)

    def keys(self, x: Tensor) -> Pair:
        key, value = (self._split(part) for part in self.pair(x).chunk(2, dim=-1))
        return key, value

    def forward(self, x: Tensor, pair: Pair, valid: Tensor | None = None, causal: bool = False) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(self._split(self.query(x)), *pair, valid, dropout, causal)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the speech, feed-forward; pre-norm."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.own, self.speech = DecoderAttention(dim, heads, dropout), DecoderAttention(dim, heads, dropout)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn_dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def speech_keys(self, speech: Tensor) -> Pair:
        """The keys and values of the speech for `forward`."""
        return self.speech.keys(speech)

    def forward(self, x: Tensor, past: Pair | None, speech: Pair, valid: Tensor) -> tuple[Tensor, Pair]:
        """past: keys and values of the tokens before `x`; ``None`` if `x` starts the text."""
        first, second, third = (norm for norm in self.norms)
        normed = first(x)
        pair = self.own.keys(normed)
        if past is not None:
            pair = (torch.cat([past[0], pair[0]], dim=2), torch.cat([past[1], pair[1]], dim=2))
        x = x + self.dropout(self.own(normed, pair, causal=past is None))
        x = x + self.dropout(self.speech(second(x), speech, valid))
        return x + self.dropout(self.ffn(third(x))), pair


@dataclass(frozen=True)
class SearchState:
    """The state of a search. own, speech: keys and values of each layer for text and speech; valid: (N, 1, 1, T); length: tokens so far."""

    own: list[Pair]
    speech: list[Pair]
    valid: Tensor
    length: int = 0


class Decoder(nn.Module):
    """A Transformer decoder (Vaswani et al. 2017) with shared input and output embeddings.

    (B, L) tokens, (B, T, D) speech and its (B,) frames -> (B, L, V) logits of each next token. `beam_search` uses `begin`, `step` and
    `pick`, which cache keys and values.
    """

    def __init__(
        self, classes: int, start: int, end: int, dim: int, layers: int, heads: int, ffn_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.start, self.end, self.width = start, end, dim
        self.tokens = nn.Embedding(classes, dim)
        nn.init.normal_(self.tokens.weight, std=dim**-0.5)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, ffn_dim, dropout) for _ in range(layers))
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, tokens: Tensor, speech: Tensor, frames: Tensor) -> Tensor:
        state = self.begin(speech, frames)
        x = self._embed(tokens, 0)
        for layer, pair in zip(self.layers, state.speech, strict=True):
            x, _ = layer(x, None, pair, state.valid)
        return F.linear(self.norm(x), self.tokens.weight)

    def begin(self, speech: Tensor, frames: Tensor) -> SearchState:
        valid = inside(speech.shape[1], frames)[:, None, None]
        return SearchState([], [cast(DecoderLayer, layer).speech_keys(speech) for layer in self.layers], valid)

    def step(self, last: Tensor, state: SearchState) -> tuple[Tensor, SearchState]:
        x, own = self._embed(last[:, None], state.length), []
        for i, layer in enumerate(self.layers):
            x, pair = layer(x, state.own[i] if state.own else None, state.speech[i], state.valid)
            own.append(pair)
        logits = F.linear(self.norm(x[:, 0]), self.tokens.weight)
        return logits.log_softmax(-1), replace(state, own=own, length=state.length + 1)

    def pick(self, state: SearchState, rows: Tensor) -> SearchState:
        own, speech = ([(key[rows], value[rows]) for key, value in pairs] for pairs in (state.own, state.speech))
        return SearchState(own, speech, state.valid[rows], state.length)

    def _embed(self, tokens: Tensor, before: int) -> Tensor:
        x = self.tokens(tokens) * math.sqrt(self.width)
        return self.dropout(x + waves(before, tokens.shape[1], x))


def waves(begin: int, count: int, like: Tensor) -> Tensor:
    """(count, D) sinusoidal positions (Vaswani et al. 2017) of the width of `like`, from position `begin`."""
    return sinusoids(torch.arange(begin, begin + count, device=like.device, dtype=torch.float32), like.shape[-1])


class PretrainedDecoder(nn.Module):
    """A decoder from transformers with the interface of `Decoder`: a causal language model, or the decoder of an encoder-decoder.

    Cross-attention to the speech gets new weights if the model has none. A search has no cache: each step reads all tokens again.
    start, end: tokens of its tokenizer (see `PretrainedTokens`). ValueError for a model that cannot have cross-attention.
    """

    def __init__(self, name: str, start: int, end: int) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        super().__init__()
        try:
            config = AutoConfig.from_pretrained(name)
            config.is_decoder = config.add_cross_attention = True
            model: Any = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=torch.float32)
        except (OSError, ValueError) as problem:
            raise ValueError(f"transformers cannot load '{name}' as a text decoder: {problem}") from None
        if "encoder_hidden_states" not in inspect.signature(model.forward).parameters:
            raise ValueError(
                f"'{name}' ({config.model_type}) cannot attend to speech; give a decoder with cross-attention, such as one of BART, "
                "mBART, GPT-2 or BERT, or leave 'decoder' empty"
            )
        self.model, self.width, self.start, self.end = model, int(config.hidden_size), start, end

    def forward(self, tokens: Tensor, speech: Tensor, frames: Tensor) -> Tensor:
        valid = inside(speech.shape[1], frames).long()
        logits: Tensor = self.model(
            input_ids=tokens, encoder_hidden_states=speech, encoder_attention_mask=valid, use_cache=False
        ).logits
        return logits

    def begin(self, speech: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros(len(speech), 0, dtype=torch.long, device=speech.device), speech, frames

    def step(self, last: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        tokens, speech, frames = state
        tokens = torch.cat([tokens, last[:, None]], dim=1)
        return self(tokens, speech, frames)[:, -1].log_softmax(-1), (tokens, speech, frames)

    def pick(self, state: tuple[Tensor, Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens, speech, frames = state
        return tokens[rows], speech[rows], frames[rows]
