"""Streaming: time per chunk on this machine, and how close a stream's features are to those of whole recordings, by its limits.

    python benchmarks/streaming.py demo --data demo --chunk 0.16 0.32 --left 2 8 --right 0 0.16

Every combination streams the same recordings, pushed a chunk at a time. Time: of each push that gave a chunk of frames, median and 95th
percentile; real-time factor: all pushes and the flush together, by seconds of audio; the order of the combinations changes from
recording to recording, and the first recording is streamed once before anything counts. Likeness: cosine of each frame's hidden state
to the one of the same model that hears the whole recording at once, mean over all frames, for each layer (0 is the front end) and for
the last output.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sottovoce
from sottovoce.core import ledger
from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.data.decode import BadAudio, read_audio
from sottovoce.data.sources import open_source
from sottovoce.hub.student import Speech
from sottovoce.streaming.stream import FeatureStream
from sottovoce.timing.machine import header

WHAT = "time per chunk and real-time factor of streams, and cosine of their hidden states to those of whole recordings"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("model", help="folder, hub id, or demo")
    ask.add_argument("--data", default="demo", help="folder of audio, manifest, or demo")
    ask.add_argument("--files", type=int, default=20, help="recordings, evenly spaced over the data")
    ask.add_argument("--max-seconds", type=float, default=30.0, help="heard of each")
    ask.add_argument("--chunk", type=float, nargs="+", default=[0.16, 0.32, 0.64, 1.28])
    ask.add_argument("--left", type=float, nargs="+", default=[2.0, 8.0], help="inf: everything heard")
    ask.add_argument("--right", type=float, nargs="+", default=[0.0, 0.16, 0.64])
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    about = header("streaming", args.threads)

    model = sottovoce.load(args.model)
    grid = list(itertools.product(args.chunk, args.left, args.right))
    streams = {limits: sottovoce.stream(model, *limits) for limits in grid}  # refuses before anything takes time
    waves = audio(args.data, args.files, args.max_seconds, max(chunk for chunk, _, _ in grid))
    found = {limits: Tally() for limits in grid}
    run(streams[grid[0]], waves[0])
    for i, wave in enumerate(waves):
        whole = heard_at_once(model, wave)
        for limits in grid[i % len(grid) :] + grid[: i % len(grid)]:
            found[limits].add(*run(streams[limits], wave), whole, len(wave) / SAMPLE_RATE)
        print(f"{i + 1} of {len(waves)}", end="\r", flush=True)

    rows = [{**words(limits), "latency_ms": streams[limits].latency, **found[limits].result()} for limits in grid]
    settings = {"model": args.model, "data": args.data, "recordings": len(waves), "seconds": sum(map(len, waves)) / SAMPLE_RATE}
    ledger.write(
        args.out,
        {
            "name": f"streaming-{Path(args.model).name}",
            **about,
            "what": WHAT,
            **ledger.portable(settings),
            "threads": args.threads,
            "streams": rows,
        },
    )
    for row in rows:
        limits = " ".join(f"{name} {row[name]!s:>5}" for name in ("chunk", "left", "right"))
        push = "{median:6.1f} {p95:6.1f} ms".format(**row["chunk_ms"])
        print(
            f"{limits}  {row['latency_ms']:6.0f} ms  {push}  RTF {row['real_time_factor']:.3f}  cosine {row['cosine_last']:.4f}"
        )


def audio(spec: str, files: int, longest: float, shortest: float) -> list[Tensor]:
    """Recordings of at least `shortest` seconds, which is a chunk, evenly spaced."""
    recordings = list(open_source(spec))
    waves: list[Tensor] = []
    for recording in recordings[:: max(1, len(recordings) // files)]:
        try:
            wave = torch.from_numpy(read_audio(recording, 0.0, min(longest, recording.duration or longest)))
        except BadAudio as problem:
            print(f"left out: {recording.id}: {problem}")
            continue
        if len(wave) > (shortest + 0.1) * SAMPLE_RATE:
            waves.append(wave)
    if not waves:
        raise SystemExit(f"{spec} has no recording longer than a chunk of {shortest} s; name other data or shorter chunks")
    return waves[:files]


def run(stream: FeatureStream, wave: Tensor) -> tuple[list[Features], list[float], float]:
    """Pieces, seconds of each push that gave frames, and seconds of everything."""
    pieces, times, total = [], [], 0.0
    for samples in wave.split(stream.limits.chunk * stream.encoder.config.frontend.stride):
        start = time.perf_counter()
        piece = stream.push(samples)
        took = time.perf_counter() - start
        total += took
        if piece.last.shape[1]:
            pieces.append(piece)
            times.append(took)
    start = time.perf_counter()
    pieces.append(stream.flush())
    return pieces, times, total + time.perf_counter() - start


@torch.no_grad()
def heard_at_once(model: Speech, wave: Tensor) -> Features:
    found: Features = model(wave)
    return found


class Tally:
    """Sums over recordings for one combination of limits."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.took = self.seconds = 0.0
        self.cosines: Tensor | float = 0.0
        self.frames = 0

    def add(self, pieces: list[Features], times: list[float], took: float, whole: Features, seconds: float) -> None:
        self.times += times
        self.took, self.seconds = self.took + took, self.seconds + seconds
        live = [torch.cat(states, dim=1) for states in zip(*([*piece.hidden, piece.last] for piece in pieces), strict=True)]
        pairs = zip(live, [*whole.hidden, whole.last], strict=True)
        self.cosines = self.cosines + torch.stack([F.cosine_similarity(a, b, dim=-1).sum().double() for a, b in pairs])
        self.frames += whole.last.shape[1]

    def result(self) -> dict[str, Any]:
        assert isinstance(self.cosines, Tensor)
        *layers, last = (self.cosines / self.frames).tolist()
        p95 = statistics.quantiles(self.times, n=20, method="inclusive")[-1] * 1e3 if len(self.times) > 1 else self.times[0] * 1e3
        return {
            "chunk_ms": {"median": statistics.median(self.times) * 1e3, "p95": p95, "chunks": len(self.times)},
            "real_time_factor": self.took / self.seconds,
            "cosine_layers": layers,
            "cosine_last": last,
        }


def words(limits: tuple[float, float, float]) -> dict[str, float | str]:
    """In seconds; JSON knows no infinity."""
    return {name: "inf" if value == math.inf else value for name, value in zip(("chunk", "left", "right"), limits, strict=True)}


if __name__ == "__main__":
    main()
