"""Any other speech model that transformers knows, as a teacher.

It runs as transformers runs it, so nothing here can be pruned, compiled with the student or exported.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sottovoce.core.types import SAMPLE_RATE, Features
from sottovoce.families.base import PICKLED

# Left out by transformers where a config does not ask for masking; not used at inference in any case.
_UNUSED = "masked_spec_embed"


class GenericEncoder(nn.Module):
    """A transformers model behind our encoder's interface: (B, S) waveforms, (B,) lengths -> `Features`.

    ``hidden[0]`` is what transformers gives as ``hidden_states[0]`` (for most models after positions, so it equals `embedded`).
    Padding is handled as transformers handles it: with an attention mask; group norms do see it.
    """

    def __init__(self, model: nn.Module, extractor: Any = None) -> None:
        super().__init__()
        self.model, self.extractor = model, extractor
        self.dim = self.depth = 0  # width and number of layers; known after a first run

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
        found = self.extractor(rows, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, truncation=False)
        mask = found["attention_mask"].to(wave.device)
        inputs = {"input_features": found["input_features"].to(wave.device), "attention_mask": mask}
        return inputs, (mask.shape[1], mask.sum(-1))


def load_generic(folder: Path, hf: dict[str, Any]) -> GenericEncoder:
    """The model in `folder`, in evaluation mode, float32. Code that a checkpoint brings along is never run.

    ValueError when transformers does not know the model, when it does not read audio, or when weights are missing.
    """
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoFeatureExtractor, AutoModel

    kind = hf.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = " (it brings its own code, which is never run)" if "auto_map" in hf else ""
        raise ValueError(f"config.json says model_type {kind!r}, which neither sottovoce nor transformers knows{own}")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"transformers has no model to load for model_type {kind!r}, so it cannot be a teacher")
    for key in ("layerdrop", "encoder_layerdrop"):
        if hasattr(config, key):
            setattr(config, key, 0.0)
    if hasattr(config, "add_adapter"):
        config.add_adapter = False  # shortens the last output only
    try:
        model, report = AutoModel.from_pretrained(
            folder, config=config, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except pickle.UnpicklingError:
        raise ValueError(PICKLED.format("its .bin file")) from None
    except (OSError, ValueError, RuntimeError) as problem:
        raise ValueError(f"transformers cannot load it: {problem}") from None
    missing = sorted(str(name) for name in report["missing_keys"] if _UNUSED not in str(name))
    missing += sorted(str(item[0] if isinstance(item, tuple) else item) for item in report.get("mismatched_keys", ()))
    if missing:
        raise ValueError(f"{len(missing)} weights are missing or have the wrong shape, such as {', '.join(missing[:5])}")
    if config.is_encoder_decoder:
        model = model.get_encoder()
    bad = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"weights hold NaN or infinity: {', '.join(bad[:5])}")
    reads = getattr(model, "main_input_name", None)
    if reads not in ("input_values", "input_features"):
        raise ValueError(f"model_type {kind!r} reads {reads}, not audio, so it cannot be a teacher")
    extractor = None
    if reads == "input_features":
        try:
            extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as problem:
            raise ValueError(
                f"model_type {kind!r} reads features, and no extractor for them could be made from preprocessor_config.json in "
                f"its folder; put the one of the original model there ({problem})"
            ) from None
    encoder = GenericEncoder(model, extractor).eval()
    try:
        with torch.no_grad():
            trial = encoder(torch.zeros(1, SAMPLE_RATE))
    except Exception as problem:  # other people's code: anything may come
        raise ValueError(f"model_type {kind!r} does not run as a speech encoder: {problem}") from problem
    encoder.dim, encoder.depth = trial.last.shape[-1], len(trial.hidden) - 1
    return encoder
