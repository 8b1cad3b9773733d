"""What is under evaluation: any encoder, or a control, behind one interface."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sottovoce.encoder import Encoder, normalize
from sottovoce.encoder.fbank import LogMel
from sottovoce.encoder.packed import fastest
from sottovoce.families import Pretrained, load_pretrained
from sottovoce.pruning import encoder_cost, total
from sottovoce.types import SAMPLE_RATE, Batch, Features

LOG_MEL, UNTRAINED = "log-mel", "untrained:"
RECORD = Path("run") / "result.json"  # what a run of ours leaves beside its model
Role = Literal["student", "teacher", "control"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A frozen model as probes see it: `layers` feature maps of width `dim`, `frame_rate` frames a second.

    name: as results show it. role: who it is in a comparison. fingerprint: hex digest of everything that decides its output; equal
    models have equal ones. params, macs_per_s: ``None`` where the shape is not known. origin: of our own students, the run behind it.
    pads: whether it gives as many frames for any audio (Whisper: 30 s), of which only those on real audio count.
    """

    name: str
    role: Role
    encoder: nn.Module
    normalize: bool
    layers: int
    dim: int
    frame_rate: float
    fingerprint: str
    family: str
    params: float | None = None
    macs_per_s: float | None = None
    origin: dict[str, Any] | None = None
    pads: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def features(self, batch: Batch) -> Features:
        """The encoder's own output on waves as decoded."""
        batch = batch.to(self.device)
        wave = normalize(batch.wave, batch.lengths) if self.normalize else batch.wave
        lengths = batch.lengths
        if self.pads and lengths is None:
            lengths = torch.full((len(wave),), wave.shape[1], device=wave.device)
        found: Features = self.encoder(wave, lengths)
        return trimmed(found) if self.pads else found

    @cached_property
    def frozen(self) -> Subject:
        """The same for use without gradients: on a CPU, with the encoder packed. Weights that change later are not seen."""
        return replace(self, encoder=fastest(self.encoder))

    @torch.inference_mode()
    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, T, L, D) `stacked` hidden states, and (B,) valid frames."""
        found = self.frozen.features(batch)
        return self.stacked(found), frames_of(found)

    def stacked(self, found: Features) -> Tensor:
        """(B, T, L, D) hidden states as transformers lists them (what the first layer reads, then every layer's output, the last one
        normed where the model does so)."""
        layers = [found.last] if self.layers == 1 else [found.embedded, *found.hidden[1:-1], found.last]
        return torch.stack(layers, dim=2)

    def to(self, device: torch.device) -> Subject:
        return replace(self, encoder=self.encoder.to(device), device=device)

    def record(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        keys = ("name", "role", "fingerprint", "params", "macs_per_s", "layers", "dim", "frame_rate", "family", "origin")
        return {key: getattr(self, key) for key in keys}


def frames_of(found: Features) -> Tensor:
    """(B,) valid frames, counted out where no row is padded."""
    if found.lengths is not None:
        return found.lengths
    return torch.full((len(found.last),), found.last.shape[1], device=found.last.device)


def trimmed(found: Features) -> Features:
    """Without the frames that stand on real audio in no row."""
    assert found.lengths is not None
    frames = max(1, int(found.lengths.max()))
    hidden = [state[:, :frames] for state in found.hidden]
    embedded, last, ffn = found.embedded[:, :frames], found.last[:, :frames], [state[:, :frames] for state in found.ffn]
    return replace(found, hidden=hidden, embedded=embedded, last=last, ffn=ffn)


class LogMelFeatures(nn.Module):
    """80 log-mel energies and their first and second differences every 20 ms: the features that a speech encoder has to beat."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = LogMel(80)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Features:
        if wave.shape[1] < self.mel.size:
            wave = nn.functional.pad(wave, (0, self.mel.size - wave.shape[1]))
        x = self.mel(wave)
        frames = at = None
        if lengths is not None:
            frames = self.mel.frames(lengths).clamp(min=1)
            at = torch.minimum(torch.arange(x.shape[1], device=x.device), frames[:, None] - 1)  # differences must not see padding
        parts = [_held(x, at)]
        for _ in range(2):
            padded = nn.functional.pad(parts[-1].transpose(1, 2), (1, 1), mode="replicate").transpose(1, 2)
            parts.append(_held((padded[:, 2:] - padded[:, :-2]) / 2, at))
        x = torch.cat(parts, dim=-1)
        return Features([x, x], frames, x, x)


