"""The base class of hosts: models of transformers with an encoder of ours inside.

B batch, S samples, T frames of the encoder, T' frames that the rest reads, D' their width, N outputs of a row, C classes or tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch, Features, Outputs
from sottovoce.encoder import Encoder, normalize
from sottovoce.hosts.rest import States
from sottovoce.hub.pretrained import Checkpoint


class Bridge(nn.Module):
    """(B, T, D) bare states of a student's last layer -> (B, join T, D') the states that the rest of a host reads.

    linear: D -> join D'. norm: of the encoder that was replaced, behind its last layer.
    """

    def __init__(self, linear: nn.Linear, join: int = 1, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.linear, self.join, self.norm = linear, join, norm or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if self.join > 1:
            x = x.unflatten(2, (self.join, -1)).flatten(1, 2)
        states: Tensor = self.norm(x)
        return states


class Host(nn.Module):
    """A model of transformers with an encoder of ours inside. A subclass is one file: ``@HOSTS.register("name")`` and the methods below.

    suffix: what the names of its classes in transformers end with. auto_class: opens such checkpoints. answers: what `outputs` has one of:
    "frames", "tokens" (text, one after the other), or "classes" (one per recording). text: whether `transcribe` works. independent: whether
    each class is a question of its own, so that several may hold at once.
    pretrained: its encoder as it was loaded. encoder: the same, or a student put in by `put`. bridge: (B, T, D) states of the student ->
    (B, T', D') what the rest reads; ``nn.Identity`` for the host as it was. rest: transformers' own modules, frozen unless a caller
    unfreezes them, in evaluation mode.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    auto_class: ClassVar[str]
    answers: ClassVar[Literal["frames", "tokens", "classes"]]
    text: ClassVar[bool] = False
    independent: ClassVar[bool] = False
    model_types: ClassVar[tuple[str, ...]] = ()  # of config.json; empty for all that have such a class
    rest: Any

    def __init__(self, checkpoint: Checkpoint) -> None:
        """ValueError if weights of the rest are missing, unexpected, or of another shape."""
        super().__init__()
        self.pretrained, self.folder = checkpoint.pretrained, checkpoint.folder
        self.hf = checkpoint.pretrained.hf_config
        assert isinstance(self.pretrained.encoder, Encoder)
        self.encoder = self.pretrained.encoder
        self.bridge: nn.Module = nn.Identity()
        with torch.device("meta"):
            self.rest = self.build_rest(self.hf)
        load_rest(self.rest, checkpoint.heads)
        self.complete()
        self.rest.requires_grad_(False).eval()

    # of a kind

    def build_rest(self, hf: dict[str, Any]) -> nn.Module:
        """The model of transformers without its encoder. Called with the device "meta"."""
        raise TypeError(f"{type(self).__name__} must define build_rest")

    def complete(self) -> None:
        """Makes the tensors of the rest that no checkpoint has."""

    def outputs(self, features: Features, batch: Batch, tokens: Tensor | None = None) -> Outputs:
        """What the host says, differentiable. features: what `encoder`, or another in its place, says of the batch.

        tokens: (B, L), for hosts that answer with tokens, as `greedy` gives them: the N = L - 1 outputs are about ``tokens[:, 1:]``.
        """
        raise TypeError(f"{type(self).__name__} must define outputs")

    def parts(self) -> dict[str, set[str]]:
        """What of the rest can be trained with a student: "head" and, where there is one, "decoder", as names of parameters."""
        return {"head": {name for name, _ in self.rest.named_parameters()}}

    def spelled(self, text: str, **options: Any) -> list[int]:
        """The tokens of a text; [] if it has characters that the tokenizer does not know. options: as of `greedy`."""
        raise ValueError(f"a host of kind {self.name} has no texts")

    def chosen(self, tokens: Tensor) -> Tensor:
        """(B, L - 1) bool, which of ``tokens[:, 1:]`` a decoder chose: not those it was given, nor padding after the end."""
        raise ValueError(f"a host of kind {self.name} does not answer with tokens")

    @property
    def end(self) -> int:
        """The token that ends a text; of CTC, its blank."""
        return int(self.rest.config.pad_token_id)

    # of all

    def way(self, linear: nn.Linear | None = None, join: int = 1) -> nn.Module:
        """A bridge from a student of this host's encoder: a trained projection into the encoder's last layer, and its final norm.

        linear: student width -> `join` frames of the encoder's width. Without one, a student of the same width is read as it is, behind its
        own final norm. ValueError if the width is another.
        """
        config, norm = self.pretrained.shape, self.pretrained.encoder.norm
        assert isinstance(norm, nn.Module)
        if linear is None:
            return nn.Identity()
        if linear.out_features != config.dim * join:
            raise ValueError(
                f"the projection gives {linear.out_features} channels, and the host's encoder has {config.dim} in {join} frames"
            )
        return Bridge(linear, join, copy.deepcopy(norm) if config.norm_first else None)

    def put(self, encoder: Encoder, bridge: nn.Module) -> None:
        """Puts a student in the place of the encoder. bridge: as `way` makes one. ValueError if it fits neither."""
        if isinstance(bridge, nn.Identity) and encoder.config.dim != self.pretrained.dim:
            raise ValueError(
                f"the student is {encoder.config.dim} wide and the host reads {self.pretrained.dim}: it needs a trained projection from "
                "its last layer, so learn the teacher's last layer by an objective that has one, such as layer_to_layer"
            )
        if self.sums_layers and not isinstance(bridge, nn.Identity):
            raise ValueError(
                "the host's head reads a sum of all layers (use_weighted_layer_sum), and only the last one has a bridge"
            )
        self.encoder, self.bridge = encoder, bridge

    def listen(self, batch: Batch) -> Features:
        """What the encoder says of a batch as it was decoded."""
        wave = normalize(batch.wave, batch.lengths) if self.pretrained.normalize else batch.wave
        features: Features = self.encoder(wave, batch.lengths)
        return features

    def states(self, features: Features) -> States:
        """What the rest reads of an encoder's features."""
        if isinstance(self.bridge, nn.Identity):
            hidden = (features.embedded, *features.hidden[1:]) if self.sums_layers else None
            return States(features.last, hidden, features.lengths)
        last, lengths = self.bridge(features.hidden[-1]), features.lengths
        join = last.shape[1] // features.last.shape[1]
        return States(last, None, None if lengths is None else lengths * join)

    def asked(self, task: str, language: str, beams: int = 1) -> dict[str, Any]:
        """The options of `greedy` for a task: "transcribe", or "translate", into English. language: the code of the language that is
        spoken, "" if it is not known. beams: hypotheses of the search. ValueError for what the host cannot do."""
        if task != "transcribe" or not self.text:
            raise ValueError(f"{self.pretrained.source}: a host of kind {self.name} cannot {task}")
        if beams > 1:
            raise ValueError(f"{self.pretrained.source}: a host of kind {self.name} has no search; leave beams at 1")
        return {}

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of one text; ``None`` where the recording's length is the limit."""
        return None

    @property
    def sums_layers(self) -> bool:
        """Whether the head reads a weighted sum of all layers."""
        return bool(self.hf.get("use_weighted_layer_sum"))

    @torch.no_grad()
    def transcribe(self, wave: Tensor, lengths: Tensor | None = None, **options: Any) -> list[str]:
        """The text of each recording, greedily. wave: (B, S) 16 kHz as decoded; lengths: (B,) valid samples. options: of `greedy`.

        ValueError for a host that has no text.
        """
        if not self.text:
            raise ValueError(f"a host of kind {self.name} does not transcribe")
        batch = Batch(wave, lengths)
        return self.texts(self.greedy(self.listen(batch), batch, **options))

    @torch.no_grad()
    def greedy(self, features: Features, batch: Batch, **options: Any) -> Tensor:
        """The host's own greedy transcript, (B, L) tokens, padded with its padding token. Of a CTC host: frame by frame, not joined."""
        raise ValueError(f"a host of kind {self.name} has no transcript")

    def texts(self, tokens: Tensor) -> list[str]:
        """The text of tokens as `greedy` gives them."""
        return [str(text).strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer in the host's folder. ValueError if there is none."""
        if not hasattr(self, "_tokenizer"):
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
            except Exception as problem:  # of other people's files: anything may come
                raise ValueError(
                    f"{self.pretrained.source}: no tokenizer can be read from its folder ({problem}); put the tokenizer files of the "
                    "original model there"
                ) from None
        return self._tokenizer


def load_rest(rest: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts `tensors` into a model built on the device "meta", as float32. Tied weights may be there once. ValueError as in `Host`."""
    tied: Mapping[str, str] = getattr(rest, "all_tied_weights_keys", None) or {}
    state = {name: tensor.float() for name, tensor in tensors.items()}
    for target, source in tied.items():
        if target not in state and source in state:
            state[target] = state[source]
        elif source not in state and target in state:
            state[source] = state[target]
    wanted = rest.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{name} is not part of it" for name in state if name not in wanted]
    faults += [
        f"{name} has shape {tuple(state[name].shape)}; expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults += [f"{name} holds NaN or infinity" for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"the weights do not fit the {type(rest).__name__} of config.json: {'; '.join(faults[:3])}{more}")
    rest.load_state_dict(state, assign=True)
