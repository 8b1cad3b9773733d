"""A student with a head on it, as a model of transformers: recognisers by CTC, classifiers of recordings and frames, x-vectors.

A flat copy of this file travels with such a student. B batch, S samples, T frames that the head reads, C classes or tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sottovoce.hosts.bridge import Bridges
from sottovoce.hosts.rest import head, states_of
from sottovoce.hub.configuration import SottovoceConfig
from sottovoce.hub.modeling import SottovoceModel

FIRST = {  # kind of head -> its linear layer that reads the states
    "ForCTC": "lm_head",
    "ForSequenceClassification": "projector",
    "ForAudioFrameClassification": "classifier",
    "ForXVector": "projector",
}


class HeadModel(SottovoceModel):
    """A student, the bridge to what the head reads, and the head, which is transformers' own.

    >>> inputs = feature_extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
    >>> model(**inputs).logits                  # (B, T, C), or (B, C)
    """

    suffix = ""
    rest: Any
    _keys_to_ignore_on_load_unexpected = ()  # type: ignore[assignment]

    def __init__(self, config: SottovoceConfig) -> None:
        super().__init__(config)
        host = config.host
        assert host is not None
        self.sums_layers = bool(host["config"].get("use_weighted_layer_sum"))
        self.bridge = Bridges.from_json(host["bridges"])
        self.rest = head(host["config"], self.suffix, FIRST[self.suffix], host.get("width", 0))
        self.post_init()

    def forward(  # type: ignore[override]
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_values: (B, S) 16 kHz, normalised as preprocessor_config.json says. attention_mask: (B, S), padding on the right.

        labels: as transformers' class takes them; the output then has a `loss`. ``hidden_states``: the student's, as of `SottovoceModel`.
        """
        if output_attentions:
            raise ValueError("attention maps are never made in this model, so output_attentions=True cannot be served")
        features = self.encoder(input_values, None if attention_mask is None else attention_mask.sum(-1))
        states = states_of(features, self.bridge, self.projections if len(self.projections) else None, self.sums_layers)
        mask = states.mask()
        if mask is None and labels is not None:
            mask = torch.ones(states.last.shape[:2], dtype=torch.long, device=states.last.device)
        out = self.rest(states, attention_mask=mask, labels=labels, return_dict=True)
        if output_hidden_states or (output_hidden_states is None and self.config.output_hidden_states):
            out.hidden_states = (features.embedded, *features.hidden[1:])
        whole = return_dict if return_dict is not None else getattr(self.config, "return_dict", True)
        return out if whole else out.to_tuple()

    def _get_feat_extract_output_lengths(self, input_lengths: Any) -> Any:
        """Frames that the head reads of so many samples."""
        frames = self.shape.frontend.frames(input_lengths)
        return self.rest.base_model.frames(frames * self.bridge.join)


class SottovoceForCTC(HeadModel):
    """Stands in for HubertForCTC, Wav2Vec2ForCTC and the like."""

    suffix = "ForCTC"


class Wav2Vec2ForSequenceClassification(HeadModel):
    """Stands in for HubertForSequenceClassification and the like. Its name is one that pipelines know."""

    suffix = "ForSequenceClassification"


class SottovoceForAudioFrameClassification(HeadModel):
    """Stands in for WavLMForAudioFrameClassification and the like."""

    suffix = "ForAudioFrameClassification"


class SottovoceForXVector(HeadModel):
    """Stands in for WavLMForXVector and the like."""

    suffix = "ForXVector"
