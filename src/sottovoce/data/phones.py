"""Converts text to phones with espeak-ng, for phone recognition without a lexicon."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sottovoce.data import espeak

VOICES = {"en": "en-us", "zh": "cmn"}  # espeak-ng's "en" is British; most English corpora are American
SWITCH = re.compile(r"\([a-z-]+\)")  # marks of espeak-ng for words in another language
STRESS = str.maketrans("", "", "ˈˌ")


def phones(texts: Sequence[str], language: str = "en") -> list[list[str]]:
    """The phones of each text: IPA without stress, one token for each phoneme of espeak-ng.

    Long vowels (iː), diphthongs (aɪ), affricates (tʃ) and espeak-ng's own combinations (əl, ɑːɹ) are one token each. 1313 utterances of
    LibriSpeech dev-clean have 58 different tokens and take a third of a second; one process converts all texts. language: code of an
    espeak-ng voice; "en" is American. A text in capitals is converted to lower case first, since espeak-ng spells out capitals (IT, US).
    ValueError when espeak-ng is not installed or has no such voice.
    """
    plain = [text.lower() if text.isupper() else text for text in texts]
    with tempfile.TemporaryDirectory() as place:
        texts_file, phones_file = Path(place, "texts.json"), Path(place, "phones.json")
        texts_file.write_text(json.dumps(plain), encoding="utf-8")
        arguments = ["phones", str(texts_file), str(phones_file), VOICES.get(language, language)]
        espeak.run("turning text into phones", arguments, timeout=60 + 0.01 * len(texts))
        transcriptions: list[str] = json.loads(phones_file.read_text(encoding="utf-8"))
    return [SWITCH.sub(" ", text).translate(STRESS).replace(espeak.BETWEEN, " ").split() for text in transcriptions]
