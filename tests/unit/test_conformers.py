"""Conformer families: the same hidden states as transformers, from the waveform on, and what only they have."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import DistanceConfig, Encoder, EncoderConfig, FbankConfig, FrontendConfig, LayerConfig, PositionConfig
from sottovoce.encoder.config import ConvConfig
from sottovoce.encoder.distance import KeyDistance, Rotary, SinusoidDistance, shared_table
from sottovoce.encoder.kaldi_fbank import Fbank
from sottovoce.hub.pretrained import load_pretrained, save_pretrained
from sottovoce.timing.latency import latency

from .test_families import BATCH, difference, edit, speech

torch.set_num_threads(1)

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_depthwise_kernel_size": 5,
    "vocab_size": 12,
}
WAVES = {"conv_dim": (24,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
STYLES = {
    "group": {"feat_extract_norm": "group"},
    "layer": {"feat_extract_norm": "layer", "conv_bias": True, "hidden_act": "swish"},
}
POSITIONS = ("relative_key", "relative", "rotary", None)
CASES = [("wav2vec2_bert", position, "") for position in POSITIONS]
CASES += [("wav2vec2_conformer", position, style) for position in POSITIONS[1:] for style in STYLES]
CLASSES = {"wav2vec2_bert": "Wav2Vec2Bert", "wav2vec2_conformer": "Wav2Vec2Conformer"}
EXTRACTOR = transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=1.0)


def tiny(family: str, position: str | None, style: str = "", head: str = "Model", **kwargs: object) -> nn.Module:
    """A random transformers model in which every weight, bias and running statistic matters."""
    torch.manual_seed(0)
    shape = {**SMALL, "position_embeddings_type": position, **STYLES.get(style, {}), **kwargs}
    if family == "wav2vec2_bert":
        shape = {"left_max_position_embeddings": 7, "right_max_position_embeddings": 3, **shape}
    else:
        shape = {**WAVES, **shape}
    model = getattr(transformers, CLASSES[family] + head)(getattr(transformers, CLASSES[family] + "Config")(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model.eval()


def ours(model: nn.Module, family: str, over_padding: bool = False) -> Encoder:
    """`model` in our encoder, through the family's own code."""
    found = FAMILIES.get(family)()
    config = found.encoder_config(model.config.to_dict())
    state = found.to_encoder(model.state_dict(), config)
    frontend = dataclasses.replace(config.frontend, norm_over_padding=over_padding)
    encoder = Encoder(dataclasses.replace(config, frontend=frontend))
    encoder.load_state_dict(state)
    return encoder.eval()


