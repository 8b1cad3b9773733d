"""What is not the encoder of a model of transformers: its own head, or decoder and head, which read given states.

B batch, T frames, D width of the states.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from sottovoce.core.types import Features
from sottovoce.hosts.bridge import Bridges
from sottovoce.hub.teacher_space import TeacherSpace


@dataclass(frozen=True)
class States:
    """What the rest reads. last: (B, T, D) after a final norm; hidden: the states of every layer, (B, T, D) each, for heads that sum layers
    (of other heads: ``None``). lengths: (B,) valid frames, or ``None`` if all are."""

    last: Tensor
    hidden: tuple[Tensor, ...] | None = None
    lengths: Tensor | None = None

    def mask(self) -> Tensor | None:
        """(B, T) integers, 1 on valid frames; ``None`` if all are valid."""
        if self.lengths is None:
            return None
        return (torch.arange(self.last.shape[1], device=self.last.device) < self.lengths[:, None]).long()


def states_of(features: Features, bridge: Bridges, space: TeacherSpace | None = None, every: bool = False) -> States:
    """What the rest reads of an encoder's features: its last state, behind its own final norm, or over the bridge.

    every: the head sums all layers. space: then, the way of each layer of a student into the space of the encoder that it replaced.
    """
    last, lengths, hidden = features.last, features.lengths, None
    if len(bridge):
        last = bridge(features.hidden[-1])
        lengths = None if lengths is None else lengths * bridge.join
    if every:
        layers = features.hidden if space is None else space(features.hidden)
        hidden = (features.embedded, *layers[1:])
        last = hidden[-1]
    return States(last, hidden, lengths)


class GivenStates(nn.Module):
    """Stands where the encoder was, and answers with the `States` that it is called with."""

    def forward(self, states: States, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=states.last, hidden_states=states.hidden)


class CountsFrames:
    """Mixed into a head of transformers: its mask is one of frames, (B, T), not of samples.

    Of an x-vector head, the frames behind the time-delay layers are counted with their dilation, which transformers leaves out: there, a
    padded row has statistics of padding in it.
    """

    def _get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        return input_lengths

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor, **kwargs: Any) -> Tensor:
        return attention_mask[:, :feature_vector_length].bool()

    def _get_tdnn_output_lengths(self, input_lengths: Tensor) -> Tensor:
        config: Any = self.config  # type: ignore[attr-defined]
        steps = zip(config.tdnn_kernel, config.tdnn_dilation, strict=True)
        return input_lengths - sum((kernel - 1) * dilation for kernel, dilation in steps)


# model_type -> what the names of its classes begin with
STEMS = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "unispeech-sat": "UniSpeechSat",
    "data2vec-audio": "Data2VecAudio",
    "wav2vec2-bert": "Wav2Vec2Bert",
    "wav2vec2-conformer": "Wav2Vec2Conformer",
    "whisper": "Whisper",
    "moonshine": "Moonshine",
}


def class_of(model_type: str, suffix: str) -> type[nn.Module] | None:
    """The class of transformers for a kind of head ("ForCTC") on a kind of encoder; ``None`` if there is none."""
    import transformers

    return getattr(transformers, STEMS[model_type] + suffix, None) if model_type in STEMS else None


def config_of(hf: dict[str, Any]) -> Any:
    """A config.json as transformers' configuration of its model_type."""
    from transformers import AutoConfig

    fields = {key: value for key, value in hf.items() if key not in ("model_type", "auto_map")}
    return AutoConfig.for_model(hf["model_type"], **fields)


def head(hf: dict[str, Any], suffix: str, first: str, width: int = 0) -> nn.Module:
    """A head of transformers without its encoder: called with `States` and their mask, (B, T) or ``None``. Weights as the class starts
    them.

    first: name of the linear layer that reads the states. width: of the states, where it is not the encoder's in `hf`.
    """
    cls = class_of(hf["model_type"], suffix)
    assert cls is not None
    model: Any = type(cls.__name__, (CountsFrames, cls), {"__module__": cls.__module__})(config_of(hf))
    model.set_submodule(model.base_model_prefix, GivenStates())
    if width:
        old = model.get_submodule(first)
        model.set_submodule(first, nn.Linear(width, old.out_features, device=old.weight.device))
    rest: nn.Module = model
    return rest


@dataclass
class Heard(BaseModelOutput):
    """The output of an encoder of transformers, with the mask of its frames, (B, T), for decoders that look at one."""

    attention_mask: Tensor | None = None


def decoder(hf: dict[str, Any], suffix: str) -> nn.Module:
    """A decoder of transformers with its head and `GivenStates` for its encoder, called with ``encoder_outputs=Heard(...)``."""
    cls = class_of(hf["model_type"], suffix)
    assert cls is not None
    model = cls(config_of(hf))
    given: Any = GivenStates()
    if hf["model_type"] == "whisper":  # its `generate` asks how many frames of its features make one
        given.conv1, given.conv2 = SimpleNamespace(stride=(1,)), SimpleNamespace(stride=(2,))
    model.set_submodule("model.encoder", given)
    return model
