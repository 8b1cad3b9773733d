"""The parts of an encoder and their costs, from input to output.

Each kind of unit (in `units/`) gives the parts that consist of its units; this file gives the parts without units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sottovoce.encoder import EncoderConfig
from sottovoce.encoder.kaldi_fbank import BINS
from sottovoce.pruning.unit import PartCost, UnitKind, Width, Workload, kinds


def encoder_parts(config: EncoderConfig, widths: Mapping[str, Width] | None = None, seconds: float = 10.0) -> dict[str, PartCost]:
    """All parts by name, for one clip of `seconds`. widths: as in `encoder_cost`. ValueError for a clip too short for one frame."""
    workload, units = Workload.of(config, widths, seconds), kinds()
    parts = [*_without_units(workload), *(part for kind in units for part in kind.parts(workload))]
    for kind in units:
        if type(kind).recost is not UnitKind.recost:
            parts = [kind.recost(part, workload) for part in parts]
    return {part.name: part for part in sorted(parts, key=lambda part: part.place)}


def _without_units(workload: Workload) -> Iterator[PartCost]:
    """The filter bank, the projection with its norm, the relative position table, and the norms of the layers."""
    config, frontend, frames = workload.config, workload.config.frontend, workload.frames
    dim, relative = config.dim, config.relative
    if frontend.fbank is not None:  # without the Fourier transform, which is fast
        windows = workload.frames_after(1)
        bank = BINS * frontend.fbank.mels * windows
        yield PartCost("frontend.fbank", "fbank", (-1, 1), windows, 0, bank, lambda: {"macs": bank, "call": 1})

    inputs: Width = frontend.fbank.dim if frontend.fbank else workload.sizes[f"frontend.convs.{len(frontend.convs) - 1}"]
    joined = inputs * frontend.join
    norm = 2 * inputs if frontend.projection_norm else 0

    def projection() -> Mapping[str, Width]:
        return {"macs": joined * (dim * frames), "inputs": joined * frames, "outputs": dim * frames, "call": 1}

    params, macs = norm + (joined + 1) * dim, joined * dim * frames
    yield PartCost("frontend.projection", "projection", (-1, 2), frames, params, macs, projection)

    if relative is not None:
        scores = relative.heads * frames * frames
        table = relative.buckets * relative.heads
        yield PartCost("relative", "relative", (-1, 4), frames, table, 0, lambda: {"scores": scores, "call": 1})

    norms = sum(5 if layer.kind == "conformer" else 2 for layer in config.layers) + int(config.norm)
    outputs = norms * dim * frames
    last = (len(config.layers), 0)
    yield PartCost("norms", "norms", last, frames, 2 * dim * norms, 0, lambda: {"outputs": outputs, "call": norms})
