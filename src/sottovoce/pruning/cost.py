"""The cost of an encoder of a given shape: parameters, and multiply-accumulates per second of audio.

One formula serves exact counts (integers) and expectations (differentiable tensors). The cost is a polynomial in the widths that is
linear in each, and gates of different groups are independent, so expected widths give the expected cost (DPHuBERT, arXiv 2305.17651,
does this for parameters).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sottovoce.core.types import SAMPLE_RATE, Cost
from sottovoce.encoder import EncoderConfig
from sottovoce.pruning.parts import encoder_parts
from sottovoce.pruning.unit import Width


def encoder_cost(
    config: EncoderConfig, widths: Mapping[str, Width] | None = None, seconds: float = 10.0, merged: bool = False
) -> dict[str, Cost]:
    """Cost of each part for one clip of `seconds` (in longer clips attention costs more per second).

    widths: group name -> (expected) number of open units, for the groups that differ from `config`. Parts have the names of their modules,
    such as "frontend.convs.0" and "layers.3.ffn"; "frontend.projection" includes its norm, "norms" are the norms of the layers.
    merged: after `factors.merge`. params: elements of the state dict. macs: half of what `torch.utils.flop_counter` counts.
    """
    parts = encoder_parts(config, widths, seconds, merged)
    if config.window:  # as long as a window, a clip is as dear as its audio; longer ones are so many windows
        seconds = min(seconds, config.window / SAMPLE_RATE)
    return {name: Cost(part.params, part.macs / seconds) for name, part in parts.items()}


def total(costs: Mapping[str, Cost] | Iterable[Cost]) -> Cost:
    """The sum of all parts."""
    result = Cost(0, 0)
    for cost in costs.values() if isinstance(costs, Mapping) else costs:
        result = result + cost
    return result
