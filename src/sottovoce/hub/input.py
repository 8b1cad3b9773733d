"""What the JSON files of a model's folder say of its input: sampling rate, normalisation, feature extractor.

transformers writes the extractor into preprocessor_config.json, or, since version 5, into processor_config.json under
``feature_extractor``; the latter counts where both are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.hub.checkpoint import is_there, read_json

EXTRACTOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
_NESTED = ("feature_extractor", "audio_processor")
_RATES = (
    "sampling_rate",
    "sample_rate",
    "audio_sampling_rate",
    "audio_sample_rate",
    "target_sampling_rate",
    "target_sample_rate",
)


def read_extractor(folder: Path, hf: Mapping[str, Any]) -> dict[str, Any] | None:
    """The feature extractor's settings, as transformers would find them; ``None`` where no file has any. hf: the parsed config.json.

    ValueError for a sampling rate other than 16 kHz in any of the files.
    """
    held = {name: read_json(folder / name) for name in (PROCESSOR, EXTRACTOR) if is_there(folder / name)}
    for name, values in {"config.json": hf, **held}.items():
        for key, rate in _rates(values):
            if not isinstance(rate, int | float) or rate != SAMPLE_RATE:
                raise ValueError(f"{name} says {key} {rate!r}; only models for {SAMPLE_RATE} Hz can be used")
    for key in _NESTED:
        nested = held.get(PROCESSOR, {}).get(key)
        if nested is not None:
            if not isinstance(nested, dict):
                raise ValueError(f"{PROCESSOR}: {key} is {nested!r}; expected the settings of a feature extractor")
            return nested
    return held.get(EXTRACTOR)


def _rates(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every sampling rate in a file, with its key; null says nothing."""
    for key, value in values.items():
        if key in _RATES and value is not None:
            yield key, value
        elif key in (*_NESTED, "audio_config", "encoder_config", "preprocessor") and isinstance(value, dict):
            for inner, rate in _rates(value):
                yield f"{key}.{inner}", rate


def wants_normalized(extractor: Mapping[str, Any] | None) -> bool | None:
    """Whether an extractor of waveforms gives them zero mean and unit variance; ``None`` where there is no extractor.

    What its settings leave out has the default of transformers' class: yes. ValueError for another value than true or false.
    """
    if extractor is None:
        return None
    value = extractor.get("do_normalize", True)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"the feature extractor's do_normalize is {value!r}; expected true or false")
    return bool(value)