class Hearing(nn.Module):
    """A transformers model that reads features, behind the interface of those that read waveforms."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, wave: Tensor, attention_mask: Tensor | None = None, **kwargs: object) -> object:
        sizes = [wave.shape[1]] * len(wave) if attention_mask is None else attention_mask.sum(-1).tolist()
        rows = [row[:size].numpy() for row, size in zip(wave, sizes, strict=True)]
        return self.model(**EXTRACTOR(rows, sampling_rate=16000, return_tensors="pt"), **kwargs)


def hearing(model: nn.Module, family: str) -> nn.Module:
    return Hearing(model) if family == "wav2vec2_bert" else model


ODD = [8000, 6143, 2777, 7840]  # whole and half-filled last frames, of the longest row and of others


@pytest.mark.parametrize(("family", "position", "style"), CASES)
def test_same_hidden_states(family: str, position: str | None, style: str) -> None:
    model = tiny(family, position, style)
    encoder, theirs = ours(model, family), hearing(model, family)
    for lengths in ([7003], ODD, [7840, 2777]):
        assert difference(encoder, theirs, lengths, alone=True) < 1e-4  # padding changes nothing
    assert difference(encoder if family == "wav2vec2_bert" else ours(model, family, True), theirs, ODD, alone=False) < 1e-4
    assert all(config == layer for config in encoder.config.layers for layer in encoder.config.layers[:1])


@pytest.mark.parametrize("family", CLASSES)
@torch.no_grad()
def test_front_end_taps_and_ends(family: str) -> None:
    model, (wave, sizes) = tiny(family, "relative"), speech(BATCH)
    encoder, taps = ours(model, family), []
    for layer in model.encoder.layers:
        layer.ffn2.register_forward_hook(lambda module, inputs, out: taps.append(out))
    found = encoder(wave, sizes, taps=True)
    assert torch.equal(found.hidden[0], encoder.frontend(wave, sizes)[0])
    assert torch.equal(found.hidden[0][found.valid()], found.embedded[found.valid()])  # no positions are added to it
    assert torch.equal(found.last, found.hidden[-1]) == (family == "wav2vec2_bert")  # which has no final norm
    hearing(model, family)(wave[:1, : BATCH[0]])
    for a, b in zip(found.ffn, taps, strict=True):  # before it is halved
        assert (a[0] - b[0, : a.shape[1]]).abs().max() < 1e-4


# the filter bank


def talk(samples: int) -> Tensor:
    """Something like speech: pulses at a gliding pitch through two resonances, fading in from silence."""
    t = torch.arange(samples) / 16_000
    phase = torch.cumsum((120 + 40 * torch.sin(5 * t)) / 16_000, 0)
    wave = sum(torch.exp(-(((k * 130 - 700) / 600) ** 2)) * torch.sin(2 * math.pi * k * phase) for k in torch.arange(1.0, 25))
    return (0.2 * wave * (t / t[-1]) ** 4 + 1e-4 * torch.randn(samples)).float()


@torch.no_grad()
def bank_differences() -> dict[str, float]:
    """Largest differences of the filter bank's numbers on a padded batch: to transformers' extractor, and to each row alone."""
    torch.manual_seed(0)
    bank, lengths = Fbank(FbankConfig()), [48_000, 33_333, 16_161, 560]
    wave = torch.stack([talk(48_000) * scale for scale in (1.0, 0.01, 0.3, 0.5)])
    wave *= torch.arange(48_000) < torch.tensor(lengths)[:, None]
    rows = [row[:size].numpy() for row, size in zip(wave, lengths, strict=True)]
    theirs = EXTRACTOR(rows, sampling_rate=16000, return_tensors="pt")
    mine = bank(wave, torch.tensor(lengths))
    found = {"to the extractor": 0.0, "padded batch to each item alone": 0.0}
    for i, count in enumerate(theirs["attention_mask"].sum(-1).tolist()):
        for key, want in zip(found, (theirs["input_features"][i], bank(wave[i : i + 1, : lengths[i]], None)[0]), strict=True):
            found[key] = max(found[key], (mine[i, :count] - want[:count]).abs().max().item())
    return found


def test_front_end_is_timed_alone() -> None:
    assert latency(ours(tiny("wav2vec2_bert", "relative"), "wav2vec2_bert").frontend, seconds=1.0, repeats=1) > 0


def test_filter_bank_equals_the_extractor() -> None:
    theirs, alone = bank_differences().values()
    assert theirs < 1e-3
    assert alone < 1e-4


def test_filter_bank_counts_frames_as_the_mask_does() -> None:
    assert BERT.frontend.frames(400) == BERT.frontend.frames(559) == 0
    for samples in (560, 719, 720, 879, 880, 16_000, 16_079, 16_080, 16_240, 31_999):
        mask = EXTRACTOR(torch.randn(samples).numpy(), sampling_rate=16000, return_tensors="pt")["attention_mask"]
        assert BERT.frontend.frames(samples) == int(mask.sum())
    assert (BERT.frontend.kernel, BERT.frontend.stride) == (560, 320)


@torch.no_grad()
def test_filter_bank_without_norm_equals_the_extractor_without(tmp_path: Path) -> None:
    encoder = ours(tiny("wav2vec2_bert", "relative_key"), "wav2vec2_bert")
    frontend = FrontendConfig((), fbank=FbankConfig(normalize=False))
    plain = Encoder(dataclasses.replace(encoder.config, frontend=frontend)).eval()
    plain.load_state_dict(encoder.state_dict())
    save_pretrained(tmp_path, plain, "wav2vec2_bert", normalize=False)
    assert load_pretrained(tmp_path).config == plain.config
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert theirs.config.do_normalize_per_mel_bins is False  # what its user must tell the extractor
    wave = talk(20_000)
    inputs = EXTRACTOR(wave.numpy(), sampling_rate=16000, return_tensors="pt", do_normalize_per_mel_bins=False)
    want, count = theirs(**inputs).last_hidden_state, int(inputs["attention_mask"].sum())
    found = plain(wave[None], None).last
    assert found.shape[1] == count
    assert (found - want[:, :count]).abs().max() < 1e-4
    assert (found - encoder(wave[None], None).last).abs().max() > 0.1
    padded = plain(torch.stack([torch.cat([wave, torch.ones(5000)]), torch.ones(25_000)]), torch.tensor([20_000, 25_000])).last
    assert (found - padded[:1, :count]).abs().max() < 1e-4


@torch.no_grad()
def test_filter_bank_keeps_its_precision() -> None:
    encoder, (wave, sizes) = ours(tiny("wav2vec2_bert", "relative_key"), "wav2vec2_bert"), speech(BATCH)
    want = encoder.frontend.features(wave, sizes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.frontend.features(wave, sizes), want)
    assert torch.equal(encoder.bfloat16().frontend.features(wave, sizes), want)
    assert encoder(wave, sizes).last.dtype == torch.bfloat16


@pytest.mark.parametrize(("family", "position"), [("wav2vec2_bert", "relative_key"), ("wav2vec2_conformer", "relative")])
def test_rows_too_short_for_a_frame_harm_nothing(family: str, position: str) -> None:
    encoder = ours(tiny(family, position), family)
    wave, sizes = speech([5000, 300, 5, 0])
    features = encoder(wave, sizes)
    assert features.lengths is not None
    assert features.lengths[1:].tolist() == [0, 0, 0]
    assert all(torch.isfinite(state).all() for state in features.hidden)
    assert torch.allclose(features.last[0], encoder(wave[:1]).last[0], atol=1e-4)
    features.last[features.valid()].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
    with pytest.raises(ValueError, match="too few"):
        encoder(wave[:, :300])


# distances


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes, views that take no memory left out."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and 0 not in made.stride():
            self.numel = max(self.numel, made.numel())
        return made


@pytest.mark.parametrize("kind", ["key", "sinusoid"])
@torch.no_grad()
def test_distances_take_no_more_memory_than_scores(kind: str) -> None:
    frames, heads, width = 150, 2, 64
    config = DistanceConfig(kind, left=9, right=4)
    part = KeyDistance(config, width) if kind == "key" else SinusoidDistance(heads * width, heads, width)
    with Largest() as seen:
        table = shared_table(config, frames, heads * width, torch.zeros(1))
        assert table is not None
        part(torch.randn(1, heads, frames, width), table)
    assert seen.numel <= 2 * heads * frames * frames  # not frames x frames x width


@torch.no_grad()
def test_distances_by_their_definitions() -> None:
    q, frames = torch.randn(2, 3, 6, 8), 6
    config = DistanceConfig("key", left=2, right=1)
    key = KeyDistance(config, 8)
    nn.init.normal_(key.weight)
    bias = key(q, shared_table(config, frames, 24, q))[1]
    sinusoid = SinusoidDistance(24, 3, 8)
    for vector in (sinusoid.u, sinusoid.v):
        nn.init.normal_(vector)
    moved, scores = sinusoid(q, shared_table(DistanceConfig("sinusoid"), frames, 24, q))
    torch.testing.assert_close(moved, q + sinusoid.u[:, None])
    rate = 10_000 ** (-torch.arange(0, 24, 2) / 24)
    for i in range(frames):
        for j in range(frames):
            want = q[:, :, i] @ key.weight[min(max(j - i, -2), 1) + 2] / 8**0.5
            torch.testing.assert_close(bias[:, :, i, j], want)
            wave = torch.stack([((i - j) * rate).sin(), ((i - j) * rate).cos()], -1).flatten()
            vector = sinusoid.proj(wave).view(3, 8)
            torch.testing.assert_close(scores[:, :, i, j], ((q[:, :, i] + sinusoid.v) * vector).sum(-1) / 8**0.5)


@torch.no_grad()
def test_rotation_makes_scores_depend_on_distance_only() -> None:
    rotary = Rotary(DistanceConfig("rotary"), 8)
    x = rotary(torch.randn(1, 1, 16).expand(1, 7, 16)).view(7, 2, 8)
    scores = torch.einsum("ahw,bhw->hab", x, x)
    for offset in range(7):
        line = scores.diagonal(offset, 1, 2)
        assert (line - line[:, :1]).abs().max() < 1e-4
    assert (x.norm(dim=-1) - x[0].norm(dim=-1)).abs().max() < 1e-4


# folders


def save(model: nn.Module, folder: Path, family: str) -> Path:
    model.save_pretrained(folder)
    if family == "wav2vec2_bert":
        EXTRACTOR.save_pretrained(folder)
    else:
        (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    return folder


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_folder(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny(family, "relative")
    with torch.no_grad():  # rounded, so that both sides have the same numbers
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.to(dtype) if tensor.is_floating_point() else tensor)
    save(model, tmp_path, family)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}, tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_pretrained(tmp_path)
    assert (found.family, found.normalize, found.depth, found.dim) == (family, False, 3, 48)
    assert {p.dtype for p in found.encoder.parameters()} == {torch.float32}
    assert not found.encoder.training
    assert difference(found.encoder, hearing(model, family), BATCH, alone=True) < 1e-4


def test_the_scale_of_the_waveform_is_nobodys_business(tmp_path: Path) -> None:
    tiny("wav2vec2_bert", "relative_key").save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_pretrained(tmp_path).normalize is False  # no preprocessor_config.json is needed, and nothing guessed


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("head", ["ForCTC", "ForXVector", "ForSequenceClassification"])
def test_heads_and_adapters_are_left_out(family: str, head: str, tmp_path: Path) -> None:
    small = {"tdnn_dim": (8,) * 5, "xvector_output_dim": 8, "output_hidden_size": 48, "num_adapter_layers": 1}
    more = {"use_weighted_layer_sum": head == "ForSequenceClassification", "add_adapter": head != "ForSequenceClassification"}
    if family == "wav2vec2_bert":
        more["use_intermediate_ffn_before_adapter"] = more["add_adapter"]
    model = tiny(family, "rotary", head=head, **small, **more)
    found = load_pretrained(save(model, tmp_path, family))
    trunk = getattr(model, FAMILIES.get(family).prefix)
    trunk.adapter = trunk.intermediate_ffn = None
    assert difference(found.encoder, hearing(trunk, family), BATCH, alone=True) < 1e-4


@pytest.mark.parametrize(("family", "position", "style"), CASES)
def test_way_back_to_transformers(family: str, position: str | None, style: str, tmp_path: Path) -> None:
    model, vector = tiny(family, position, style), torch.randn(48)
    encoder = ours(model, family)
    for mask_vector in (None, vector):
        save_pretrained(tmp_path, encoder, family, normalize=False, mask_vector=mask_vector)
        again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        wave, _ = speech([6000])
        with torch.no_grad():
            states = [hearing(each, family)(wave).last_hidden_state for each in (model, again.eval())]
        assert (states[0] - states[1]).abs().max() < 1e-5
    assert torch.equal(again.masked_spec_embed, vector)
    assert load_pretrained(tmp_path).config == encoder.config
    kind = "SeamlessM4TFeatureExtractor" if family == "wav2vec2_bert" else "Wav2Vec2FeatureExtractor"
    assert type(transformers.AutoFeatureExtractor.from_pretrained(tmp_path)).__name__ == kind
    layers = (dataclasses.replace(encoder.config.layers[0], glu_dim=10), *encoder.config.layers[1:])
    with pytest.raises(ValueError, match="Model cannot hold this encoder"):
        FAMILIES.get(family)().to_hf(dataclasses.replace(encoder.config, layers=layers), encoder.state_dict())


NORM = "encoder__layers__1__conv_module__batch_norm__running_var"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, r"batch_norm\.running_var \(here: layers\.1\.convolution\.norm\.variance\) is missing"),
        ({NORM: torch.full((48,), float("nan"))}, r"running_var .* holds NaN"),
        (
            {"encoder__layers__0__conv_module__pointwise_conv1__weight": torch.ones(95, 48, 1)},
            r"pointwise_conv1\.weight .* has shape \(95, 48\); expected \(96, 48\)",
        ),
        ({"encoder__layers__0__self_attn__distance_embedding__weight": torch.ones(2, 2)}, "not part of this encoder"),
    ],
)
def test_faulty_tensors_are_named(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    folder = save(tiny("wav2vec2_conformer", "relative"), tmp_path, "wav2vec2_conformer")
    with pytest.raises(ValueError, match=message):
        load_pretrained(edit(folder, **change))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("wav2vec2_bert", {"position_embeddings_type": "absolute"}, "'absolute'; known: relative_key, relative, rotary, null"),
        ("wav2vec2_bert", {"feature_projection_input_dim": 100}, "100, which is not made of frames of 80"),
        ("wav2vec2_conformer", {"position_embeddings_type": "relative_key"}, "known: relative, rotary, null"),
        ("wav2vec2_conformer", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
        ("wav2vec2_conformer", {"conv_depthwise_kernel_size": 4}, "must be odd"),
        ("wav2vec2_conformer", {"hidden_act": "mish"}, "hidden_act is 'mish'"),
    ],
)
def test_configs_that_are_refused(family: str, changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = save(tiny(family, "relative"), tmp_path, family) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_an_extractor_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save(tiny("wav2vec2_bert", "relative"), tmp_path, "wav2vec2_bert")
    transformers.SeamlessM4TFeatureExtractor(feature_size=40, num_mel_bins=40, stride=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"num_mel_bins 40, which does not fit config\.json \(it would be 80\)"):
        load_pretrained(tmp_path)


# shapes as data


CONVS = (ConvConfig(6, 10, 5), ConvConfig(5, 3, 2))
BERT = FAMILIES.get("wav2vec2_bert")().encoder_config({})
PLAIN = EncoderConfig(FrontendConfig(CONVS), 16, PositionConfig(8, 4), (LayerConfig(4, 4, 24),))


def test_the_real_shape() -> None:
    """facebook/w2v-bert-2.0: 580.5 million parameters, as its model card says."""
    from sottovoce.pruning import encoder_cost, total

    assert 580e6 < total(encoder_cost(BERT)).params < 581e6
    assert (BERT.distance, BERT.convolution.kernel) == (DistanceConfig("key", left=64, right=8), 31)


@pytest.mark.parametrize("config", [BERT, PLAIN, dataclasses.replace(BERT, frontend=PLAIN.frontend)])
def test_shapes_survive_json(config: EncoderConfig) -> None:
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_older_shapes_stay_as_they_were() -> None:
    """What came later is not written where it is not used: older files load, and older versions load new files."""
    old = dataclasses.asdict(PLAIN)
    for key in ("distance", "convolution", "norm", "factored", "positions", "attention_bias", "norm_bias", "window"):
        del old[key]
    del old["sinusoids"], old["context"]
    for conv in old["frontend"]["convs"]:
        del conv["padding"], conv["bias"], conv["activation"]
    for key in ("kind", "ffn1_dim", "ffn1", "glu_dim", "reuse", "query_dim", "value_dim"):
        del old["layers"][0][key]
    for key in ("fbank", "join", "log_mel", "projection"):
        del old["frontend"][key]
    del old["dropout"]["convolution"]
    assert EncoderConfig.from_dict(old) == PLAIN
    assert PLAIN.to_dict() == old
    assert repr(PLAIN.layers[0]) == "LayerConfig(num_heads=4, head_dim=4, ffn_dim=24, attention=True, ffn=True, heads=())"
    with pytest.raises(ValueError, match=r"layer\.kind is 'mamba'"):
        EncoderConfig.from_dict({**old, "layers": [{**old["layers"][0], "kind": "mamba"}]})


def test_statistics_stay_in_training() -> None:
    encoder = ours(tiny("wav2vec2_conformer", "rotary"), "wav2vec2_conformer")
    wave, sizes = speech(BATCH)
    want = encoder(wave, sizes).last
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    config = dataclasses.replace(encoder.config, dropout=type(encoder.config.dropout)())
    learning = Encoder(config).train()
    learning.load_state_dict(encoder.state_dict())
    assert torch.equal(learning(wave, sizes).last, want)
    assert all(torch.equal(buffer, before[name]) for name, buffer in learning.named_buffers())


def test_random_start_is_finite() -> None:
    for family in CLASSES:
        encoder = Encoder(ours(tiny(family, "relative"), family).config).reset_parameters()
        assert all(torch.isfinite(state).all() for state in encoder(*speech(BATCH)).hidden)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """It gives up on a function that was compiled for many encoders, in other tests."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("family", "position", "style"), CASES)
