"""What one stage hands to the next: the student, its gates, and the trained parts of objectives."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning import Budget, GatedEncoder, encoder_cost, total
from sottovoce.train.checkpoint import CannotSave, digest_of


@dataclass
class Work:
    """encoder: the student. gates: log_alpha by name, after a stage that prunes. objectives: their tensors, and ``mask_vector``.

    uncut, kept: if units were cut while gates were trained, the shape before that, and by group the units of it that `encoder` has.
    gated, budget: the encoder with its gates, and its budget. They are not saved; a resumed run builds them again.
    """

    encoder: Encoder
    gates: dict[str, Tensor] = field(default_factory=dict)
    objectives: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, list[int]] = field(default_factory=dict)
    uncut: EncoderConfig | None = None
    gated: GatedEncoder | None = None
    budget: Budget | None = None

    def save(self, path: Path) -> str:
        """Atomically, as safetensors with the encoder's shape in the metadata. Returns the file's SHA-256."""
        tensors = {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        tensors |= {f"gates.{name}": tensor for name, tensor in self.gates.items()}
        tensors |= {f"objectives.{name}": tensor for name, tensor in self.objectives.items()}
        temporary = path.with_name(path.name + ".part")
        ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            about = {"encoder": json.dumps(self.encoder.config.to_dict())}
            if self.uncut is not None:
                about |= {"whole": json.dumps(self.uncut.to_dict()), "kept": json.dumps(self.kept)}
            save_file(ready, temporary, about)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            digest = digest_of(temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as problem:
            temporary.unlink(missing_ok=True)
            raise CannotSave.at(path, problem) from None
        return digest

    @classmethod
    def load(cls, path: Path, digest: str | None = None) -> Work | None:
        """``None`` when the file is missing or damaged. digest: its SHA-256, where that is known; earlier versions did not say."""
        if not path.exists() or digest not in (None, digest_of(path)):
            return None
        try:
            return cls._read(path)
        except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):  # as the bytes may have it
            if digest is None:
                return None
            raise

    @classmethod
    def _read(cls, path: Path) -> Work:
        parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "gates": {}, "objectives": {}}
        with safe_open(path, "pt") as file:
            about = {key: json.loads(value) for key, value in file.metadata().items()}
            for name in file.keys():  # noqa: SIM118  # not a dict
                part, _, rest = name.partition(".")
                parts[part][rest] = file.get_tensor(name)
        encoder = Encoder(EncoderConfig.from_dict(about["encoder"]))
        encoder.load_state_dict(parts["encoder"])
        uncut = EncoderConfig.from_dict(about["whole"]) if "whole" in about else None
        return cls(encoder, parts["gates"], parts["objectives"], about.get("kept", {}), uncut)


def cost_of(encoder: Encoder) -> dict[str, float]:
    """Parameters, and multiply-accumulates per second of audio."""
    cost = total(encoder_cost(encoder.config))
    return {"params": float(cost.params), "macs_per_s": float(cost.macs)}
