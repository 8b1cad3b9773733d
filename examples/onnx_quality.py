"""Scores of recordings, such as their quality, from an exported student: onnxruntime, numpy and a WAV reader, no torch and no sottovoce.

pip install onnxruntime soundfile
sottovoce export students/quality --out exported/quality
python onnx_quality.py exported/quality/model.onnx talk.wav [more.wav ...]        # 16 kHz
"""

import json
import math
import sys

import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map
heads = json.loads(facts.get("scores", "{}"))  # label -> names of its scores, seconds that it hears at a time, ...
rate = int(facts["sampling_rate"])
if not heads:
    sys.exit(f"{sys.argv[1]} has no head that scores recordings; export a student of the recipe 'quality'")


def windows(wave, size):
    """Pieces of at most `size` samples that cover the recording evenly and overlap by half or more."""
    if not size or len(wave) <= size:
        return [wave]
    over = len(wave) - size
    starts = np.linspace(0, over, math.ceil(over / (size // 2)) + 1).astype(int)
    return [wave[start : start + size] for start in starts]


for path in sys.argv[2:]:
    wave, found = soundfile.read(path, dtype="float32", always_2d=True)
    if found != rate:
        sys.exit(f"{path} has {found} Hz; resample it to {rate} Hz")
    wave = wave.mean(axis=1)
    for label, head in heads.items():
        pieces = windows(wave, round(head["window"] * rate))
        batch = np.stack(pieces)
        lengths = np.full(len(pieces), batch.shape[1])
        (scores,) = session.run([f"score_{label}"], {"wave": batch, "lengths": lengths})
        for name, score in zip(head["names"], scores.mean(axis=0), strict=True):
            print(f"{path}: {name} {score:.2f}")
