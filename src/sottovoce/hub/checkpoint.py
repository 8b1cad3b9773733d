"""The files of a model's folder: JSON and weights, read without running code, and called what they are where they are something else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sottovoce.families.base import SHOWN
from sottovoce.hub.folder import is_text

PICKLED = (
    "{} holds more than tensors, and unpickling it could run code; convert it to model.safetensors where you trust it, or use "
    "a revision of the repository that has safetensors"
)
FETCH = "fetch it again, e.g. with 'git lfs pull' or 'hf download'"

# First bytes of what lies where weights or JSON are expected.
_POINTERS = (b"version https://git-lfs", b"# xet version")
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "a TensorFlow file (HDF5), which is not read; convert it to model.safetensors with transformers",
    b"GGUF": "a GGUF file, which is not read; use the original checkpoint",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
}
_CODE = (
    "Unsupported global",
    "unsupported GLOBAL",
    "Unsupported operand",
    "Can only",
    "Trying to",
)  # in what torch says of a pickle

# Ways in which a state dict may be wrapped in another dictionary.
_NESTED = ("state_dict", "model_state_dict", "model", "module")
# What wrappers put before the names of everything inside, and what they put in the middle of names.
PREFIXES = ("module.", "_forward_module.", "base_model.model.")
INFIXES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Parts of names that adapters (PEFT) and quantised formats use.
_ADAPTED = ("base_layer", "lora_", "loha_", "lokr_", "hada_", "ia3_", "oft_", "vera_", "modules_to_save", "original_module")
_QUANTISED = ("qweight", "qzeros", "g_idx", "SCB", "weight_format", "quant_state", "absmax", "weight_scale", "weight_scale_inv")
_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_there(path: Path) -> bool:
    """Whether `path` is a file. ValueError for a link to nothing, which is a file that was lost and not one that was left out."""
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path.name} is a link to a file that is not there ({path.readlink()}); {FETCH}")
    return path.is_file()


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object. ValueError where it holds anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        other = _other_content(path)
        raise ValueError(f"{path.name} is {other}" if other else f"{path.name} cannot be read: {problem}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return data


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, whole or sharded, else pytorch_model.bin without running any code in it.

    Names are as the model has them: what DistributedDataParallel, torch.compile and the like put before or into them is taken out.
    ValueError for files that hold no weights, adapters that were not merged, quantised weights.
    """
    tensors = unwrapped(_files(folder))
    refuse_adapted(tensors)
    refuse_quantised_weights(tensors)
    return tensors


def _files(folder: Path) -> dict[str, Tensor]:
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if is_there(folder / whole):
            return _read(folder / whole)
        if is_there(folder / f"{whole}.index.json"):
            return _shards(folder, f"{whole}.index.json")
    raise ValueError(f"there are no weights: neither model.safetensors (or its index) nor pytorch_model.bin{_instead(folder)}")


