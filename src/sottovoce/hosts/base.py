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
from sottovoce.encoder import Encoder, EncoderConfig, normalize
from sottovoce.families.sottovoce import Sottovoce
from sottovoce.families.student_config import STUDENT, StudentConfig
from sottovoce.hosts.bridge import Bridge, BridgeConfig, Bridges
from sottovoce.hosts.rest import States, states_of
from sottovoce.hub.pretrained import Checkpoint
from sottovoce.hub.teacher_space import TeacherSpace

BRIDGE, REST, SILENCE = "bridge.", "rest.", "silence"  # what the names of a host's tensors begin with in a student's folder


def host_config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a host in transformers: `hf` itself, or, if that is a student's, the one that it keeps."""
    student = hf.get(STUDENT) or hf
    host = student.get("host")
    return dict(hf) if not isinstance(host, Mapping) else dict(host["config"])


class Host(nn.Module):
    """A model of transformers with an encoder of ours inside. A subclass is one file: ``@HOSTS.register("name")`` and the methods below.

    suffix: what the names of its classes in transformers end with. auto_class: opens such checkpoints. answers: what `outputs` has one of:
    "frames", "tokens" (text, one after the other), or "classes" (one per recording). text: whether `transcribe` works. independent: whether
    each class is a question of its own, so that several may hold at once.
    pretrained: its encoder as it was loaded. encoder: the same, or a student put in by `put`. bridge: (B, T, D) states of the student ->
    (B, T', D') what the rest reads; empty for the host as it was. rest: transformers' own modules, frozen unless a caller unfreezes them,
    in evaluation mode. hf: the config.json of the host in transformers. told: what a student's folder says of its host; else empty.
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
        self.hf = host_config(self.pretrained.hf_config)
        assert isinstance(self.pretrained.encoder, Encoder)
        self.encoder = self.pretrained.encoder
        self.space: TeacherSpace | None = None
        student = None
        if self.pretrained.family == Sottovoce.name:
            student = StudentConfig.from_json(self.pretrained.hf_config)
            assert student.host is not None
        self.told: Mapping[str, Any] = {} if student is None or student.host is None else student.host
        self.width = int(self.told.get("width", 0))  # of the states that the rest reads, where it is not `hf`'s
        with torch.device("meta"):
            self.bridge = Bridges.from_json(self.told.get("bridges", ()))
            self.rest = self.build_rest(self.hf)
            if student is not None and student.projections and self.sums_layers:
                dims = student.encoder.dim, student.teacher_dim or 0, student.teacher_frames
                self.space = TeacherSpace(student.projections, *dims)
        names = {name: name.removeprefix(REST) for name in checkpoint.heads if not name.startswith((BRIDGE, SILENCE))}
        load_rest(self.rest, {new: checkpoint.heads[name] for name, new in names.items()})
        load_rest(self.bridge, {name.removeprefix(BRIDGE): x for name, x in checkpoint.heads.items() if name.startswith(BRIDGE)})
        if self.space is not None:
            load_rest(self.space, self.pretrained.projections)
        self.complete(checkpoint.heads)
        self.requires_grad_(False).eval()
        self.encoder.requires_grad_()

    # of a kind

    def build_rest(self, hf: dict[str, Any]) -> nn.Module:
        """The model of transformers without its encoder. Called with the device "meta"."""
        raise TypeError(f"{type(self).__name__} must define build_rest")

    def complete(self, tensors: Mapping[str, Tensor]) -> None:
        """Makes what the tensors of the checkpoint that are not the encoder's do not give."""

    def outputs(self, features: Features, batch: Batch, tokens: Tensor | None = None) -> Outputs:
        """What the host says, differentiable. features: what `encoder`, or another in its place, says of the batch.

        tokens: (B, L), for hosts that answer with tokens, as `greedy` gives them: the N = L - 1 outputs are about ``tokens[:, 1:]``.
        """
        raise TypeError(f"{type(self).__name__} must define outputs")

    def parts(self) -> dict[str, set[str]]:
        """What of the rest can be trained with a student: "head" and, where there is one, "decoder", as names of parameters."""
        return {"head": {name for name, _ in self.rest.named_parameters()}}

    @classmethod
    def objection(cls, own: EncoderConfig, student: EncoderConfig) -> str:
        """Why a student of this shape cannot live in such a host, whatever it learns; "" if it may. own: of the host's encoder."""
        return ""

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

    def way(self, linear: nn.Module | None = None, join: int = 1) -> nn.Module:
        """A bridge from a student of this host's encoder: a trained projection into the encoder's last layer, and its final norm.

        linear: student width -> `join` frames of the encoder's width, a linear layer, or several with GELUs between; the bridge shares its
        weights. Without one, a student of the same width is read as it is, behind its own final norm. ValueError if it leads to another
        width.
        """
        config, norm = self.pretrained.shape, self.pretrained.encoder.norm
        assert isinstance(norm, nn.Module)
        if linear is None:
            return nn.Identity()
        maps = [module for module in linear.modules() if isinstance(module, nn.Linear)]
        sizes = (maps[0].in_features, *(module.out_features for module in maps))
        if sizes[-1] != config.dim * join:
            raise ValueError(
                f"the projection gives {sizes[-1]} channels, and the host's encoder has {config.dim} in {join} frames"
            )
        normed = config.norm_first and config.norm and not len(self.bridge)  # an earlier bridge reads states as they are
        bridge = Bridge(BridgeConfig(sizes, join, normed, config.norm_eps, config.norm_bias))
        bridge.maps = nn.ModuleList(maps)
        bridge.norm = copy.deepcopy(norm) if bridge.config.norm else nn.Identity()
        return bridge

    def put(self, encoder: Encoder, bridge: nn.Module, space: TeacherSpace | None = None) -> None:
        """Puts a student in the place of the encoder that was loaded.

        bridge: as `way` makes one. space: trained projections of the student's layers, for heads that sum all layers. ValueError if the
        student fits none.
        """
        config, wide = encoder.config, self.pretrained.dim
        if reason := self.objection(self.pretrained.shape, config):
            raise ValueError(reason)
        if isinstance(bridge, nn.Identity) and config.dim != wide:
            raise ValueError(
                f"the student is {config.dim} wide and its host reads {wide} channels: it needs a trained projection of its last layer; "
                "learn the teacher's last layer by an objective that has one, such as layer_to_layer, fit one behind the training (a last "
                "stage of kind fit_map), or set host.keep to false"
            )
        if self.sums_layers and (len(config.layers) != self.pretrained.depth or config.dim != wide or self.space is not None):
            raise ValueError(
                f"the head of this host sums all {self.pretrained.depth} layers, {wide} wide (use_weighted_layer_sum), and the student has "
                f"{len(config.layers)}, {config.dim} wide; take a student of as many layers of that width, or set host.keep to false"
            )
        new = [bridge] if isinstance(bridge, Bridge) and not self.sums_layers else []
        self.encoder, self.bridge = encoder, Bridges(*new, *self.bridge)
        self.space = space if self.sums_layers else None

    def count(self, samples: Any) -> Any:
        """Outputs of so many samples, an integer or a tensor of them, of a host that answers with frames."""
        return self.pretrained.shape.frontend.frames(samples) * self.bridge.join

    def listen(self, batch: Batch) -> Features:
        """What the encoder says of a batch as it was decoded."""
        wave = normalize(batch.wave, batch.lengths) if self.pretrained.normalize else batch.wave
        features: Features = self.encoder(wave, batch.lengths)
        return features

    def states(self, features: Features) -> States:
        """What the rest reads of an encoder's features."""
        return states_of(features, self.bridge, self.space, self.sums_layers)

    def asked(self, task: str, language: str, beams: int = 1) -> dict[str, Any]:
        """The options of `greedy` for a task: "transcribe", or "translate", into English. language: the code of the language that is
        spoken, "" if it is not known. beams: hypotheses of the search. ValueError for what the host cannot do."""
        if task != "transcribe" or not self.text:
            raise ValueError(f"{self.pretrained.source}: a host of kind {self.name} cannot {task}")
        if beams > 1:
            raise ValueError(f"{self.pretrained.source}: a host of kind {self.name} has no search; leave beams at 1")
        return {}

    @property
    def whence(self) -> str:
        """Where what it says comes from, for people: it recognises speech, ..."""
        return f"as the {self.hf['architectures'][0]} that it comes from"

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
    for target, source in tied.items():  # one parameter again, for whoever trains it
        parent, _, name = target.rpartition(".")
        setattr(rest.get_submodule(parent), name, rest.get_parameter(source))
