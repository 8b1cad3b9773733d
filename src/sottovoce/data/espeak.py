"""A script that speaks: run by `demo` in a process of its own, because espeak-ng keeps global state and may crash.

    python espeak.py JOBS.json SPEECH.npy SECONDS

JOBS.json is a list of ``{"voice", "rate", "pitch", "range", "text"}``; SPEECH.npy gets all samples (int16) one after another, and
SPEECH.json the sample rate and the number of samples of every job. Stops after the job that reaches SECONDS.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import espeakng_loader  # type: ignore[import-untyped, unused-ignore]
import numpy as np

SYNCHRONOUS = 2  # the retrieval mode that has spoken when espeak_Synth returns; mode 1 answers from a thread and may hang
DONT_EXIT = 0x8000
UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4


def main(jobs_file: str, speech_file: str, seconds: str) -> None:
    jobs: list[dict[str, Any]] = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    speech_path = Path(speech_file).absolute()
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = Path(espeakng_loader.get_data_path())
    os.chdir(data.parent)  # a relative name, because espeak-ng holds paths in 160 bytes
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, data.name.encode(), DONT_EXIT)
    if rate <= 0:
        raise SystemExit("espeak-ng did not start")
    heard: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def hear(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            heard.append(ctypes.string_at(samples, count * 2))
        return 0

    library.espeak_SetSynthCallback(hear)
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p
    ]  # fmt: skip
    spoken, total = [], 0
    for job in jobs:
        heard.clear()
        if library.espeak_SetVoiceByName(job["voice"].encode()):
            raise SystemExit(f"espeak-ng has no voice {job['voice']}")
        for parameter, name in ((RATE, "rate"), (PITCH, "pitch"), (RANGE, "range")):
            library.espeak_SetParameter(parameter, int(job[name]), 0)
        text = job["text"].encode()
        library.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8, None, None)
        spoken.append(np.frombuffer(b"".join(heard), np.int16))
        total += len(spoken[-1])
        if total >= float(seconds) * rate:
            break
    np.save(speech_path, np.concatenate(spoken))
    speech_path.with_suffix(".json").write_text(json.dumps({"rate": rate, "counts": [len(item) for item in spoken]}))


if __name__ == "__main__":
    main(*sys.argv[1:4])