def _held(x: Tensor, at: Tensor | None) -> Tensor:
    """(B, T, D) with frame ``at[b, t]`` in place t: the last valid one repeated to the end."""
    return x if at is None else x.gather(1, at[..., None].expand_as(x))


def open_subject(source: str, name: str | None = None) -> Subject:
    """The model at `source`: whatever `load_pretrained` takes, an exported ``.onnx`` file, ``log-mel``, or ``untrained:SOURCE``
    (``untrained:SOURCE#2``: of seed 2), the same shape with random weights. ValueError as `load_pretrained` raises it."""
    if source.endswith(".onnx"):
        from .runtime import open_onnx

        return open_onnx(source, name)
    if source == LOG_MEL:
        rate = SAMPLE_RATE / 320
        return Subject(
            name or source, "control", LogMelFeatures().eval(), False, 1, 240, rate, "log-mel-80-delta2-20ms", "log-mel", 0
        )
    if source.startswith(UNTRAINED):
        of, _, seed = source.removeprefix(UNTRAINED).partition("#")
        if seed and not seed.isdigit():
            raise ValueError(f"'{source}': after # stands a whole number, the seed, e.g. untrained:{of}#2")
        loaded = load_pretrained(of)
        shown = f"untrained:{_short(of)}" + (f"#{seed}" if seed else "")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed or 1))
            encoder = Encoder(loaded.shape).reset_parameters().eval()
        made = _of(replace(loaded, encoder=encoder), name or shown, "control")
        return replace(made, origin={"recipe": "untrained", "seed": int(seed or 1), "teacher": _short(of)})
    loaded = load_pretrained(source)
    origin = origin_of(Path(source)) if Path(source).is_dir() else None
    role: Role = "student" if origin is not None and origin["teacher"] else "teacher"
    return replace(_of(loaded, name or _short(source), role), origin=origin)


def _of(loaded: Pretrained, name: str, role: Role) -> Subject:
    encoder = loaded.encoder
    cost = None if loaded.config is None else total(encoder_cost(loaded.config))
    rate, pads = _frame_rate(encoder)
    return Subject(
        name=name,
        role=role,
        encoder=encoder,
        normalize=loaded.normalize,
        layers=loaded.depth + 1,
        dim=loaded.dim,
        frame_rate=rate,
        pads=pads,
        fingerprint=fingerprint(encoder, loaded.normalize),
        family=loaded.family,
        params=float(sum(p.numel() for p in encoder.parameters())) if cost is None else float(cost.params),
        macs_per_s=None if cost is None else float(cost.macs),
    )


@torch.inference_mode()
def _frame_rate(encoder: nn.Module) -> tuple[float, bool]:
    """Frames a second, and whether there are as many for any audio. ValueError when such a model does not say which are real."""
    second, two = (encoder(torch.zeros(1, count * SAMPLE_RATE)).last.shape[1] for count in (1, 2))
    if two != second:
        return float(two - second), False
    lengths = encoder(torch.zeros(2, 2 * SAMPLE_RATE), torch.tensor([1, 2]) * SAMPLE_RATE).lengths
    if lengths is None or lengths[0] == lengths[1]:
        raise ValueError(
            f"the model gives {second} frames for audio of any length and does not say which of them are of the audio"
        )
    return float(lengths[1] - lengths[0]), True


def fingerprint(encoder: nn.Module, normalized: bool) -> str:
    """Digest of the weights, the shape and the treatment of the input."""
    digest = hashlib.sha256(f"{type(encoder).__name__} {getattr(encoder, 'config', '')} {normalized}".encode())
    extractor = getattr(encoder, "extractor", None)  # of a model that runs inside transformers
    if extractor is not None and hasattr(extractor, "to_dict"):
        digest.update(json.dumps(extractor.to_dict(), sort_keys=True, default=_of_numbers).encode())
    for key, value in sorted(encoder.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _of_numbers(value: Any) -> Any:
    """Arrays (mel filters, windows) as lists."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _short(source: str) -> str:
    return Path(source).name or source


def origin_of(folder: Path) -> dict[str, Any] | None:
    """Which run made the model in `folder`; ``None`` when it says nothing of that."""
    try:
        made = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        budget = made.get("budget") or {}
        return {
            "recipe": made["recipe"].get("name"),
            "unit": budget.get("unit"),
            "keep": budget.get("target"),
            "seed": made["seed"],
            "teacher": (made["teacher"] or {}).get("name"),
            "commit": made.get("commit"),
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return None
