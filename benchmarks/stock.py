"""The peer of benchmarks of whole recognisers: the model on stock transformers. Imports nothing of sottovoce, whose memory would count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def transcriber(model: str) -> Callable[[Any], str]:
    """What writes the text of a recording, (S,) float32 at 16 kHz, greedily."""
    import torch
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    whole = AutoModelForSpeechSeq2Seq.from_pretrained(model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(model)

    def transcribe(wave: Any) -> str:
        inputs = processor(wave, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            tokens = whole.generate(**inputs, do_sample=False, num_beams=1)
        return str(processor.batch_decode(tokens, skip_special_tokens=True)[0])

    return transcribe
