"""Any other speech model that transformers knows, as a teacher.

It runs as transformers runs it, so nothing here can be pruned, compiled with the student or exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.families.base import MASK_VECTOR, SHOWN


class GenericEncoder(nn.Module):
    """A transformers model behind our encoder's interface: (B, S) waveforms, (B,) lengths -> `Features`.

    ``hidden[0]`` is what transformers gives as ``hidden_states[0]`` (for most models after positions, so it equals `embedded`).
    Padding is handled as transformers handles it: with an attention mask; group norms do see it.
    """

    def __init__(self, model: nn.Module, extractor: Any = None) -> None:
        super().__init__()
        self.model, self.extractor = model, extractor
        self.dim = self.depth = 0  # width and number of layers; known after a first run
        self.left_out: tuple[str, ...] = ()  # parts of the checkpoint that are not loaded

    def forward(self, wave: Tensor, lengths: Tensor | None = None, *, taps: bool = False) -> Features:
        if taps:
            raise ValueError(
                "this teacher runs inside transformers, which does not give feed-forward outputs; use a known family"
            )
        if wave.dim() != 2:
            raise ValueError(f"expected a batch of waveforms (batch, samples), got shape {tuple(wave.shape)}")
        inputs, sizes = self._inputs(wave, lengths)
        out = self.model(**inputs, output_hidden_states=True, return_dict=True)
        hidden = list(getattr(out, "hidden_states", None) or ())
        if len(hidden) < 2:
            raise ValueError(f"{type(self.model).__name__} gives no hidden states, so it cannot be a teacher")
        last = out.last_hidden_state
        # SEW: its layers run on a squeezed axis and the output is stretched again (some transformers versions list that last)
        hidden = [state for state in hidden if state.shape[1] == hidden[0].shape[1]]
        last = last if last.shape[1] == hidden[0].shape[1] else hidden[-1]
        frames, valid = last.shape[1], None
        if sizes is not None:
            steps, valid = sizes
            valid = torch.div(valid * frames + steps - 1, steps, rounding_mode="floor").clamp(min=0, max=frames)
        return Features(hidden, valid, hidden[0], last)

    def _inputs(self, wave: Tensor, lengths: Tensor | None) -> tuple[dict[str, Tensor], tuple[int, Tensor] | None]:
        """The model's arguments, and (steps in all, valid steps per row) on an axis in proportion to that of the frames."""
        if self.extractor is not None:
            return self._extract(wave, lengths)
        if lengths is None:
            return {"input_values": wave}, None
        inside = torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]
        count: Any = getattr(self.model, "_get_feat_extract_output_lengths", None)
        both = torch.cat([lengths, lengths.new_tensor([wave.shape[1]])])
        both = count(both) if count is not None else both
        return {"input_values": wave, "attention_mask": inside.long()}, (int(both[-1]), both[:-1].to(lengths.dtype))

    def _extract(self, wave: Tensor, lengths: Tensor | None) -> tuple[dict[str, Tensor], tuple[int, Tensor] | None]:
        sizes = [wave.shape[1]] * len(wave) if lengths is None else lengths.tolist()
        rows = [row[:size].float().cpu().numpy() for row, size in zip(wave, sizes, strict=True)]
        extracted = self.extractor(
            rows, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, truncation=False
        )
        mask = extracted["attention_mask"].to(wave.device)
        kind = next(self.model.parameters()).dtype  # half precision, where the model is in it
        inputs = {"input_features": extracted["input_features"].to(wave.device, kind), "attention_mask": mask}
        return inputs, (mask.shape[1], mask.sum(-1))


