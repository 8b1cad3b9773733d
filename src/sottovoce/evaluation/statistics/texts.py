"""Texts brought into one form before they are compared."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

Normalization = Literal["whisper", "basic", "plain", "none"]

ENGLISH = "en"
WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")  # Whisper's paper, section 4.4: errors are counted in characters
SPELLING = Path(__file__).parents[2] / "assets" / "whisper" / "spelling.json"  # of OpenAI's release, MIT licence


@cache
def normalizer(name: Normalization, language: str) -> Callable[[str], str]:
    """What brings texts of a language into the form `name`.

    "whisper": as the numbers of Whisper's paper (Radford et al. 2022, appendix C): English with its contractions, numbers and spellings
    made alike, "basic" for all other languages. "basic": lower case, without punctuation, symbols and what is in brackets; languages
    written without spaces letter by letter. It also takes away the vowel signs of Indic scripts. "plain": `normalized`. "none": only
    white space is made alike. language: a code of `language_code`; "" if unknown.
    """
    if name == "none":
        return spaced
    if name == "plain":
        return normalized
    from transformers.models.whisper import english_normalizer as whisper

    if name == "whisper" and language == ENGLISH:
        english = whisper.EnglishTextNormalizer(json.loads(SPELLING.read_text(encoding="utf-8")))
        return lambda text: spaced(english(text))
    basic = whisper.BasicTextNormalizer(split_letters=language in WITHOUT_SPACES)
    return lambda text: spaced(basic(text))


def normalized(text: str) -> str:
    """Upper-case text with letters, digits and apostrophes only; one space between words."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").upper()
    return " ".join("".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text).split())


def spaced(text: str) -> str:
    """The text with one space between words, and none around them."""
    return " ".join(text.split())


def language_code(name: str) -> str:
    """Whisper's code of a language: "en" for "en", "EN-us", "English"; the name itself, in lower case, if it knows none."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    text = name.strip().lower()
    return TO_LANGUAGE_CODE.get(text) or text.replace("_", "-").split("-")[0]
