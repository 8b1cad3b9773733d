"""Runs espeak-ng in a separate process, because the library keeps global state and may crash.

    python espeak.py speak JOBS.json SPEECH.npy SECONDS

JOBS.json is a list of ``{"voice", "rate", "pitch", "range", "text"}``. SPEECH.npy gets the samples of all jobs, concatenated (int16).
SPEECH.json gets the sample rate and the number of samples of each job. Stops after the job that reaches SECONDS.

    python espeak.py phones TEXTS.json PHONES.json VOICE

TEXTS.json is a list of texts. PHONES.json gets a string of IPA symbols for each text, with `BETWEEN` between phones.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SYNCHRONOUS = 2  # the mode in which espeak_Synth returns after all samples; mode 1 calls back from a thread and may hang
DONT_EXIT = 0x8000
UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4
IPA = 2
BETWEEN = "_"
NO_VOICE = "espeak-ng has no voice"


def run(purpose: str, arguments: list[str], timeout: float) -> None:
    """Run this script. purpose: for messages. timeout: seconds. ValueError when espeak-ng is not installed, fails, or takes too long."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ValueError(f'{purpose} needs espeak-ng, which is not installed: pip install "sottovoce[demo]"')
    # -P: do not put this folder on the path; its module names may hide others
    command = [sys.executable, "-P", __file__, *arguments]
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"espeak-ng did not finish within {timeout:.0f} s, so {purpose} is not possible on this machine"
        ) from None
    if process.returncode:
        error = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        if error.startswith(NO_VOICE):
            raise ValueError(f"{error}; `espeak-ng --voices` lists them")
        raise ValueError(f"espeak-ng failed ({error}); reinstall it with: pip install --force-reinstall espeakng-loader")


def start() -> tuple[Any, int]:
    """Load espeak-ng. Returns the library and its sample rate in Hz."""
    import espeakng_loader  # type: ignore[import-untyped, unused-ignore]

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = Path(espeakng_loader.get_data_path())
    os.chdir(data.parent)  # use a relative name: espeak-ng limits paths to 160 bytes
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, data.name.encode(), DONT_EXIT)
    if rate <= 0:
        raise SystemExit("espeak-ng did not start")
    return library, rate


def choose(library: Any, voice: str) -> None:
    if library.espeak_SetVoiceByName(voice.encode()):
        raise SystemExit(f"{NO_VOICE} '{voice}'")


def speak(jobs_file: str, speech_file: str, seconds: str) -> None:
    jobs: list[dict[str, Any]] = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    speech_path = Path(speech_file).absolute()
    library, rate = start()
    blocks: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            blocks.append(ctypes.string_at(samples, count * 2))
        return 0

    library.espeak_SetSynthCallback(collect)
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p
    ]  # fmt: skip
    spoken, total = [], 0
    for job in jobs:
        blocks.clear()
        choose(library, job["voice"])
        for parameter, name in ((RATE, "rate"), (PITCH, "pitch"), (RANGE, "range")):
            library.espeak_SetParameter(parameter, int(job[name]), 0)
        text = job["text"].encode()
        library.espeak_Synth(text, len(text) + 1, 0, 1, 0, UTF8, None, None)
        spoken.append(np.frombuffer(b"".join(blocks), np.int16))
        total += len(spoken[-1])
        if total >= float(seconds) * rate:
            break
    np.save(speech_path, np.concatenate(spoken))
    speech_path.with_suffix(".json").write_text(json.dumps({"rate": rate, "counts": [len(item) for item in spoken]}))


def phones(texts_file: str, phones_file: str, voice: str) -> None:
    texts: list[str] = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    output = Path(phones_file).absolute()
    library, _ = start()
    choose(library, voice)
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
    mode = IPA | ord(BETWEEN) << 8
    transcriptions = []
    for text in texts:
        remaining, clauses = ctypes.c_char_p(text.encode()), []
        while remaining.value:  # each call converts one clause and advances the pointer
            clauses.append((library.espeak_TextToPhonemes(ctypes.byref(remaining), UTF8, mode) or b"").decode())
        transcriptions.append(" ".join(clauses))
    output.write_text(json.dumps(transcriptions, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    {"speak": speak, "phones": phones}[sys.argv[1]](*sys.argv[2:])