def test_encoder_compiles_in_one_graph(family: str, position: str | None, style: str) -> None:
    encoder = ours(tiny(family, position, style), family)
    compiled = torch.compile(encoder, fullgraph=True)
    wave, sizes = speech(BATCH)
    with torch.no_grad():
        for inputs in ((wave, sizes), (wave[:1],)):  # a row without zeros: digital silence is badly conditioned for a filter bank
            a, b = compiled(*inputs), encoder(*inputs)
            keep = b.valid()
            for mine, theirs in zip(a.hidden, b.hidden, strict=True):
                assert (mine - theirs)[keep].abs().max() < 1e-4


class Last(nn.Module):
    """An encoder whose result torch.export understands."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, wave: Tensor, lengths: Tensor) -> Tensor:
        last: Tensor = self.encoder(wave, lengths).last
        return last


@pytest.mark.slow
@pytest.mark.parametrize(("family", "position", "style"), CASES)
@torch.no_grad()
def test_encoder_exports_with_dynamic_length(family: str, position: str | None, style: str) -> None:
    encoder = ours(tiny(family, position, style), family)
    shapes = ({1: torch.export.Dim.DYNAMIC}, None)
    program = torch.export.export(Last(encoder), speech([8037, 6143, 2777]), dynamic_shapes=shapes)
    wave, sizes = speech([12_000, 9000, 5000])
    want = encoder(wave, sizes)
    assert (program.module()(wave, sizes) - want.last)[want.valid()].abs().max() < 1e-4
