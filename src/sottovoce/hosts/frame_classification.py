"""Classifiers of frames: who speaks when."""

from __future__ import annotations

from sottovoce.core.registry import HOSTS
from sottovoce.hosts.heads import HeadHost


@HOSTS.register("frame-classification")
class FrameClassificationHost(HeadHost):
    """A classifier of frames, such as a diarizer."""

    suffix = "ForAudioFrameClassification"
    first = "classifier"
    auto_class = "AutoModelForAudioFrameClassification"
    answers = "frames"
    independent = True
