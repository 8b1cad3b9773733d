"""A recogniser of our own making: a student and the head that learned characters beside it (objective `ctc`)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from sottovoce.encoder import Encoder
from sottovoce.hosts.ctc import CTCHost
from sottovoce.hub.pretrained import Checkpoint, Pretrained

BLANK, SPACE, UNKNOWN = "<pad>", "|", "<unk>"


class OwnRecogniser(CTCHost):
    """A CTC host whose head learned beside the student. made_in: the folder of its tokenizer, which is there as long as the host."""

    made_in: tempfile.TemporaryDirectory[str]

    @property
    def whence(self) -> str:
        return "in the characters that its head has learned"


def recogniser(encoder: Encoder, head: nn.Linear, characters: Sequence[str], *, normalize: bool, source: str) -> OwnRecogniser:
    """A CTC recogniser of transformers' kind, which `AutoModelForCTC` opens once it is saved.

    head: width of the encoder -> the blank and then one class for each of `characters`. source: what it was made from. ValueError for
    characters that its tokenizer cannot have.
    """
    if SPACE in characters and " " in characters:
        raise ValueError(f"the characters hold both a space and '{SPACE}', which stands for it in the tokenizer's file")
    folder = tempfile.TemporaryDirectory()
    vocabulary = {BLANK: 0, **{SPACE if each == " " else each: i for i, each in enumerate(characters, 1)}}
    vocabulary[UNKNOWN] = classes = len(vocabulary)  # which the head never says
    tokenizer = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "pad_token": BLANK,
        "unk_token": UNKNOWN,
        "word_delimiter_token": SPACE,
        "bos_token": None,
        "eos_token": None,
    }
    for name, content in (("vocab.json", vocabulary), ("tokenizer_config.json", tokenizer)):
        (Path(folder.name) / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    hf = {  # of a model that is never made: transformers builds the head from it
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2ForCTC"],
        "hidden_size": encoder.config.dim,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 1,
        "conv_dim": [1],
        "conv_kernel": [1],
        "conv_stride": [1],
        "num_conv_pos_embeddings": 1,
        "num_conv_pos_embedding_groups": 1,
        "final_dropout": 0.0,
        "vocab_size": classes,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    made = Pretrained(encoder, encoder.config, "wav2vec2", normalize, source, hf_config=hf)
    tensors = {f"{CTCHost.first}.{name}": tensor for name, tensor in head.state_dict().items()}
    host = OwnRecogniser(Checkpoint(made, Path(folder.name), tensors))
    host.made_in = folder
    return host
