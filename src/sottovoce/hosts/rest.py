"""What is not the encoder of a model of transformers: its own head, or decoder and head, which read given states.

B batch, T frames, D width of the states.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import partial
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
    """Stands where the encoder was, and answers with the `States` that it is called with, behind the adapter that some models have there.

    base: the model of transformers whose place it takes; its adapter (add_adapter: convolutions that join frames) and what stands before
    that stay. Unlike there, a convolution at the end of a row does not hear the padding behind it.
    """

    def __init__(self, base: nn.Module | None = None) -> None:
        super().__init__()
        self.adapter, self.intermediate_ffn = (getattr(base, name, None) for name in ("adapter", "intermediate_ffn"))
        self._valid = SimpleNamespace(frames=None)  # of the call that runs, before each layer of the adapter
        for i, layer in enumerate([] if self.adapter is None else self.adapter.layers):
            for module in layer.modules():
                if isinstance(module, nn.Conv1d):
                    module.register_forward_pre_hook(partial(self._without_padding, i))

    def forward(self, states: States, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        last = states.last
        if self.intermediate_ffn is not None:
            last = last + 0.5 * self.intermediate_ffn(last)
        if self.adapter is not None:
            self._valid.frames = states.lengths
            masked = "attention_mask" in inspect.signature(type(self.adapter).forward).parameters
            last = self.adapter(last, **({"attention_mask": states.mask()} if masked else {}))
        return BaseModelOutput(last_hidden_state=last, hidden_states=states.hidden)

    def convolutions(self) -> list[nn.Conv1d]:
        """One of each layer of the adapter; they have one shape."""
        layers = [] if self.adapter is None else self.adapter.layers
        return [next(each for each in layer.modules() if isinstance(each, nn.Conv1d)) for layer in layers]

    @property
    def stride(self) -> int:
        """Frames that one of the adapter's takes."""
        return math.prod(conv.stride[0] for conv in self.convolutions())

    def macs(self) -> float:
        """Multiplications for each frame that is given, without those between frames."""
        layers = [] if self.adapter is None else list(self.adapter.layers)
        inner = [module for module in self.modules() if isinstance(module, nn.Linear | nn.Conv1d)]
        total, rate = 0.0, 1.0
        for layer, conv in zip(layers, self.convolutions(), strict=True):
            rate /= conv.stride[0]
            own = [module for module in layer.modules() if isinstance(module, nn.Linear | nn.Conv1d)]
            total += rate * sum(module.weight.numel() for module in own)
            inner = [module for module in inner if not any(module is each for each in own)]
        return total + sum(module.weight.numel() for module in inner)  # what stands before the layers

    def frames(self, count: Any, layers: int | None = None) -> Any:
        """Frames that come out of so many, an integer or a tensor of them; behind the first `layers` of the adapter."""
        for conv in self.convolutions()[:layers]:
            assert not isinstance(conv.padding, str)
            count = (count + 2 * conv.padding[0] - conv.kernel_size[0]) // conv.stride[0] + 1
        return count

    def _without_padding(self, layer: int, conv: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """(B, D, T) with zeros behind each row's end."""
        if self._valid.frames is None:
            return None
        inside = torch.arange(inputs[0].shape[2], device=inputs[0].device) < self.frames(self._valid.frames, layer)[:, None]
        return (inputs[0] * inside[:, None].to(inputs[0].dtype),)


class CountsFrames:
    """Mixed into a head of transformers: its mask is one of frames, (B, T), not of samples; an adapter makes fewer of them.

    Of an x-vector head, the frames behind the time-delay layers are counted with their dilation, which transformers leaves out: there, a
    padded row has statistics of padding in it.
    """

    def _get_feat_extract_output_lengths(self, input_lengths: Any, add_adapter: bool | None = None) -> Any:
        return self.base_model.frames(input_lengths)  # type: ignore[attr-defined]

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
    model.set_submodule(model.base_model_prefix, GivenStates(model.base_model))
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
