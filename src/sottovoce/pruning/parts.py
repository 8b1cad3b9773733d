"""The parts of an encoder and their costs, from input to output.

Each kind of unit (in `units/`) gives the parts that consist of its units; this file gives the parts without units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sottovoce.encoder import EncoderConfig, ProjectionConfig
from sottovoce.encoder.kaldi_fbank import BINS
from sottovoce.encoder.relative_log_mel import BINS as LOG_MEL_BINS
from sottovoce.pruning.unit import PartCost, UnitKind, Width, Workload, kinds


def encoder_parts(
    config: EncoderConfig, widths: Mapping[str, Width] | None = None, seconds: float = 10.0, merged: bool = False
) -> dict[str, PartCost]:
    """All parts by name, for one clip of `seconds`. widths, merged: as in `encoder_cost`. ValueError for a clip too short for one frame."""
    workload, units = Workload.of(config, widths, seconds, merged), kinds()
    parts = [*_without_units(workload), *(part for kind in units for part in kind.parts(workload))]
    for kind in units:
        if type(kind).recost is not UnitKind.recost:
            parts = [kind.recost(part, workload) for part in parts]
    return {part.name: part for part in sorted(parts, key=lambda part: part.place)}


def _without_units(workload: Workload) -> Iterator[PartCost]:
    """The filter bank, the projection with its norm, the relative position table, and the norms of the layers."""
    config, frontend, frames = workload.config, workload.config.frontend, workload.frames
    dim, relative = config.dim, config.relative
    if frontend.features is not None:  # the spectrum is not counted: it is a fast transform
        windows, features = workload.frames_after(1), frontend.features
        name, bins = ("fbank", BINS) if frontend.fbank is not None else ("log_mel", LOG_MEL_BINS)
        bank = bins * features.mels * windows
        # the same work for both: a transform, and a product with the filters
        place, terms = (-1, -1 if frontend.convs else 1), {"macs": bank, "call": 1}
        yield PartCost(f"frontend.{name}", name, place, windows, 0, bank, lambda: terms, "frontend.features")

    inputs: Width = workload.sizes[f"frontend.convs.{len(frontend.convs) - 1}"] if frontend.convs else frontend.inputs
    shape = frontend.projection or ProjectionConfig(frontend.join, frontend.join)
    joined = inputs * shape.kernel
    norm = 2 * inputs if frontend.projection_norm else 0

    def projection() -> Mapping[str, Width]:
        moved = {"inputs": inputs * (shape.stride * frames), "outputs": dim * frames}
        return {"macs": joined * (dim * frames), **moved, "call": 1}

    params, macs = norm + (joined + 1) * dim, joined * dim * frames
    kind = "projection" if frontend.projection is None else "conv.whole"
    yield PartCost("frontend.projection", kind, (-1, 2), frames, params, macs, projection)

    if relative is not None:
        scores = relative.heads * frames * frames
        table = relative.buckets * relative.heads
        yield PartCost("relative", "relative", (-1, 4), frames, table, 0, lambda: {"scores": scores, "call": 1})

    if config.positions:  # one more sum
        sums = {"outputs": dim * frames, "call": 1}
        yield PartCost("positions", "norms", (-1, 3), frames, config.positions * dim, 0, lambda: sums)

    norms = sum(5 if layer.kind == "conformer" else 2 for layer in config.layers) + int(config.norm)
    outputs = norms * dim * frames
    last = (len(config.layers), 0)
    yield PartCost(
        "norms", "norms", last, frames, (1 + config.norm_bias) * dim * norms, 0, lambda: {"outputs": outputs, "call": norms}
    )
