"""The settings of gates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GateConfig:
    """Constants of the hard-concrete distribution, and the initial values of gates.

    beta: temperature. gamma, zeta: samples are stretched to this interval before they are clipped to [0, 1]. eps: keeps the noise away
    from 0 and 1. drop, drop_ffn: log_alpha starts at log((1 - drop) / drop); 0.5 for feed-forward units (P(open) = 0.832) gives HuBERT
    Base an expected sparsity of 0.10 at the start, as in DPHuBERT. std: deviation of the noise that is added to it.

    straight_through: gates are 0 or 1 in the forward pass and have the gradients of the values between (Peng et al., arXiv 2306.01385).
    pinching: every group learns one number instead of one per unit: a threshold on the norms of its units' weights, with
    log_alpha = slope log(norm / threshold). After self-pinching gates (arXiv 2505.22608), of which only the idea is known.
    """

    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1
    eps: float = 1e-6
    drop: float = 0.01
    drop_ffn: float = 0.5
    std: float = 0.01
    straight_through: bool = False
    pinching: bool = False
    slope: float = 3.0

    def __post_init__(self) -> None:
        if not (0 < self.drop < 1 and 0 < self.drop_ffn < 1):
            raise ValueError(f"drop and drop_ffn must lie between 0 and 1, got {self.drop} and {self.drop_ffn}")
        if self.slope <= 0:
            raise ValueError(f"slope must be above 0; got {self.slope}")
        if not (self.beta > 0 and self.gamma < 0 and self.zeta > 1):
            raise ValueError("hard-concrete gates need beta > 0, gamma < 0 and zeta > 1")
