"""Units of text for a decoder: characters, learned sub-words, or the tokens of a pre-trained decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

END, START = 0, 1


class Units(Protocol):
    """Converts text to numbers below `size` and back. White space becomes single spaces."""

    size: int
    start: int
    end: int

    def encode(self, text: str) -> list[int]:
        """The numbers of a text, without start and end."""

    def decode(self, ids: Sequence[int]) -> str: ...


class Characters:
    """The characters of the training texts; other characters are dropped."""

    start, end = START, END

    def __init__(self, texts: Iterable[str]) -> None:
        self.alphabet = sorted({letter for text in texts for letter in " ".join(text.split())})
        self._number = {letter: i for i, letter in enumerate(self.alphabet, START + 1)}
        self.size = len(self.alphabet) + START + 1

    def encode(self, text: str) -> list[int]:
        return [self._number[letter] for letter in " ".join(text.split()) if letter in self._number]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join("".join(self.alphabet[i - START - 1] for i in ids if i > START).split())


class SubWords:
    """Up to `size` units learned from the texts by byte-pair encoding (Sennrich et al. 2016), with all of their characters.

    Other characters are dropped. If the texts have more characters than `size`, there is a unit for each.
    """

    start, end = START, END

    def __init__(self, texts: Iterable[str], size: int) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # comes with transformers

        self._tokenizer = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        self._tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<end>", "<start>"], show_progress=False)
        self._tokenizer.train_from_iterator([" ".join(text.split()) for text in texts], trainer)
        self.size: int = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(" ".join(text.split()), add_special_tokens=False).ids
        return [i for i in ids if i > START]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self._tokenizer.decode([i for i in ids if i > START]).split())


class PretrainedTokens:
    """The tokens of a model from transformers, start and end from its configuration or tokenizer. ValueError without them."""

    def __init__(self, name: str) -> None:
        from transformers import AutoConfig, AutoTokenizer

        try:
            config: Any = AutoConfig.from_pretrained(name)
            tokens = self._tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as problem:
            raise ValueError(f"transformers cannot load the tokenizer of '{name}': {problem}") from None
        starts = (getattr(config, "decoder_start_token_id", None), tokens.bos_token_id, tokens.cls_token_id)
        ends = (tokens.eos_token_id, tokens.sep_token_id)
        start, end = (next((i for i in each if i is not None), None) for each in (starts, ends))
        if start is None or end is None:
            raise ValueError(f"the tokenizer of {name} has no start token or no end token, so it cannot be used for translations")
        self.start, self.end, self.size = int(start), int(end), int(config.vocab_size)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(" ".join(text.split()), add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: Any = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return " ".join(text.split())