def _instead(folder: Path) -> str:
    """What to say of other weights that lie there."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if any(name.startswith("adapter_model.") for name in names):
        return "; adapter_model.* is a PEFT adapter without its base model: merge the two (merge_and_unload) and save the result"
    suffixes = (".h5", ".msgpack", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".gguf", ".nemo")
    others = [name for name in names if name.endswith(suffixes) or ".ckpt." in name]
    return f"; it holds {', '.join(others[:SHOWN])}: convert that to model.safetensors" if others else ""


def _shards(folder: Path, index: str) -> dict[str, Tensor]:
    places = read_json(folder / index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} has no weight_map of tensor names to files; fetch the repository again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or not is_there(folder / name):
            raise ValueError(f"{index} names {name}, which is not in the folder; fetch the repository again")
        tensors |= _read(folder / name)
    if lost := sorted(set(places) - set(tensors)):
        raise ValueError(
            f"{index} names tensors that its files lack, such as {', '.join(lost[:SHOWN])}; fetch the repository again"
        )
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    if other := _other_content(path):
        raise ValueError(f"{path.name} is {other}")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        return load_file(path) if is_text(path) else load(path.read_bytes())  # safetensors opens no other names
    except (SafetensorError, OSError) as problem:
        if _starts(path, b"PK\x03\x04"):
            raise ValueError(f"{path.name} is a file of torch.save under another name; call it pytorch_model.bin") from None
        size, needed = path.stat().st_size, _announced(path)
        if needed is not None and size < needed:
            raise ValueError(
                f"{path.name} is cut short: {size:,} of the {needed:,} bytes that its header announces; {FETCH}"
            ) from None
        raise ValueError(f"{path.name} is damaged or not a safetensors file ({problem}); {FETCH}") from None


def _announced(path: Path) -> int | None:
    """Bytes that a safetensors file should have, by its header; ``None`` where that cannot be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                return 8 + length if length < 100_000_000 else None
            header = json.loads(file.read(length))
        return 8 + length + max(int(item["data_offsets"][1]) for name, item in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:  # torch opens no names that are not UTF-8
            held = torch.load(path if is_text(path) else file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as problem:
        if _starts(path, b"\x80", b"PK\x03\x04") and any(text in str(problem) for text in _CODE):
            raise ValueError(PICKLED.format(path.name)) from None
        raise ValueError(f"{path.name} is damaged or no checkpoint ({_line(problem)}); {FETCH}") from None
    except Exception as problem:  # a damaged pickle fails in any way
        raise ValueError(f"{path.name} is damaged ({_line(problem)}); {FETCH}") from None
    if isinstance(held, dict) and not _is_state_dict(held):
        inside = [held[key] for key in _NESTED if _is_state_dict(held.get(key))]
        if len(inside) == 1:
            return dict(inside[0])
    if not _is_state_dict(held):
        keys = f" (it has {', '.join(sorted(map(str, held))[:SHOWN])})" if isinstance(held, dict) else ""
        raise ValueError(f"{path.name} is not a plain mapping of names to tensors{keys}; convert it to model.safetensors")
    return dict(held)


def _is_state_dict(held: Any) -> bool:
    return (
        isinstance(held, dict) and bool(held) and all(isinstance(x, Tensor) and isinstance(name, str) for name, x in held.items())
    )


def _line(problem: Exception) -> str:
    """What torch says of a fault, without its advice to load the file all the same."""
    text = str(problem).rpartition("WeightsUnpickler error:")[2]
    return next((line.strip() for line in text.splitlines() if line.strip()), type(problem).__name__)


def _other_content(path: Path) -> str:
    """What a file is where it is neither weights nor JSON: "a git-lfs pointer ...", with what to do; "" where it may be either."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as problem:
        return f"unreadable ({problem.strerror})"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return f"empty; {FETCH}"
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        return ""  # whatever the length of its header, in the eight bytes before, looks like
    if head[8:9] == b"{" and path.suffix == ".bin" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "a safetensors file under another name; call it model.safetensors"
    if head.startswith(_POINTERS):
        return f"a git-lfs pointer, not the file that it stands for; {FETCH}"
    if text[:1] == b"<":
        return f"a web page or XML, not what its name says; {FETCH}"
    for start, what in _OTHERS.items():
        if head.startswith(start):
            return what
    if not any(head):
        return f"all zeros at its start, so its download or copy did not finish; {FETCH}"
    if path.suffix != ".json" and _is_text(head):
        return f"text, not weights; {FETCH}"
    return ""


def _starts(path: Path, *starts: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(starts)


def _is_text(head: bytes) -> bool:
    printable = set(range(32, 127)) | set(b"\t\r\n")
    return all(byte in printable for byte in head)


# names


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the model's own names. ValueError when two would have one name."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = ".".join(part for part in name.split(".") if part not in INFIXES)
        if plain in named:
            raise ValueError(f"two tensors are called {plain} once torch.compile's and FSDP's parts of their names are taken out")
        named[plain] = tensor
    while prefix := next((text for text in PREFIXES if named and all(name.startswith(text) for name in named)), ""):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def refuse_adapted(names: Iterable[str]) -> None:
    """ValueError for weights to which an adapter has still to be added."""
    adapted = [name for name in names if any(part.startswith(_ADAPTED) for part in name.split("."))]
    if adapted:
        raise ValueError(
            f"the weights hold an adapter of PEFT that is not merged ({adapted[0]} and {len(adapted) - 1} more tensors); merge it "
            "where PEFT is installed (model.merge_and_unload()) and save the result"
        )


def refuse_quantised_weights(tensors: dict[str, Tensor]) -> None:
    """ValueError for weights that are numbers only together with scales."""
    for name, tensor in tensors.items():
        number = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_floating_point() and tensor.dtype not in _PLAIN:
            raise ValueError(f"this checkpoint is quantised ({name} is {number}); use the unquantised one")
        if name.split(".")[-1] in _QUANTISED:
            raise ValueError(f"this checkpoint is quantised (it has {name}); use the unquantised one")


def refuse_not_finite(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """ValueError for a model that must not be written to `folder`, because some of its numbers are none."""
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(
            f"no model was written to {folder}: {len(bad)} of its {len(tensors)} tensors hold NaN or infinity, such as "
            f"{', '.join(bad[:SHOWN])}; if training made them, it diverged: lower its learning rate"
        )
