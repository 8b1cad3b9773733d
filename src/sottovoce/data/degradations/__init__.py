"""Kinds of degradations, one file each. `base.Degradation` says what a kind must define."""

from sottovoce.data.degradations.base import Chain, Degradation, DegradationChoice, check_range, degraded, drawn

__all__ = ["Chain", "Degradation", "DegradationChoice", "check_range", "degraded", "drawn"]
