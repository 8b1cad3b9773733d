"""A subject whose features say exactly what is in the audio, for tests of heads, losses and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.data import Recording
from sottovoce.evaluation.subjects.subject import Subject

HOP = 320  # samples in a frame
SYMBOLS = 40  # more would need finer levels


class Levels(nn.Module):
    """The level of every frame, 0 to `SYMBOLS` - 1, as a one-hot vector; the same in both of its layers."""

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        frames = wave[:, : wave.shape[1] // HOP * HOP].unflatten(1, (-1, HOP)).mean(-1)
        x = nn.functional.one_hot((frames * SYMBOLS).round().long().clamp(0, SYMBOLS - 1), SYMBOLS).float()
        return Features([x, x], None if lengths is None else lengths // HOP, x, x)


def levels_subject() -> Subject:
    return Subject("levels", "control", Levels(), False, 2, SYMBOLS, SAMPLE_RATE / HOP, "levels", "fake", 0.0, 0.0)


def recording(folder: Path, name: str, symbols: Sequence[int], fields: Mapping[str, str], frames: int = 3) -> Recording:
    """A file in which every symbol, 1 to `SYMBOLS` - 1, lasts `frames` frames, with a frame of silence after it."""
    levels = np.array([level for symbol in symbols for level in (*[symbol] * frames, 0)]) / SYMBOLS
    path = folder / f"{name}.flac"
    soundfile.write(path, np.repeat(levels, HOP), SAMPLE_RATE, subtype="PCM_16")
    return Recording(name, str(path), duration=len(levels) * HOP / SAMPLE_RATE, fields=dict(fields))


def gpt(folder: Path, texts: Sequence[str]) -> Path:
    """A random GPT-2 of two layers, without attention to anything but text, and a tokenizer of a few sub-words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=60, special_tokens=["<e>", "<s>"], show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>", bos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": tokenizer.get_vocab_size()}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=0)).save_pretrained(folder)
    return folder
