"""Teachers (and students) in Hugging Face format: read from a folder, a hub id or ``demo``, and written."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sottovoce.core.plain_warning import PlainWarning
from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.encoder.score_head import ScoreHeads
from sottovoce.families.base import SHOWN, Family, refuse_quantised
from sottovoce.families.generic import load_generic
from sottovoce.families.sottovoce import Sottovoce
from sottovoce.families.student_config import STUDENT, StudentConfig
from sottovoce.hub.checkpoint import is_there, read_json, read_tensors, refuse_not_finite
from sottovoce.hub.config_keys import unknown_keys
from sottovoce.hub.folder import WEIGHTS, overlap, replacing, retire_exports
from sottovoce.hub.input import EXTRACTOR, PROCESSOR, read_extractor, wants_normalized

ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {
    name: ASSETS / name for name in ("demo", "demo-quality")
}  # models that come with the package, by the name that stands for them

# Not *.safetensors and *.bin: MMS repositories hold more than a thousand adapters under such names.
_TEXT = ["config.json", EXTRACTOR, PROCESSOR, "adapter_config.json", "*.index.json"]
# What belongs to a model with a head or decoder beside its weights: tokenizer and generation.
COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt"),
    *("merges.txt", "normalizer.json", "tokenizer.model", "spiece.model", "generation_config.json", "chat_template.jinja"),
)
_SAFE = ["model.safetensors", "model-*-of-*.safetensors"]
_PICKLED = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]


@dataclass(frozen=True)
class Pretrained:
    """A model that was read.

    encoder: in evaluation mode, float32, on the CPU. config: its shape, or ``None`` for a model that runs inside transformers and
    can only teach. family: registered name, or "generic". normalize: whether it wants waveforms of zero mean and unit variance
    (`encoder.normalize`). source: as asked for. preprocessor: the feature extractor's settings, hf_config: config.json.
    projections: for students, the saved distillation projections as '<name>.weight' and '<name>.bias'. mask_vector: (D,), what it
    was trained to see on masked frames, where the checkpoint has it. left_out: names of the heads on top of the encoder that the
    checkpoint has, and that are not loaded. unknown: keys of config.json that nobody reads. scores: for students, their heads that score
    recordings; ``None`` without one.
    """

    encoder: nn.Module
    config: EncoderConfig | None
    family: str
    normalize: bool
    source: str
    preprocessor: dict[str, Any] = field(default_factory=dict)
    hf_config: dict[str, Any] = field(default_factory=dict)
    projections: dict[str, Tensor] = field(default_factory=dict)
    mask_vector: Tensor | None = None
    left_out: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    scores: ScoreHeads | None = None

    @property
    def dim(self) -> int:
        """Width of its states."""
        return self.config.dim if self.config is not None else int(self.encoder.dim)  # type: ignore[arg-type]

    @property
    def depth(self) -> int:
        """Number of its layers."""
        return len(self.config.layers) if self.config is not None else int(self.encoder.depth)  # type: ignore[arg-type]

    @property
    def shape(self) -> EncoderConfig:
        """`config`, or ValueError when there is none."""
        if self.config is None:
            raise ValueError(
                f"{self.source}: model_type '{self.hf_config.get('model_type')}' runs inside transformers; it can teach a "
                f"student of another design, but it cannot be pruned or copied. Families that can: {', '.join(FAMILIES.names())}"
            )
        return self.config


@dataclass(frozen=True)
class Checkpoint:
    """A model that was read, with what of it is not the encoder.

    folder: where its files are. heads: tensors on top of the encoder, by their names in the checkpoint.
    """

    pretrained: Pretrained
    folder: Path
    heads: dict[str, Tensor] = field(default_factory=dict)


def load_pretrained(source: str | Path, *, revision: str | None = None) -> Pretrained:
    """The model at `source`: a folder in Hugging Face format or written by sottovoce, a hub id, or ``demo``.

    ValueError, one that says what to do, on anything that does not load exactly: an unknown or damaged checkpoint, missing or
    unexpected weights, a sampling rate other than 16 kHz, pickled code.
    """
    return load_checkpoint(source, revision=revision).pretrained


def load_checkpoint(source: str | Path, *, revision: str | None = None) -> Checkpoint:
    """`load_pretrained`, with the tensors that are not the encoder's."""
    try:
        folder, remote = _locate(source, revision)
        hf = read_json(folder / "config.json")
        refuse_quantised(hf)
        if is_there(folder / "adapter_config.json"):
            raise ValueError(
                "adapter_config.json says that a PEFT adapter belongs to these weights; merge it where PEFT is installed "
                "(model.merge_and_unload()) and save the result, or move that file away to load the weights without it"
            )
        extractor = read_extractor(folder, hf)
        family = _family(hf)
        config = family.encoder_config(hf) if family else None  # before any download of weights
        if family is not None and config is not None:
            family.check_preprocessor(config, extractor or {})
        if remote:
            _fetch_weights(str(source), folder)
        tensors = read_tensors(folder)
        if family is None or config is None:
            generic = load_generic(folder, hf, tensors)
            wants = generic.extractor is None and _normalize(extractor, hf, Family(), folder)
            unknown = _noted(source, unknown_keys(hf, ()))
            return Checkpoint(
                Pretrained(
                    generic, None, "generic", wants, str(source), extractor or {}, hf, {}, None, generic.left_out, unknown
                ),
                folder,
            )
        wants = _normalize(extractor, hf, family, folder)
        mask_vector = family.mask_vector(tensors, config)
        state, left_out = family.to_encoder(tensors, config), family.left_out(tensors)
        projections, scores = {}, None
        if isinstance(family, Sottovoce):
            student = StudentConfig.from_json(hf)
            projections, scores = family.projections(tensors, student), family.scores(tensors, student)
    except ValueError as problem:
        raise ValueError(f"{source}: {problem}") from problem.__cause__
    encoder = Encoder(config)
    unknown = _noted(source, unknown_keys(hf.get(STUDENT) or hf, family.read_keys()))
    encoder.load_state_dict(state, assign=True)  # and not a copy into weights that were made only to be overwritten
    pretrained = Pretrained(
        encoder.eval(),
        config,
        family.name,
        wants,
        str(source),
        extractor or {},
        hf,
        projections,
        mask_vector,
        left_out,
        unknown,
        scores or None,
    )
    return Checkpoint(pretrained, folder, family.heads(tensors))


