"""Mutated folders of tiny models: what loads is what transformers loads, and what does not is refused in one plain message."""

from __future__ import annotations

import json
import math
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from sottovoce.encoder import normalize as normalize_wave
from sottovoce.hub.pretrained import Pretrained, load_pretrained
from sottovoce.hub.student import save_student

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

ROUNDS = 60  # mutations of each family
SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CONVS: dict[str, Any] = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
KINDS: dict[str, dict[str, Any]] = {
    "Wav2Vec2": CONVS,
    "Hubert": {**CONVS, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
    "WavLM": {**CONVS, "num_buckets": 32, "max_bucket_distance": 30},
    "UniSpeech": CONVS,
    "UniSpeechSat": CONVS,
    "Data2VecAudio": {**CONVS, "num_conv_pos_embeddings": 3},
    "Wav2Vec2Conformer": {**CONVS, "conv_depthwise_kernel_size": 7},
    "Wav2Vec2Bert": {"conv_depthwise_kernel_size": 7},
    "SEW": {**CONVS, "conv_stride": (5, 2, 2, 2, 2, 2, 2), "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "squeeze_factor": 1},
}
VALUES = [None, True, False, 0, 1, 2, 3, 7, 16, 64, -1, 0.5, 1e-3, 1.0, math.nan, math.inf, "", "layer", "group", "gelu", "relu", "silu",
          "rotary", "relative", "no", [], [16] * 7, [5, 2, 2, 2, 2, 2, 2], [10, 3, 3, 3, 3, 2, 2], [1, 0], {}, {"a": 1}]  # fmt: skip
RATES = [8000, 16000, 16000.0, 22050, "16000", None]


def model_of(kind: str, folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**SHAPE, **KINDS[kind])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    extractor = transformers.SeamlessM4TFeatureExtractor() if kind == "Wav2Vec2Bert" else transformers.Wav2Vec2FeatureExtractor()
    extractor.save_pretrained(folder)
    return model


def mutate(folder: Path, draw: random.Random) -> str:
    """Changes something in the folder; says what."""
    return draw.choice([mutate_config, mutate_config, mutate_extractor, mutate_tensors, mutate_tensors, mutate_bytes])(
        folder, draw
    )


def mutate_config(folder: Path, draw: random.Random) -> str:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    key = draw.choice([key for key in sorted(values) if key not in ("model_type", "transformers_version", "architectures")])
    if draw.random() < 0.4:
        del values[key]
        said = f"config without {key}"
    else:
        values[key] = draw.choice(VALUES)
        said = f"config {key} = {values[key]!r}"
    path.write_text(json.dumps(values))
    return said


def mutate_extractor(folder: Path, draw: random.Random) -> str:
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text())
    key = draw.choice(sorted(values))
    if draw.random() < 0.4:
        del values[key]
    else:
        values[key] = draw.choice(RATES if key == "sampling_rate" else VALUES)
    if draw.random() < 0.5:
        path.unlink()
        path = folder / "processor_config.json"
        values = {"processor_class": "Wav2Vec2Processor", "feature_extractor": values}
    path.write_text(json.dumps(values))
    return f"{path.name} {values}"


def mutate_tensors(folder: Path, draw: random.Random) -> str:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    kind = draw.choice(["drop", "nan", "transpose", "narrow", "type", "copy", "prefix", "add", "swap", "spelling"])
    if kind == "drop":
        del tensors[name]
    elif kind == "nan" and tensor.is_floating_point():
        tensor.view(-1)[draw.randrange(tensor.numel())] = draw.choice([math.nan, math.inf, -math.inf])
    elif kind == "transpose" and tensor.dim() > 1:
        tensors[name] = tensor.transpose(0, 1).contiguous()
    elif kind == "narrow":
        tensors[name] = tensor[..., : max(1, tensor.shape[-1] // 2)].contiguous() if tensor.dim() else tensor
    elif kind == "type":
        types = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8]
        tensors[name] = tensor.to(draw.choice(types))
    elif kind == "copy":
        tensors[draw.choice(["extra.", "encoder.extra.", "lm_head.", "final_proj."]) + "weight"] = tensor.clone()
    elif kind == "prefix":
        prefix = draw.choice(["module.", "_orig_mod.", "model.", "base_model.model.", "foo."])
        tensors = {prefix + key: value for key, value in tensors.items()}
    elif kind == "add":
        tensors[name + draw.choice([".lora_A.default.weight", "_scale", ".qweight", "2"])] = torch.ones(3)
    elif kind == "swap":
        other = draw.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other].clone(), tensor.clone()
    else:
        spelt = (".parametrizations.weight.original0", ".weight_g"), (".parametrizations.weight.original1", ".weight_v")
        for new, old in spelt if draw.random() < 0.7 else spelt[:1]:
            tensors = {key.replace(new, old): value for key, value in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return f"tensors {kind} {name}"


def mutate_bytes(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(["config.json", "preprocessor_config.json", "model.safetensors"])
    data = bytearray(path.read_bytes())
    kind = draw.choice(["cut", "flip", "empty", "text"])
    if kind == "cut":
        data = data[: draw.randrange(len(data))]
    elif kind == "flip":
        for _ in range(8):
            data[draw.randrange(min(len(data), 2000))] ^= 1 << draw.randrange(8)
    else:
        data = bytearray(b"" if kind == "empty" else b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    path.write_bytes(data)
    return f"bytes {kind} {path.name}"


def ours(folder: Path) -> Pretrained | None:
    """The model, or ``None`` where it is refused. Any other exception than a ValueError is a fault."""
    try:
        return load_pretrained(folder)
    except ValueError:
        return None


def theirs(folder: Path) -> nn.Module | None:
    """What transformers loads without filling in anything; ``None`` where it does not."""
    try:
        model, report = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except Exception:
        return None
    masked = [name for name in report["missing_keys"] if "masked_spec_embed" not in name]
    return None if masked or report["mismatched_keys"] else model.eval()


@torch.no_grad()
def differ(loaded: Pretrained, model: nn.Module) -> float:
    """The largest difference of any state, as a share of the largest value there is."""
    wave = 0.3 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
    found = loaded.encoder(wave)
    states = [found.embedded, *found.hidden[1:-1], found.last]
    if model.main_input_name == "input_features":
        extractor = transformers.SeamlessM4TFeatureExtractor()
        inputs = extractor(wave[0].numpy(), sampling_rate=16000, return_tensors="pt")
        out = model(inputs["input_features"], attention_mask=inputs["attention_mask"], output_hidden_states=True)
    else:
        out = model(wave, output_hidden_states=True)
    worst = 0.0
    for a, b in zip(states, (*out.hidden_states[:-1], out.last_hidden_state), strict=True):
        b = b[:, : a.shape[1]] if model.main_input_name == "input_features" else b
        assert a.shape[1] == b.shape[1] or abs(a.shape[1] - b.shape[1]) <= 1
        worst = max(worst, float((a - b).abs().max() / b.abs().max()))
    return worst


def normalises(folder: Path) -> bool | None:
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    except Exception:
        return None
    return bool(extractor.do_normalize) if isinstance(extractor, transformers.Wav2Vec2FeatureExtractor) else None


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_folder_is_as_in_transformers_or_refused(kind: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    model_of(kind, whole)
    loaded = 0
    for round_ in range(ROUNDS):
        draw = random.Random(f"{kind} {round_}")
        folder = tmp_path / f"mutated-{round_}"
        shutil.copytree(whole, folder)
        said = mutate(folder, draw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mine = ours(folder)
            if mine is not None:
                loaded += 1
                other = theirs(folder)
                assert other is None or differ(mine, other) < 2e-3, said
                wants = normalises(folder)
                assert wants is None or mine.family == "wav2vec2_bert" or wants == mine.normalize, said
        shutil.rmtree(folder)
    assert 5 < loaded < ROUNDS  # some are harmless, some are not


def test_a_mutated_student_loads_as_it_was_or_is_refused(tmp_path: Path) -> None:
    model_of("Hubert", tmp_path / "teacher")
    encoder = load_pretrained(tmp_path / "teacher").encoder
    whole = tmp_path / "whole"
    save_student(whole, encoder, normalize=False, teacher="demo", projections={"1": nn.Linear(32, 40)}, layers={"1": [1]})  # type: ignore[arg-type]
    wave = normalize_wave(torch.randn(1, 8000, generator=torch.Generator().manual_seed(1)))
    loaded = 0
    for round_ in range(2 * ROUNDS):
        draw = random.Random(f"student {round_}")
        folder = tmp_path / f"mutated-{round_}"
        shutil.copytree(whole, folder)
        path = folder / "config.json"
        if draw.random() < 0.6:
            values = json.loads(path.read_text())
            place: Any = values
            while True:  # somewhere in the tree
                keys = sorted(place) if isinstance(place, dict) else range(len(place))
                key = draw.choice(list(keys))
                if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.2:
                    break
                place = place[key]
            place[key] = draw.choice(VALUES)
            path.write_text(json.dumps(values))
            said = f"{key} = {place[key]!r}"
        else:
            said = mutate_tensors(folder, draw) if draw.random() < 0.5 else mutate_bytes(folder, draw)
        mine = ours(folder)
        if mine is not None:
            loaded += 1
            with torch.no_grad():
                assert torch.isfinite(mine.encoder(wave).last).all(), said
        shutil.rmtree(folder)
    assert 5 < loaded < 2 * ROUNDS
