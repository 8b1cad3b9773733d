"""How many seconds a second of audio costs in the encoder and in the whole recogniser: a model, and students of it, in turns.

    python benchmarks/host_speed.py moonshine-tiny students/half --speech FOLDER

One recording at a time, greedily, encoders prepared for a CPU; the median of the rounds. The first model also runs on stock transformers.
FOLDER holds recordings of 5 to 20 s (any audio file at 16 kHz; the first twelve by name). The record says how many words each writes:
a poor student that writes without end is slow for that alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import stock
import torch
from torch import Tensor

from sottovoce.core import ledger
from sottovoce.core.types import Batch
from sottovoce.data import open_source
from sottovoce.data.decode import read_audio
from sottovoce.hosts.base import Host
from sottovoce.hosts.load import load_host
from sottovoce.inference.packed import fastest
from sottovoce.timing.machine import header

SHORTEST, LONGEST, COUNT, RATE = 5.0, 20.0, 12, 16_000


def recordings(folder: Path) -> list[Tensor]:
    """(1, S) of each. ValueError for too few of them."""
    found: list[Tensor] = []
    for item in sorted(open_source(folder), key=lambda item: str(item.path)):
        if len(found) < COUNT:
            wave = torch.from_numpy(read_audio(item))[None]
            if SHORTEST * RATE <= wave.shape[1] <= LONGEST * RATE:
                found.append(wave)
    if len(found) < COUNT:
        raise ValueError(f"{folder} has {len(found)} recordings of {SHORTEST:g} to {LONGEST:g} s; {COUNT} are needed")
    return found


def timed(function: Callable[[Tensor], Any], waves: list[Tensor]) -> tuple[float, list[Any]]:
    """Seconds for all recordings, and what was said of each."""
    began = time.perf_counter()
    with torch.inference_mode():
        said = [function(wave) for wave in waves]
    return time.perf_counter() - began, said


def listen(host: Host, wave: Tensor) -> object:
    return host.listen(Batch(wave))


def said_by(peer: Callable[[Any], str], wave: Tensor) -> str:
    return peer(wave[0].numpy())


def write(host: Host, wave: Tensor) -> str:
    return host.transcribe(wave)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--speech", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "records.jsonl")
    options = parser.parse_args()
    about = header("host-speed", options.threads)
    torch.set_num_threads(options.threads)
    waves = recordings(options.speech)
    ways: dict[tuple[str, str], Callable[[Tensor], Any]] = {
        ("transformers", "whole"): partial(said_by, stock.transcriber(options.models[0]))
    }
    for model in options.models:
        host = load_host(model)
        if host is None or not host.text:
            raise ValueError(f"{model} is no recogniser: it has no decoder")
        host.eval().encoder = fastest(host.encoder)  # type: ignore[assignment]
        ways[Path(model).name, "encoder"] = partial(listen, host)
        ways[Path(model).name, "whole"] = partial(write, host)
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    words: dict[str, int] = {}
    for turn in range(options.rounds + 1):
        for (name, part), function in ways.items():
            took, said = timed(function, waves)
            if turn:  # the first one warms up
                seconds[name, part].append(took)
            if part == "whole":
                words[name] = sum(len(text.split()) for text in said)
    audio = sum(wave.shape[1] for wave in waves) / RATE
    rows: dict[str, dict[str, float]] = {name: {"words": count} for name, count in words.items()}
    for (name, part), each in seconds.items():
        rows[name][part] = round(statistics.median(each) / audio, 5)
    record = {
        "name": "host-speed",
        **about,
        "audio_seconds": round(audio, 1),
        "rounds": options.rounds,
        "seconds_per_second": rows,
    }
    ledger.write(options.out, record)
    for name, row in rows.items():
        print(f"{name:32} encoder {row.get('encoder', float('nan')):.5f}  whole {row['whole']:.5f}  {row['words']:.0f} words")


if __name__ == "__main__":
    main()