def _noted(source: str | Path, unknown: tuple[str, ...]) -> tuple[str, ...]:
    """Says how many keys of config.json are not used, and which."""
    if unknown:
        shown = ", ".join(unknown[:SHOWN]) + (f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else "")
        keys, are = ("keys", "are") if len(unknown) > 1 else ("key", "is")
        warnings.warn(
            f"{source}: {len(unknown)} {keys} of config.json {are} known neither to transformers nor to sottovoce, and {are} not used: "
            f"{shown}",
            PlainWarning,
            stacklevel=1,
        )
    return unknown


def _family(hf: Mapping[str, Any]) -> Family | None:
    """The family that reads this config.json, or ``None``."""
    kind = hf.get("model_type")
    if not isinstance(kind, str):
        raise ValueError("config.json has no model_type, so it is not known what model this is")
    for name in FAMILIES.names():
        cls = FAMILIES.get(name)
        if kind in cls.model_types:
            family: Family = cls()
            return family
    return None


def _normalize(extractor: Mapping[str, Any] | None, hf: Mapping[str, Any], family: Family, folder: Path) -> bool:
    if family.certain:
        return family.normalize(hf)
    said = wants_normalized(extractor)
    if said is not None:
        return said
    wants = family.normalize(hf)
    warnings.warn(
        f"{folder.name}: no {EXTRACTOR} says whether waveforms are to be normalised; assuming "
        f"{'yes' if wants else 'no'}, as is usual for this kind of model",
        PlainWarning,
        stacklevel=3,
    )
    return wants


def refuse_overlap(out: str | Path, sources: Iterable[str]) -> None:
    """ValueError where writing to the folder `out` could touch one of the models at `sources`."""
    for source in filter(None, sources):
        folder = SHIPPED.get(source, Path(source))
        if (source in SHIPPED or folder.expanduser().is_dir()) and overlap(Path(out), folder):
            raise ValueError(f"--out {out} overlaps the model {source}, which must stay as it is; choose a folder of its own")


def save_pretrained(
    folder: str | Path, encoder: Encoder, family: str, *, normalize: bool, mask_vector: Tensor | None = None, half: bool = False
) -> list[str]:
    """Writes config.json, model.safetensors and preprocessor_config.json as `family`'s transformers class reads them. Returns the names of
    files that go, because `sottovoce export` made them of other weights that were there.

    half: store float16 (loading converts back). mask_vector: (D,), what masked frames were replaced by in pre-training.
    ValueError when no class of the family can hold this shape, or when a number is not finite (or does not fit float16).
    """
    writer = FAMILIES.get(family)()
    config, tensors = writer.to_hf(encoder.config, encoder.state_dict(), mask_vector)
    if half:
        tensors = {name: tensor.to(torch.float16) for name, tensor in tensors.items()}
        config["dtype"] = "float16"
    refuse_not_finite(tensors, Path(folder))
    preprocessor = writer.preprocessor(encoder.config, normalize)
    with replacing(Path(folder)) as new:
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        outdated = retire_exports(Path(folder), new)
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (new / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n", encoding="utf-8")
    return outdated


# files


def _locate(source: str | Path, revision: str | None) -> tuple[Path, bool]:
    """The folder with `source`'s JSON files, and whether its weights are still to be fetched."""
    text = str(source)
    if (shipped := SHIPPED.get(text)) is not None:
        if not (shipped / "config.json").is_file():
            raise ValueError(
                f"this copy of sottovoce comes without its model '{text}'; install a released wheel, or name a folder or hub id"
            )
        return shipped, False
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not is_there(folder / "config.json"):
            raise ValueError("the folder has no config.json, so it is not a model in Hugging Face format")
        return folder, False
    if isinstance(source, Path) or folder.exists() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", text):
        raise ValueError("no such folder; name a folder with a config.json, a hub id such as facebook/hubert-base-ls960, or demo")
    folder = _download(text, revision, [*_TEXT, *COMPANIONS])
    if not is_there(folder / "config.json"):
        raise ValueError("the hub repository has no config.json, so it is not a model in Hugging Face format")
    return folder, True


def _fetch_weights(source: str, folder: Path) -> None:
    """Weights of the JSON files' commit (a snapshot's folder is named after it); pickled ones when there is nothing else."""
    for patterns in (_SAFE, _PICKLED):
        _download(source, folder.name, [*_TEXT, *COMPANIONS, *patterns])
        if any(match for pattern in patterns for match in folder.glob(pattern)):
            return


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"neither a folder here nor a hub repository that can be reached ({type(problem).__name__}); check the name and the "
            "connection, or download the repository and name its folder"
        ) from problem
