"""Speaker verifiers by x-vectors (Snyder et al., ICASSP 2018)."""

from __future__ import annotations

from sottovoce.core.registry import HOSTS
from sottovoce.hosts.heads import HeadHost


@HOSTS.register("xvector")
class XVectorHost(HeadHost):
    """A speaker verifier: time-delay layers, mean and deviation over time, and one vector for the recording."""

    suffix = "ForXVector"
    first = "projector"
    auto_class = "AutoModelForAudioXVector"
    answers = "classes"
