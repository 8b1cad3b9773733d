"""Text from a whole exported model: onnxruntime, numpy and a WAV reader, no torch and no sottovoce.

pip install onnxruntime soundfile
sottovoce export MODEL --to onnx --out FOLDER
python onnx_transcribe.py FOLDER speech.wav [more.wav ...] [language=de] [task=translate]       # 16 kHz, at most 30 s each
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

folder, *rest = sys.argv[1:]
options = dict(text.split("=", 1) for text in rest if "=" in text)
about = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
tokens = json.loads((Path(folder) / "tokens.json").read_text(encoding="utf-8"))  # a character for each byte
rules = about["decoding"]


def opened(name):
    return onnxruntime.InferenceSession(Path(folder) / name, providers=["CPUExecutionProvider"])


encoder = opened("encoder.onnx")
decoder = opened("decoder.onnx") if "start" in rules else None


def collapsed(logits, frames):
    """The likeliest token of every frame, without repetitions and blanks."""
    ids = logits[0, : frames[0]].argmax(-1).tolist()
    return [new for before, new in zip([-1, *ids], ids) if new not in (before, rules["blank"])]  # noqa: B905


def greedy(cross, frames, seconds):
    """The likeliest token after the other, until the end."""
    asked = []
    if rules["languages"]:  # one model of many languages
        asked = [rules["languages"][options.get("language", "en")], rules["tasks"][options.get("task", "transcribe")]]
    step, written = [*rules["start"], *asked, *rules["without_times"]], []
    past = np.zeros((*cross.shape[:3], 0, cross.shape[4]), dtype=np.float32)
    names = {item.name for item in decoder.get_inputs()}
    most = min(rules["most_tokens"], max(rules["fewest_tokens"], math.ceil(rules["tokens_per_second"] * seconds)))
    while len(written) < most:
        inputs = {"tokens": np.array([step]), "past": past, "cross": cross, "frames": frames}
        logits, past = decoder.run(None, {name: value for name, value in inputs.items() if name in names})
        logits[:, rules["never"]] = -np.inf
        if not written:
            logits[:, rules["not_first"]] = -np.inf
        token = int(logits[0].argmax())
        if token == rules["end"]:
            break
        written.append(token)
        step = [token]
    return written


for path in (text for text in rest if "=" not in text):
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != about["sampling_rate"]:
        sys.exit(f"{path} has {rate} Hz; resample it to {about['sampling_rate']} Hz")
    wave = wave.mean(axis=1)[None]
    outputs, frames = encoder.run(None, {"wave": wave, "lengths": np.array([wave.shape[1]])})
    ids = greedy(outputs, frames, wave.shape[1] / rate) if decoder else collapsed(outputs, frames)
    print(f"{path}: {''.join(tokens[i] for i in ids).encode('latin-1').decode('utf-8', 'replace').strip()}")
