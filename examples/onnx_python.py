"""Speech features from an exported model: onnxruntime, numpy and a WAV reader, no torch and no sottovoce.

pip install onnxruntime soundfile
python onnx_python.py model.onnx speech.wav [more.wav ...]        # 16 kHz
"""

import sys

import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map  # layers, frame_rate, family, ...

waves = []
for path in sys.argv[2:]:
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != int(facts["sampling_rate"]):
        sys.exit(f"{path} has {rate} Hz; resample it to {facts['sampling_rate']} Hz")
    waves.append(wave.mean(axis=1))  # one channel, as recorded: the file normalises if the model wants that

lengths = np.array([len(wave) for wave in waves])
batch = np.zeros((len(waves), lengths.max()), dtype=np.float32)  # shorter recordings end in zeros
for row, wave in zip(batch, waves, strict=True):
    row[: len(wave)] = wave

hidden_states, frames = session.run(None, {"wave": batch, "lengths": lengths})
for path, states, count in zip(sys.argv[2:], hidden_states, frames, strict=True):
    valid = states[..., :count, :]  # (frames, dim), or (layers, frames, dim)
    print(
        f"{path}: {count} frames of {valid.shape[-1]} numbers, {float(facts['frame_rate']):g} a second, mean {valid.mean():+.4f}"
    )