def load_generic(folder: Path, hf: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GenericEncoder:
    """The model whose config.json and extractor are in `folder` and whose weights are `tensors`, in evaluation mode, float32. Code that
    a checkpoint brings along is never run.

    ValueError when transformers does not know the model, when it does not read audio, or when weights are missing.
    """
    config = _config(folder, hf)
    model, left_out = _model(config, tensors)
    kind, reads = config.model_type, getattr(model, "main_input_name", None)
    if reads not in ("input_values", "input_features"):
        raise ValueError(f"model_type {kind!r} reads {reads}, not audio, so it cannot be a teacher")
    encoder = GenericEncoder(model, _extractor(folder, kind) if reads == "input_features" else None).eval()
    encoder.left_out = left_out
    try:
        with torch.no_grad():
            first, second = (encoder(torch.zeros(1, count * SAMPLE_RATE)) for count in (1, 2))
    except Exception as problem:  # other people's code: anything may come
        raise ValueError(f"model_type {kind!r} does not run as a speech encoder: {_first_line(problem)}") from problem
    if first.last.shape[1] == second.last.shape[1]:
        raise ValueError(
            f"model_type {kind!r} gives {first.last.shape[1]} frames for audio of any length, so it cannot be a teacher"
        )
    encoder.dim, encoder.depth = first.last.shape[-1], len(first.hidden) - 1
    return encoder


def _config(folder: Path, hf: Mapping[str, Any]) -> Any:
    """What transformers makes of config.json, without layers being dropped or frames being joined at the end."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig

    kind = hf.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = " (it brings its own code, which is never run)" if "auto_map" in hf else ""
        raise ValueError(f"config.json says model_type {kind!r}, which neither sottovoce nor transformers knows{own}")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as problem:  # each model has its own checks, and its own exceptions
        raise ValueError(f"transformers cannot read config.json as a {kind}: {_first_line(problem)}") from None
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"transformers has no model to load for model_type {kind!r}, so it cannot be a teacher")
    for key in ("layerdrop", "encoder_layerdrop"):
        if hasattr(config, key):
            setattr(config, key, 0.0)
    if hasattr(config, "add_adapter"):
        config.add_adapter = False  # shortens the last output only
    return config


def _model(config: Any, tensors: Mapping[str, Tensor]) -> tuple[nn.Module, tuple[str, ...]]:
    """The model, or the encoder of a model with a decoder, and the outermost names of the tensors that have no place in it."""
    from transformers import MODEL_MAPPING

    classes: Any = MODEL_MAPPING[type(config)]
    cls = classes[0] if isinstance(classes, list | tuple) else classes
    try:
        model, report = cls.from_pretrained(
            None, config=config, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
        )
    except Exception as problem:  # other people's code: anything may come
        raise ValueError(f"transformers cannot load it: {_first_line(problem)}") from None
    # the mask vector: left out by transformers where a config does not ask for masking; not used at inference in any case
    missing = sorted(str(name) for name in report["missing_keys"] if MASK_VECTOR not in str(name))
    missing += sorted(str(item[0] if isinstance(item, tuple) else item) for item in report.get("mismatched_keys", ()))
    if missing:
        raise ValueError(
            f"{len(missing)} weights are missing or have the wrong shape, such as {', '.join(missing[:SHOWN])}; "
            f"the checkpoint has names such as {', '.join(sorted(tensors)[:2])}"
        )
    left_out = tuple(sorted({str(name).split(".")[0] for name in report["unexpected_keys"]}))
    if config.is_encoder_decoder:
        model = model.get_encoder()
    bad = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"weights hold NaN or infinity: {', '.join(bad[:SHOWN])}")
    return model, left_out


def _extractor(folder: Path, kind: str) -> Any:
    """What makes the features that the model reads."""
    from transformers import AutoFeatureExtractor

    try:
        return AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    except Exception as problem:  # of other people's settings: anything may come
        raise ValueError(
            f"model_type {kind!r} reads features, and no extractor for them could be made from the preprocessor_config.json (or "
            f"processor_config.json) in its folder; put the one of the original model there ({_first_line(problem)})"
        ) from None


def _first_line(problem: Exception) -> str:
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
