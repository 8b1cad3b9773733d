"""Phones of written text as espeak-ng speaks it, for phone recognition without a lexicon."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sottovoce.data import espeak

VOICES = {"en": "en-us", "zh": "cmn"}  # "en" alone is British to espeak-ng; most English corpora are not
SWITCH = re.compile(r"\([a-z-]+\)")  # espeak-ng marks words that it speaks in another language
STRESS = str.maketrans("", "", "ˈˌ")


def phones(texts: Sequence[str], language: str = "en") -> list[list[str]]:
    """The phones of every text: IPA without stress, one token for each of espeak-ng's phonemes.

    Length is part of a vowel (iː); diphthongs and affricates are one token (aɪ, tʃ), and so are what espeak-ng has as one: əl, ɑːɹ.
    The text of 1313 utterances of LibriSpeech dev-clean takes 58 different ones, and a third of a second: all texts go through
    one process. language: a code, as espeak-ng names its voices; "en" is American. A text in capitals is read in small letters, since
    capitals (IT, US) are spelled out. ValueError when espeak-ng is not installed or has no such voice.
    """
    plain = [text.lower() if text.isupper() else text for text in texts]
    with tempfile.TemporaryDirectory() as place:
        texts_file, phones_file = Path(place, "texts.json"), Path(place, "phones.json")
        texts_file.write_text(json.dumps(plain), encoding="utf-8")
        arguments = ["phones", str(texts_file), str(phones_file), VOICES.get(language, language)]
        espeak.run("turning text into phones", arguments, timeout=60 + 0.01 * len(texts))
        transcriptions: list[str] = json.loads(phones_file.read_text(encoding="utf-8"))
    return [SWITCH.sub(" ", text).translate(STRESS).replace(espeak.BETWEEN, " ").split() for text in transcriptions]
