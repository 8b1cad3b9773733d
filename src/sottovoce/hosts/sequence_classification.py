"""Classifiers of whole recordings: commands, emotions, languages."""

from __future__ import annotations

from sottovoce.core.registry import HOSTS
from sottovoce.hosts.heads import HeadHost


@HOSTS.register("sequence-classification")
class SequenceClassificationHost(HeadHost):
    """A classifier of recordings: a projection, its mean over frames, and a linear layer."""

    suffix = "ForSequenceClassification"
    first = "projector"
    auto_class = "AutoModelForAudioClassification"
    answers = "classes"
