"""An encoder with gates, as one module that can be trained, saved and cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import Features
from sottovoce.encoder import Encoder
from sottovoce.pruning.apply import Values, cut, gather, named_tensors
from sottovoce.pruning.gate_config import GateConfig
from sottovoce.pruning.gates import Gates
from sottovoce.pruning.plan import make_plan, prepare


class GatedEncoder(nn.Module):
    """`encoder` with hard-concrete gates on the given kinds of units. Gates are sampled in training mode, evaluated otherwise.

    Closed units are not computed. The encoder is not copied, unless `prepare` has to change it for these kinds.
    """

    def __init__(
        self,
        encoder: Encoder,
        units: Sequence[str] = ("conv", "head", "ffn"),
        gates: GateConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.units = tuple(units)
        self.encoder = prepare(encoder, units)
        self.plan = make_plan(self.encoder.config, units)
        self.gates = Gates(self.plan, gates, generator).to(self.encoder.frontend.projection.weight.device)
        if self.gates.config.pinching:
            self.gates.measure(named_tensors(self.encoder), start=True)

    def forward(self, wave: Tensor, lengths: Tensor | None = None, *, values: Values | None = None, **kwargs: Any) -> Features:
        """Like `Encoder.forward`. values: gate values by group; by default the gates' own."""
        if self.training and self.gates.config.pinching:
            self.gates.measure(named_tensors(self.encoder))
        tensors = self.materialise(self.gates() if values is None else values)
        features: Features = torch.func.functional_call(self.encoder, tensors, (wave, lengths), kwargs)
        return features

    def materialise(self, values: Values) -> dict[str, Tensor]:
        """The smaller encoder's tensors that differ from the encoder's own.

        The sums of empty tensors (zeros) are added to the projection's bias. This keeps their parameters in the graph: they get a zero
        gradient, like other closed units, not ``None``, which optimisers and DDP treat differently.
        """
        tensors = named_tensors(self.encoder)
        smaller = gather(tensors, self.plan, values)
        empty = [tensor.sum() for tensor in smaller.values() if tensor.numel() == 0 and tensor.requires_grad]
        for name, _ in self.encoder.config.factored:  # one factor is not used where the other is empty
            factors = [smaller.get(part, tensors.get(part)) for part in (f"{name}.inner.weight", f"{name}.outer.weight")]
            if any(factor is not None and factor.numel() == 0 for factor in factors):
                empty += [0 * factor.sum() for factor in factors if factor is not None and factor.numel()]
        if empty:
            smaller["frontend.projection.bias"] = tensors["frontend.projection.bias"] + torch.stack(empty).sum()
        return smaller

    def cut(self, values: Values | None = None) -> Encoder:
        """The smaller encoder. values: gate values by group; by default those of `Gates.evaluate`."""
        return cut(self.encoder, self.plan, self.gates.evaluate() if values is None else values)
