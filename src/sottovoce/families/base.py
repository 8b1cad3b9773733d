"""What all families of wav2vec 2.0's kind share: Hugging Face config and weight names <-> `encoder/`.

A family file holds only what is different. Names are data: `NAMES` says, for each of our modules, what Hugging Face calls it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import (
    ConvConfig,
    ConvolutionConfig,
    DistanceConfig,
    DropoutConfig,
    EncoderConfig,
    FrontendConfig,
    LayerConfig,
    PositionConfig,
    RelativeConfig,
    shapes,
)
from sottovoce.encoder.modules import ACTIVATIONS
from sottovoce.families.weight_norm import fold_weight_norm, unfold_weight_norm

# Our module (or whole tensor) -> Hugging Face's; '#' is a running number.
NAMES: dict[str, str] = {
    "frontend.convs.#.conv": "feature_extractor.conv_layers.#.conv",
    "frontend.convs.#.norm": "feature_extractor.conv_layers.#.layer_norm",
    "frontend.norm": "feature_projection.layer_norm",
    "frontend.projection": "feature_projection.projection",
    "position.convs.0": "encoder.pos_conv_embed.conv",
    "norm": "encoder.layer_norm",
    "layers.#.attention.q_proj": "encoder.layers.#.attention.q_proj",
    "layers.#.attention.k_proj": "encoder.layers.#.attention.k_proj",
    "layers.#.attention.v_proj": "encoder.layers.#.attention.v_proj",
    "layers.#.attention.out_proj": "encoder.layers.#.attention.out_proj",
    "layers.#.attention_norm": "encoder.layers.#.layer_norm",
    "layers.#.ffn.up_proj": "encoder.layers.#.feed_forward.intermediate_dense",
    "layers.#.ffn.down_proj": "encoder.layers.#.feed_forward.output_dense",
    "layers.#.ffn_norm": "encoder.layers.#.final_layer_norm",
}

# Left out: what sits on top of the encoder or serves only its pre-training, by the outermost part of its name. `feature_extractor`
# is here because the speaker verification heads have a layer of that name, next to the encoder; it only counts outside of the
# encoder's own prefix.
HEADS = (
    # fine-tuning: CTC, classification, diarisation, speaker verification, adapters after the last layer
    *(
        "lm_head",
        "classifier",
        "projector",
        "layer_weights",
        "feature_extractor",
        "tdnn",
        "objective",
        "adapter",
        "intermediate_ffn",
    ),
    # pre-training: wav2vec 2.0 and UniSpeech, UniSpeech-SAT, and HuBERT, WavLM and ContentVec as fairseq has them
    *("quantizer", "project_hid", "project_q", "ctc_proj", "masked_spec_embed"),
    *("speaker_proj", "label_embeddings_concat", "layer_norm_for_extract"),
    *("final_proj", "label_embs_concat"),
)

# What transformers assumes where config.json is silent.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "feat_proj_dropout": 0.0,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}

LARGEST, DEEPEST = 2**20, 1000  # no width and no number of layers or convolutions lies above

MASK_VECTOR = "masked_spec_embed"  # what masked frames are replaced by in pre-training

SHOWN = 5  # how many faults of a checkpoint one message lists


class Family:
    """A family of teachers in Hugging Face format.

    model_types: the ``model_type`` values of config.json that it reads. prefix: what a model with a head puts before the
    encoder's tensor names. architecture: the transformers class without a head. names, defaults: see `NAMES` and `DEFAULTS`.
    fixed: keys of `defaults` that the class does not read, with what it does whatever they say. normed: whether the encoder has a
    norm around its layers. idle: patterns of tensors that the class holds and does not compute with, or can compute itself.
    certain: `normalize` holds whatever the feature extractor's settings say.
    """

    @dataclass(frozen=True)
    class Config:
        """Nothing to choose: the checkpoint says it all."""

    name: str
    model_types: tuple[str, ...] = ()
    prefix: str = ""
    architecture: str = ""
    names: ClassVar[Mapping[str, str]] = NAMES
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS
    fixed: ClassVar[Mapping[str, Any]] = {"feat_proj_layer_norm": True}
    normed: bool = True
    idle: ClassVar[tuple[str, ...]] = ()
    certain: bool = False

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    # config.json

    def encoder_config(self, hf: Mapping[str, Any]) -> EncoderConfig:
        """The shape that `hf`, a parsed config.json, describes. ValueError on what the encoder does not do.

        LayerDrop is left out on purpose: distillation compares every layer of the student with the teacher's, so each must run.
        """
        self.refuse(hf)
        hf = self.filled(hf)
        dim, heads = hf["hidden_size"], hf["num_attention_heads"]
        if dim % heads:
            raise ValueError(f"config.json: hidden_size {dim} is not a multiple of num_attention_heads {heads}")
        for key in ("hidden_act", "feat_extract_activation"):
            if key in self.defaults and hf[key] not in ACTIVATIONS:
                raise ValueError(f"config.json: {key} is {hf[key]!r}; known: {', '.join(ACTIVATIONS)}")
        config = EncoderConfig(
            frontend=self.frontend(hf),
            dim=dim,
            position=self.position(hf),
            layers=(self.layer(hf),) * hf["num_hidden_layers"],
            norm_first=self.norm_first(hf),
            norm_eps=hf["layer_norm_eps"],
            activation=hf["hidden_act"],
            relative=self.relative(hf),
            dropout=self.dropout(hf),
            distance=self.distance(hf),
            convolution=self.convolution(hf),
            norm=self.normed,
        )
        return dataclasses.replace(config, **self.special(hf))

    def read_keys(self) -> frozenset[str]:
        """The keys of config.json that the family reads, beside those of its transformers class."""
        return frozenset(self.defaults)

    def filled(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """`hf` over the family's defaults. ValueError on a value of another type than the default's, or one that cannot be."""
        for key, default in self.defaults.items():
            value = hf.get(key)
            if value is not None and key not in self.fixed and not _possible(key, value, default):
                raise ValueError(f"config.json: {key} is {value!r}; expected something like {default!r}")
        return {**self.defaults, **{key: value for key, value in hf.items() if value is not None}, **self.fixed}

    def refuse(self, hf: Mapping[str, Any]) -> None:
        """ValueError for variants whose function the encoder cannot hold."""
        refuse_quantised(hf)

    # the parts of the shape; `hf` with the family's defaults filled in

    def frontend(self, hf: Mapping[str, Any]) -> FrontendConfig:
        sizes = [hf[key] for key in ("conv_dim", "conv_kernel", "conv_stride")]
        if len({len(size) for size in sizes}) != 1:
            raise ValueError(f"config.json: conv_dim, conv_kernel and conv_stride differ in length: {sizes}")
        norm = hf["feat_extract_norm"]
        if norm not in ("group", "layer"):
            raise ValueError(f"config.json: feat_extract_norm is {norm!r}; known: 'group', 'layer'")
        return FrontendConfig(
            convs=tuple(ConvConfig(*size) for size in zip(*sizes, strict=True)),
            norm=norm,
            bias=hf["conv_bias"],
            projection_norm=hf["feat_proj_layer_norm"],
            activation=hf["feat_extract_activation"],
        )

    def position(self, hf: Mapping[str, Any]) -> PositionConfig | None:
        return PositionConfig(kernel=hf["num_conv_pos_embeddings"], groups=self.groups(hf))

    def groups(self, hf: Mapping[str, Any]) -> int:
        """Channel groups of the positional convolution."""
        dim, groups = hf["hidden_size"], hf["num_conv_pos_embedding_groups"]
        if dim % groups:
            raise ValueError(f"config.json: hidden_size {dim} is not a multiple of num_conv_pos_embedding_groups {groups}")
        return int(groups)

    def layer(self, hf: Mapping[str, Any]) -> LayerConfig:
        heads = hf["num_attention_heads"]
        columns = tuple(range(heads)) if self.relative(hf) else ()
        return LayerConfig(heads, hf["hidden_size"] // heads, hf["intermediate_size"], heads=columns)

    def norm_first(self, hf: Mapping[str, Any]) -> bool:
        return bool(hf["do_stable_layer_norm"])

    def relative(self, hf: Mapping[str, Any]) -> RelativeConfig | None:
        return None

    def distance(self, hf: Mapping[str, Any]) -> DistanceConfig | None:
        return None

    def convolution(self, hf: Mapping[str, Any]) -> ConvolutionConfig:
        return ConvolutionConfig()

    def special(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the shape that most families leave at their defaults."""
        return {}

    def dropout(self, hf: Mapping[str, Any]) -> DropoutConfig:
        return DropoutConfig(
            projection=hf["feat_proj_dropout"],
            hidden=hf["hidden_dropout"],
            attention=hf["attention_dropout"],
            ffn=hf["activation_dropout"],
        )

    # the waveform

    def normalize(self, hf: Mapping[str, Any]) -> bool:
        """Whether its checkpoints want waveforms of zero mean and unit variance, where no preprocessor_config.json says."""
        return bool({**hf, **self.fixed}.get("feat_extract_norm", "group") == "layer")

    def preprocessor(self, config: EncoderConfig, normalize: bool) -> dict[str, Any]:
        """preprocessor_config.json of an encoder of the family, as transformers reads it."""
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "do_normalize": normalize,
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": SAMPLE_RATE,
        }

    def check_preprocessor(self, config: EncoderConfig, preprocessor: Mapping[str, Any]) -> None:
        """ValueError when the feature extractor's settings ask for an input that the encoder does not make."""
        kind = preprocessor.get("feature_extractor_type")
        if kind not in (None, "Wav2Vec2FeatureExtractor"):
            raise ValueError(
                f"the folder's feature extractor is {kind!r}, and this model reads waveforms (Wav2Vec2FeatureExtractor); put the "
                "preprocessor_config.json of the original model there"
            )

    # weights

    def to_encoder(self, tensors: Mapping[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
        """Hugging Face's `tensors` under our names, float32, weight norm folded; heads are left out.

        ValueError naming what is missing, unexpected, of the wrong shape or not finite; nothing is ever filled in at random.
        """
        trunk = fold_weight_norm(self.trunk(tensors))
        state: dict[str, Tensor] = {}
        faults: list[str] = []
        missing: list[str] = []
        for ours, shape in shapes(config).items():
            theirs = self.hf_name(ours)
            tensor = trunk.pop(theirs, None)
            label = theirs if theirs == ours else f"{theirs} (here: {ours})"
            if tensor is None:
                missing.append(theirs)
                faults.append(f"{label} is missing; expected shape {shape}")
                continue
            tensor = self.from_hf(ours, tensor)
            if tuple(tensor.shape) != shape:
                faults.append(f"{label} has shape {tuple(tensor.shape)}; expected {shape}")
            elif not tensor.is_floating_point():
                faults.append(f"{label} is {str(tensor.dtype).removeprefix('torch.')}, not floating point")
            else:
                state[ours] = tensor.float()
                if not torch.isfinite(state[ours]).all():
                    faults.append(f"{label} holds NaN or infinity")
        if (prefix := _common_prefix(missing, trunk)) is not None:
            raise ValueError(
                f"{len(missing)} weights of the encoder are there under other names, which begin with '{prefix}'; save the state dict "
                "of the model inside, or take that prefix away"
            )
        faults += [f"{name} of shape {tuple(tensor.shape)} is not part of this encoder" for name, tensor in trunk.items()]
        if faults:
            more = f"\n  ... and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
            raise ValueError(
                "the weights do not fit the encoder that config.json describes:\n  " + "\n  ".join(faults[:SHOWN]) + more
            )
        return state

    def trunk(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's own tensors without prefix, and whatever no list knows. ValueError when two have one name."""
        trunk: dict[str, Tensor] = {}
        for outer, name in self.inner_names(tensors).items():
            if self.is_head(outer, name) or any(re.fullmatch(pattern, name) for pattern in self.idle):
                continue
            if name in trunk:
                raise ValueError(
                    f"{name} is there twice, with and without '{self.prefix}.' before it; which one counts is not known"
                )
            trunk[name] = tensors[outer]
        return trunk

    def inner_names(self, tensors: Iterable[str]) -> dict[str, str]:
        """Name in the checkpoint -> name without what stands before the encoder's tensors in a model with a head."""
        start = self.prefix + "."
        outer = "model." if all(name.startswith("model.") for name in tensors) else ""
        return {name: name.removeprefix(outer).removeprefix(start) for name in tensors}

    def is_head(self, outer: str, name: str) -> bool:
        """Whether the tensor called `outer` in the checkpoint, `name` without prefix, belongs to a head."""
        head = name.split(".")[0]
        inside = outer.removeprefix("model.").startswith(self.prefix + ".")
        return head in HEADS and not (
            head == "feature_extractor" and (inside or re.match(r"feature_extractor\.conv_layers\.", name))
        )

    def heads(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of heads, by the names that the class with the head has for them."""
        outer = "model." if all(name.startswith("model.") for name in tensors) else ""
        inner = self.inner_names(tensors)
        return {
            name.removeprefix(outer): tensor
            for name, tensor in tensors.items()
            if inner[name] != MASK_VECTOR and self.is_head(name, inner[name])
        }

    def left_out(self, tensors: Iterable[str]) -> tuple[str, ...]:
        """Heads that the checkpoint has, and that are not loaded."""
        heads = {name.split(".")[0] for outer, name in self.inner_names(tensors).items() if self.is_head(outer, name)}
        return tuple(sorted(heads - {MASK_VECTOR}))

    def mask_vector(self, tensors: Mapping[str, Tensor], config: EncoderConfig) -> Tensor | None:
        """(D,) float32, where the checkpoint has it. ValueError when it is of another width or not finite."""
        vectors = [tensors[outer].float() for outer, name in self.inner_names(tensors).items() if name == MASK_VECTOR]
        if not vectors:
            return None
        if tuple(vectors[0].shape) != (config.dim,) or not torch.isfinite(vectors[0]).all():
            raise ValueError(
                f"{MASK_VECTOR} has shape {tuple(vectors[0].shape)}, or holds NaN or infinity; expected {config.dim} numbers"
            )
        return vectors[0]

    def hf_name(self, ours: str) -> str:
        """What Hugging Face calls our tensor `ours`."""
        stem, _, leaf = ours.rpartition(".")
        number = re.search(r"\.(\d+)(?=\.|$)", ours)
        for key, tail in ((ours, ""), (stem, f".{leaf}")):
            if key in self.names:
                return self.names[key] + tail
            if number and (template := key.replace(number[0], ".#", 1)) in self.names:
                return self.names[template].replace("#", number[1]) + tail
        return ours

    def from_hf(self, ours: str, tensor: Tensor) -> Tensor:
        """A tensor in our layout."""
        return tensor

    def into_hf(self, ours: str, tensor: Tensor) -> Tensor:
        """The reverse of `from_hf`."""
        return tensor

    # the way back

    def to_hf(
        self, config: EncoderConfig, state: Mapping[str, Tensor], mask_vector: Tensor | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and tensors that the family's transformers class loads as they are.

        state: an encoder's state_dict. mask_vector: (D,), the vector put on masked frames, where there is one. ValueError when no
        class of the family can hold this shape (pruned encoders have layers of different widths).
        """
        hf = self.hf_config(config)
        frontend = dataclasses.replace(config.frontend, norm_over_padding=False)  # not a matter of shape
        if self.encoder_config(hf) != dataclasses.replace(config, frontend=frontend):
            raise ValueError(
                f"transformers' {self.architecture} cannot hold this encoder: it wants the same width in every layer and no "
                "part removed, and no chunks of context; save it as a sottovoce folder instead"
            )
        tensors = {}
        for ours, shape in shapes(config).items():
            tensor = state[ours].detach().float().cpu()
            assert tuple(tensor.shape) == shape, ours
            tensors[self.hf_name(ours)] = self.into_hf(ours, tensor).contiguous()
        tensors = unfold_weight_norm({**tensors, **self.idle_tensors(config)})
        if mask_vector is None:  # then transformers must not look for one
            hf |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
        else:
            tensors[MASK_VECTOR] = mask_vector.detach().float().cpu().contiguous()
        return hf, tensors

    def idle_tensors(self, config: EncoderConfig) -> dict[str, Tensor]:
        """Values for the tensors named by `idle`, so that the transformers class misses nothing."""
        return {}

    def hf_config(self, config: EncoderConfig) -> dict[str, Any]:
        """config.json of an encoder whose layers are all like the first; `to_hf` checks that they are."""
        rates = config.dropout
        layer = config.layers[0] if config.layers else LayerConfig(1, config.dim, config.dim)
        return {
            "architectures": [self.architecture],
            "model_type": self.model_types[0],
            "dtype": "float32",
            "hidden_size": config.dim,
            "num_hidden_layers": len(config.layers),
            "num_attention_heads": max(1, layer.num_heads),
            "intermediate_size": layer.ffn_dim,
            "hidden_act": config.activation,
            "layer_norm_eps": config.norm_eps,
            "feat_proj_dropout": rates.projection,
            "hidden_dropout": rates.hidden,
            "attention_dropout": rates.attention,
            "activation_dropout": rates.ffn,
            "layerdrop": 0.0,
            **self.hf_parts(config),
        }

    def hf_parts(self, config: EncoderConfig) -> dict[str, Any]:
        """What config.json says of front end, positions and norms: the reverse of `frontend`, `position` and so on."""
        frontend, position = config.frontend, config.position or PositionConfig(1, 1)
        return {
            "do_stable_layer_norm": config.norm_first,
            "feat_extract_norm": frontend.norm,
            "feat_extract_activation": frontend.activation,
            "feat_proj_layer_norm": frontend.projection_norm,
            "conv_dim": [conv.dim for conv in frontend.convs],
            "conv_kernel": [conv.kernel for conv in frontend.convs],
            "conv_stride": [conv.stride for conv in frontend.convs],
            "conv_bias": frontend.bias,
            "num_feat_extract_layers": len(frontend.convs),
            "num_conv_pos_embeddings": position.kernel,
            "num_conv_pos_embedding_groups": position.groups,
        }


def refuse_quantised(hf: Mapping[str, Any]) -> None:
    """ValueError for a config.json whose weights are numbers only together with scales."""
    if hf.get("quantization_config"):
        raise ValueError("this checkpoint is quantised (quantization_config in config.json); use the unquantised one")


def _possible(key: str, value: Any, default: Any) -> bool:
    """Whether `value` may stand where `default` stands: of its type, finite, and no size that cannot be."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        least = 0 if key in ("num_hidden_layers", "left_max_position_embeddings", "right_max_position_embeddings") else 1
        return isinstance(value, int) and least <= value <= (DEEPEST if key == "num_hidden_layers" else LARGEST)
    if isinstance(default, float):
        return isinstance(value, int | float) and 0 <= value <= 1
    if isinstance(default, list):
        sizes = isinstance(value, list | tuple) and all(type(item) is int and 1 <= item <= LARGEST for item in value)
        return sizes and 1 <= len(value) <= DEEPEST
    return isinstance(value, type(default))


def _common_prefix(missing: Sequence[str], others: Iterable[str]) -> str | None:
    """What stands before every one of the missing names among the others; ``None`` where that is not so."""
    others = set(others)
    if len(missing) < 2:
        return None
    for name in others:
        prefix = name.removesuffix(missing[0])
        if prefix and prefix != name and all(prefix + other in others for other in missing):
            return prefix
    return None
