"""Teachers (and students) in Hugging Face format: read from a folder, a hub id or ``demo``, and written."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sottovoce.core.registry import FAMILIES
from sottovoce.core.types import SAMPLE_RATE
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.families.base import PICKLED, Family
from sottovoce.families.generic import load_generic
from sottovoce.families.sottovoce import Sottovoce
from sottovoce.hub.folder import replacing

MASK_VECTOR = "masked_spec_embed"
DEMO = Path(__file__).parents[1] / "assets" / "demo"

# Not *.safetensors and *.bin: MMS repositories hold more than a thousand adapters under such names.
_TEXT = ["config.json", "preprocessor_config.json", "*.index.json"]
_SAFE = ["model.safetensors", "model-*-of-*.safetensors"]
_PICKLED = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]


@dataclass(frozen=True)
class Pretrained:
    """What `load_pretrained` found.

    encoder: in evaluation mode, float32, on the CPU. config: its shape, or ``None`` for a model that runs inside transformers and
    can only teach. family: registered name, or "generic". normalize: whether it wants waveforms of zero mean and unit variance
    (`encoder.normalize`). source: as asked for. preprocessor, hf_config: the folder's JSON files. projections: for students, the
    saved distillation projections as '<name>.weight' and '<name>.bias'. mask_vector: (D,), what it was trained to see on masked
    frames, where the checkpoint has it.
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


def load_pretrained(source: str | Path, *, revision: str | None = None) -> Pretrained:
    """The model at `source`: a folder in Hugging Face format or written by sottovoce, a hub id, or ``demo``.

    ValueError, one that says what to do, on anything that does not load exactly: an unknown or damaged checkpoint, missing or
    unexpected weights, a sampling rate other than 16 kHz, pickled code.
    """
    try:
        folder, remote = _locate(source, revision)
        hf = _json(folder / "config.json")
        preprocessor = _json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
        rate = preprocessor.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise ValueError(f"preprocessor_config.json asks for {rate} Hz; only {SAMPLE_RATE} Hz models can be used")
        family = _family(hf)
        config = family.encoder_config(hf) if family else None  # before any download of weights
        if family is not None and config is not None:
            family.check_preprocessor(config, preprocessor)
        if remote:
            _fetch_weights(str(source), folder)
        if family is None or config is None:
            generic = load_generic(folder, hf)
            wants = generic.extractor is None and _normalize(preprocessor, hf, Family(), folder)
            return Pretrained(generic, None, "generic", wants, str(source), preprocessor, hf)
        tensors = read_tensors(folder)
        state = family.to_encoder(tensors, config)
        projections = family.projections(tensors) if isinstance(family, Sottovoce) else {}
    except ValueError as problem:
        raise ValueError(f"{source}: {problem}") from problem.__cause__
    encoder = Encoder(config)
    encoder.load_state_dict(state, assign=True)  # and not a copy into weights that were made only to be overwritten
    wants = _normalize(preprocessor, hf, family, folder)
    mask_vector = next((x.float() for name, x in tensors.items() if name.split(".")[-1] == MASK_VECTOR), None)
    return Pretrained(encoder.eval(), config, family.name, wants, str(source), preprocessor, hf, projections, mask_vector)


def _family(hf: Mapping[str, Any]) -> Family | None:
    """The family that reads this config.json, or ``None``."""
    kind = hf.get("model_type")
    if not isinstance(kind, str):
        raise ValueError("config.json has no model_type, so it is not known what model this is")
    for name in FAMILIES.names():
        cls = FAMILIES.get(name)
        if kind in cls.model_types:
            found: Family = cls()
            return found
    return None


def _normalize(preprocessor: Mapping[str, Any], hf: Mapping[str, Any], family: Family, folder: Path) -> bool:
    if family.certain:
        return family.normalize(hf)
    if isinstance(preprocessor.get("do_normalize"), bool):
        return bool(preprocessor["do_normalize"])
    wants = family.normalize(hf)
    warnings.warn(
        f"{folder.name}: no preprocessor_config.json says whether waveforms are to be normalised; assuming "
        f"{'yes' if wants else 'no'}, as is usual for this kind of model",
        stacklevel=3,
    )
    return wants


def save_pretrained(
    folder: str | Path, encoder: Encoder, family: str, *, normalize: bool, mask_vector: Tensor | None = None, half: bool = False
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json as `family`'s transformers class reads them.

    half: store float16 (loading converts back). mask_vector: (D,), what masked frames were replaced by in pre-training.
    ValueError when no class of the family can hold this shape.
    """
    found = FAMILIES.get(family)()
    config, tensors = found.to_hf(encoder.config, encoder.state_dict(), mask_vector)
    if half:
        tensors = {name: tensor.to(torch.float16) for name, tensor in tensors.items()}
        config["dtype"] = "float16"
    preprocessor = found.preprocessor(encoder.config, normalize)
    with replacing(Path(folder)) as new:
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (new / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n", encoding="utf-8")


# files


def _locate(source: str | Path, revision: str | None) -> tuple[Path, bool]:
    """The folder with `source`'s JSON files, and whether its weights are still to be fetched."""
    text = str(source)
    if text == "demo":
        if not (DEMO / "config.json").is_file():
            raise ValueError(
                "this copy of sottovoce comes without the demo teacher; install a released wheel, or name a folder or hub id"
            )
        return DEMO, False
    folder = Path(text).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError("the folder has no config.json, so it is not a model in Hugging Face format")
        return folder, False
    if isinstance(source, Path) or folder.exists() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", text):
        raise ValueError("no such folder; name a folder with a config.json, a hub id such as facebook/hubert-base-ls960, or demo")
    folder = _download(text, revision, _TEXT)
    if not (folder / "config.json").is_file():
        raise ValueError("the hub repository has no config.json, so it is not a model in Hugging Face format")
    return folder, True


def _fetch_weights(source: str, folder: Path) -> None:
    """Weights of the JSON files' commit (a snapshot's folder is named after it); pickled ones when there is nothing else."""
    for patterns in (_SAFE, _PICKLED):
        _download(source, folder.name, _TEXT + patterns)
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


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ValueError(f"{path.name} cannot be read: {problem}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return data


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, whole or sharded, else pytorch_model.bin without running any code in it."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (folder / whole).is_file():
            return _read(folder / whole)
        index = folder / f"{whole}.index.json"
        if index.is_file():
            tensors: dict[str, Tensor] = {}
            shards = _json(index).get("weight_map", {})
            for name in sorted(set(shards.values())):
                if Path(name).name != name or not (folder / name).is_file():
                    raise ValueError(f"{index.name} names {name}, which is not in the folder; fetch the repository again")
                tensors.update(_read(folder / name))
            if lost := sorted(set(shards) - set(tensors)):
                raise ValueError(
                    f"{index.name} names tensors that its files lack, such as {', '.join(lost[:5])}; fetch the repository again"
                )
            return tensors
    raise ValueError("there are no weights: neither model.safetensors (or its index) nor pytorch_model.bin")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as problem:
            raise ValueError(f"{path.name} is damaged or not a safetensors file ({problem}); fetch it again") from None
    try:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise ValueError(PICKLED.format(path.name)) from None
    except (RuntimeError, EOFError, OSError, KeyError, AttributeError) as problem:
        raise ValueError(f"{path.name} is damaged ({problem}); fetch it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) and isinstance(name, str) for name, x in tensors.items()):
        raise ValueError(f"{path.name} is not a plain mapping of names to tensors; convert it to model.safetensors")
    return tensors
