"""Whisper's and Moonshine's encoders: the same hidden states as transformers from raw audio, whatever the padding and the length, and
students of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

import sottovoce
from sottovoce.core.registry import FAMILIES, STUDENTS
from sottovoce.encoder import Encoder, EncoderConfig, LogMelConfig
from sottovoce.encoder.position import continued, sinusoid_columns, sinusoid_rates, sinusoid_table
from sottovoce.encoder.relative_log_mel import RelativeLogMel
from sottovoce.exporting.graph import PlainLogMel
from sottovoce.hub.pretrained import load_pretrained, save_pretrained
from sottovoce.hub.student import save_student
from sottovoce.timing.runtimes import RUNTIMES
from sottovoce.train import api
from tests.recipes.test_recipes import SMALL as FEW
from tests.unit.test_families import edit, speech

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "vocab_size": 32}
WHISPER: dict[str, Any] = {
    "d_model": 48,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_source_positions": 150,  # 3 s
    **IDS,
}
MOONSHINE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "encoder_num_hidden_layers": 3,
    "decoder_num_hidden_layers": 1,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
    **IDS,
}
STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "80 mels": ("whisper", {}),
    "128 mels": ("whisper", {"num_mel_bins": 128, "encoder_attention_heads": 2, "d_model": 32, "activation_function": "relu"}),
    "10 s": ("whisper", {"max_source_positions": 500}),
    "half turned": (
        "moonshine",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
    ),
    "ninety percent turned": ("moonshine", {"hidden_size": 72, "encoder_hidden_act": "silu"}),
    "with biases, padded heads": ("moonshine", {"attention_bias": True, "pad_head_dim_to_multiple_of": 8}),
}
CLASSES = {"whisper": (transformers.WhisperConfig, WHISPER), "moonshine": (transformers.MoonshineConfig, MOONSHINE)}
HEADS = {"whisper": "Whisper", "moonshine": "Moonshine"}


def tiny(style: str, head: str = "Model") -> nn.Module:
    """A random transformers model whose every weight matters."""
    torch.manual_seed(0)
    family, changes = STYLES[style]
    cls, shape = CLASSES[family]
    model = getattr(transformers, HEADS[family] + head)(cls(**{**shape, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def save(style: str, folder: Path, head: str = "Model") -> Path:
    model = tiny(style, head)
    model.save_pretrained(folder)
    extractor = extractor_of(model)
    if extractor is not None:
        extractor.save_pretrained(folder)
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "sampling_rate": 16_000}))
    return folder


def extractor_of(model: nn.Module) -> Any:
    config: Any = model.config
    if config.model_type != "whisper":
        return None
    return transformers.WhisperFeatureExtractor(config.num_mel_bins, chunk_length=config.max_source_positions // 50)


@torch.no_grad()
def theirs(model: nn.Module, wave: Tensor) -> list[Tensor]:
    """What transformers' encoder says of one recording (S,)."""
    extractor, encoder = extractor_of(model), model.get_encoder()
    given = wave[None] if extractor is None else extractor(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    out = encoder(given, output_hidden_states=True)
    return [*out.hidden_states[:-1], out.last_hidden_state]


BATCH = [32_000, 20_123, 9_777]


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_same_hidden_states(style: str, tmp_path: Path) -> None:
    """Of a padded batch, and of a recording alone, as of each recording in transformers."""
    model, found = tiny(style), load_pretrained(save(style, tmp_path))
    assert (found.family, found.normalize) == (STYLES[style][0], False)
    wave, sizes = speech(BATCH)
    mine = found.encoder(wave, sizes)
    alone = found.encoder(wave[:1])
    assert mine.lengths is not None
    assert mine.lengths.tolist() == found.shape.frontend.frames(sizes).tolist()
    for i, size in enumerate(BATCH):
        frames, wanted = int(mine.lengths[i]), theirs(model, wave[i, :size])
        for state, other in zip([mine.embedded, *mine.hidden[1:-1], mine.last], wanted, strict=True):
            assert (state[i, :frames] - other[0, :frames]).abs().max() < 1e-4
    for state, other in zip(alone.hidden, mine.hidden, strict=True):
        assert (state[0] - other[0, : state.shape[1]]).abs().max() < 1e-4


@torch.no_grad()
def test_a_window_of_thirty_seconds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.WhisperModel(
        transformers.WhisperConfig(**{**WHISPER, "max_source_positions": 1500, "encoder_layers": 1})
    )
    model.eval().save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor().save_pretrained(tmp_path)
    found, (wave, _) = load_pretrained(tmp_path), speech([480_000])
    assert found.shape.window == 480_000
    ours = found.encoder(wave)
    assert (ours.last - theirs(model, wave[0])[-1]).abs().max() < 1e-4
    # 40 samples more than a window: the last frame of the window no longer is at the end of the recording
    assert found.encoder(torch.cat([wave, wave[:, :8000]], 1)).last.shape[1] == 1525


@pytest.mark.parametrize("mels", [80, 128])
@torch.no_grad()
def test_features_are_the_extractors(mels: int) -> None:
    """With and without padding; silence, too. Each row is mirrored at its own end."""
    extractor = transformers.WhisperFeatureExtractor(mels)
    wave, sizes = speech([20_000, 16_001, 8_000])
    wave[2] *= 1e-4
    bank = RelativeLogMel(LogMelConfig(mels))
    ours, plain = bank(wave, sizes), PlainLogMel(bank)(wave, sizes)
    garbage = wave + 9.0 * (torch.arange(20_000) >= sizes[:, None])
    assert torch.equal(bank(garbage, sizes)[1, :100], ours[1, :100])
    for i, size in enumerate(sizes.tolist()):
        want = extractor(wave[i, :size].numpy(), sampling_rate=16_000, return_tensors="pt", padding=False).input_features[0].T
        assert (ours[i, : size // 160] - want).abs().max() < 1e-4
        assert (plain[i, : size // 160] - want).abs().max() < 2e-3  # quiet bands are small differences of large numbers
    silence = bank(torch.zeros(1, 4_000), None)
    assert (silence + 1.5).abs().max() < 1e-6


@pytest.mark.parametrize("style", ["80 mels", "half turned"])
def test_rows_too_short_for_a_frame_harm_nothing(style: str, tmp_path: Path) -> None:
    found = load_pretrained(save(style, tmp_path))
    for encoder in (found.encoder, Encoder(dataclasses.replace(found.shape, window=0)).reset_parameters().eval()):
        wave, sizes = speech([6_000, 150, 5, 0])
        features = encoder(wave, sizes)
        assert features.lengths is not None
        assert features.lengths.tolist()[1:] == [0, 0, 0]
        assert all(torch.isfinite(state).all() for state in features.hidden)
        assert torch.allclose(features.last[0, : int(features.lengths[0])], encoder(wave[:1]).last[0], atol=1e-4)
        features.last[features.valid()].sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)
        with pytest.raises(ValueError, match="too few"):
            encoder(torch.zeros(1, 100))
        with pytest.raises(ValueError, match="batch of waveforms"):
            encoder(torch.zeros(8_000))


@torch.no_grad()
def test_long_recordings_are_heard_by_windows(tmp_path: Path) -> None:
    found = load_pretrained(save("80 mels", tmp_path))
    wave, sizes = speech([100_000, 20_000])  # windows of 48,000 samples
    features = found.encoder(wave, sizes, taps=True)
    assert features.lengths is not None
    assert features.lengths.tolist() == [313, 63]
    first, second, third = (found.encoder(wave[:1, begin : begin + 48_000], taps=True) for begin in (0, 48_000, 96_000))
    for which in ("last", "embedded"):
        parts = torch.cat([getattr(piece, which) for piece in (first, second, third)], dim=1)
        assert torch.allclose(getattr(features, which)[:1], parts, atol=1e-4)
    assert torch.allclose(features.ffn[1][1, :63], found.encoder(wave[1:, :20_000], taps=True).ffn[1][0], atol=1e-4)


@torch.no_grad()
def test_students_hear_recordings_longer_than_the_window(tmp_path: Path) -> None:
    """In any batch; where positions are learned, the table's end is that of a recording."""
    found = load_pretrained(save("80 mels", tmp_path))  # 150 positions
    copy, narrow = STUDENTS.get("copy"), STUDENTS.get("narrow")
    wave, sizes = speech([100_000, 60_000])
    for cls, options in ((copy, {}), (narrow, {"dim": 32}), (narrow, {"dim": 32, "start": "random"})):
        free = cls(cls.Config(**options)).build(found).eval()
        assert free.config.longest == 0
        features = free(wave, sizes)
        assert features.last.shape[1] == 313
        for row, size in enumerate(sizes.tolist()):
            alone = free(wave[row : row + 1, :size])
            for ours, other in zip((features.embedded, features.last), (alone.embedded, alone.last), strict=True):
                assert (ours[row, : other.shape[1]] - other[0]).abs().max() < 1e-4
        place = features.embedded - features.hidden[0]
        if free.config.dim == 48:
            assert (place[0] - sinusoid_table(313, 48)).abs().max() < 1e-5
    free = copy(copy.Config()).build(found).eval()
    free.load_state_dict({**free.state_dict(), "positions": torch.randn(150, 48)})
    assert free(wave[:, :48_000]).last.shape[1] == 150
    with pytest.raises(ValueError, match="holds no sinusoids"):
        free(wave)
    free.config = dataclasses.replace(free.config, sinusoids=0)
    with pytest.raises(ValueError, match=r"313 frames, and this encoder knows 150 positions \(3 s\); cut it into pieces"):
        free(wave)


@pytest.mark.parametrize("width", [384, 512])
def test_tables_go_on_as_sinusoids_do(width: int) -> None:
    """As the released checkpoints store them, in half precision; whole, and what is left of one in a narrow student."""
    whole = sinusoid_table(40_000, width)
    rate, _ = sinusoid_rates(width)
    assert (whole[39_999, 3] - torch.sin(39_999 * rate[3]).float()).abs() < 1e-6
    stored = whole[:1500].half().float()
    assert (continued(stored, width, 40_000)[1500:] - whole[1500:]).abs().max() < 1e-6
    some = torch.randperm(width, generator=torch.Generator().manual_seed(0))[: width // 3].sort().values
    assert sinusoid_columns(stored[:, some], width).tolist() == some.tolist()
    assert (continued(stored[:, some], width, 2_000)[1500:] - whole[1500:2_000, some]).abs().max() < 1e-6


@torch.no_grad()
def test_masked_frames_are_those_of_the_audio(tmp_path: Path) -> None:
    encoder, (wave, _) = load_pretrained(save("80 mels", tmp_path)).encoder, speech([60_000])
    mask = torch.zeros(1, 188, dtype=torch.bool)
    mask[0, 160:] = True
    with_mask, without = encoder(wave, mask=mask, mask_vector=torch.ones(48)), encoder(wave)
    assert torch.equal(with_mask.embedded[0, :160], without.embedded[0, :160])
    assert (with_mask.embedded[0, 160:] - without.embedded[0, 160:]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("style", "head"),
    [
        ("80 mels", "ForConditionalGeneration"),
        ("80 mels", "ForAudioClassification"),
        ("ninety percent turned", "ForConditionalGeneration"),
    ],
)
def test_heads_are_left_out(style: str, head: str, tmp_path: Path) -> None:
    found, (wave, _) = load_pretrained(save(style, tmp_path, head)), speech([20_000])
    assert found.left_out
    model = tiny(style, head)
    model = model.encoder if head == "ForAudioClassification" else model.model
    if head == "ForAudioClassification":
        model.get_encoder = lambda: model
    with torch.no_grad():
        ours = found.encoder(wave).last
        assert (ours - theirs(model, wave[0])[-1][:, : ours.shape[1]]).abs().max() < 1e-4


@pytest.mark.parametrize("style", STYLES)
def test_way_back_to_transformers(style: str, tmp_path: Path) -> None:
    found = load_pretrained(save(style, tmp_path / "there"))
    save_pretrained(tmp_path / "back", found.encoder, found.family, normalize=False)
    again = load_pretrained(tmp_path / "back")
    assert again.config == found.config
    model = tiny(style)
    encoder, report = type(model.get_encoder()).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    wave, _ = speech([20_000])
    encoder.get_encoder = lambda: encoder
    assert (theirs(encoder.eval(), wave[0])[-1] - theirs(model, wave[0])[-1]).abs().max() < 1e-5
    with pytest.raises(ValueError, match="cannot hold this encoder"):
        FAMILIES.get(found.family)().to_hf(found.shape.with_layer(0, ffn_dim=10), found.encoder.state_dict())


@pytest.mark.parametrize(
    ("style", "file", "changes", "message"),
    [
        ("half turned", "config.json", {"encoder_num_key_value_heads": 2}, "keys and values that several heads share"),
        ("half turned", "config.json", {"rope_parameters": {"rope_type": "linear"}}, "rope_type is 'linear'"),
        ("half turned", "config.json", {"rope_parameters": {"partial_rotary_factor": 0.3}}, "turns 3 channels of a head"),
        ("80 mels", "config.json", {"encoder_attention_heads": 5}, "not a multiple of"),
        ("80 mels", "preprocessor_config.json", {"feature_size": 128}, "feature_size 128, which does not fit"),
        (
            "80 mels",
            "preprocessor_config.json",
            {"feature_extractor_type": "Wav2Vec2FeatureExtractor"},
            "Wav2Vec2FeatureExtractor",
        ),
        ("80 mels", "preprocessor_config.json", {"n_fft": 320}, "n_fft 320"),
        ("80 mels", "preprocessor_config.json", {"dither": 0.1}, "dither"),
    ],
)
def test_what_cannot_be_is_refused(style: str, file: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = save(style, tmp_path) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_missing_weights_are_named_as_transformers_names_them(tmp_path: Path) -> None:
    save("80 mels", tmp_path)
    with pytest.raises(ValueError, match=r"layers\.1\.fc1\.weight .*is missing"):
        load_pretrained(edit(tmp_path, encoder__layers__1__fc1__weight=None))


def test_older_configs_say_how_much_is_turned_at_the_top(tmp_path: Path) -> None:
    path = save("half turned", tmp_path) / "config.json"
    older = json.loads(path.read_text())
    del older["rope_parameters"]
    path.write_text(json.dumps({**older, "rope_theta": 500.0, "partial_rotary_factor": 0.5}))
    distance = load_pretrained(tmp_path).shape.distance
    assert distance is not None
    assert (distance.width, distance.base) == (6, 500)


# students


@pytest.mark.parametrize("style", ["80 mels", "half turned"])
@pytest.mark.parametrize(("name", "options"), [("copy", {}), ("layers", {"count": 2}), ("narrow", {"dim": 32, "ffn_dim": 40})])
@torch.no_grad()
def test_students_run_on_recordings_as_long_as_they_are(style: str, name: str, options: dict[str, Any], tmp_path: Path) -> None:
    teacher, cls = load_pretrained(save(style, tmp_path)), STUDENTS.get(name)
    student = cls(cls.Config(**options)).build(teacher).eval()
    wave, sizes = speech(BATCH)
    assert student.config.window == 0
    features = student(wave, sizes)
    assert features.last.shape[:2] == teacher.encoder(wave).last.shape[:2]
    for i, size in enumerate(BATCH):
        alone = student(wave[i : i + 1, :size]).last[0]
        assert (features.last[i, : len(alone)] - alone).abs().max() < 1e-4
    if name == "copy" and teacher.shape.window:
        padded = cls(cls.Config(length="teacher")).build(teacher).eval()
        assert padded.config == teacher.config
        assert torch.equal(padded(wave).last, teacher.encoder(wave).last)


@pytest.mark.parametrize("style", ["80 mels", "half turned"])
@torch.no_grad()
def test_a_student_may_join_frames(style: str, tmp_path: Path) -> None:
    teacher, cls = load_pretrained(save(style, tmp_path)), STUDENTS.get("copy")
    teacher = dataclasses.replace(teacher, encoder=cls(cls.Config()).build(teacher).eval())
    student, (wave, _) = cls(cls.Config(join=2)).build(teacher).eval(), speech([32_000])
    assert student.config.frontend.stride == 2 * teacher.shape.frontend.stride
    teacher.encoder.frontend.act = student.frontend.act = lambda x: x  # the mean is taken before the activation
    ours, every = student(wave).hidden[0], teacher.encoder(wave).hidden[0]
    pairs = every[:, : every.shape[1] // 2 * 2].unflatten(1, (-1, 2)).mean(2)
    torch.testing.assert_close(ours[:, : pairs.shape[1]], pairs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", ["80 mels", "half turned"])
def test_the_folder_of_a_student_opens_anywhere(style: str, tmp_path: Path) -> None:
    teacher, cls = load_pretrained(save(style, tmp_path / "teacher")), STUDENTS.get("copy")
    encoder = cls(cls.Config()).build(teacher).eval()
    save_student(tmp_path / "student", encoder, normalize=False, teacher="here", preprocessor=teacher.preprocessor)
    model = transformers.AutoModel.from_pretrained(tmp_path / "student", trust_remote_code=True)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "student")
    wave, sizes = speech(BATCH)
    rows = [row[:size].numpy() for row, size in zip(wave, BATCH, strict=True)]
    with torch.no_grad():
        out = model(**extractor(rows, sampling_rate=16_000, padding=True, return_tensors="pt"))
        assert torch.allclose(out.last_hidden_state, encoder(wave, sizes).last, atol=1e-5)
        assert torch.allclose(sottovoce.load(tmp_path / "student")(wave, sizes).last, encoder(wave, sizes).last, atol=1e-5)


RECIPES = {
    "dphubert-demo": [],
    "colld": ["student.dim=16", "student.depth=2", "student.heads=2", "student.ffn_dim=32", "student.glu_dim=0"],
    "sotto": ["objectives.colld.layers=2"],
    "whisper-any-length": [],
    "distilhubert": ["student.count=2"],
    "deep-narrow": ["student.name=narrow", "student.dim=32", "student.depth=2", "student.heads=2", "student.ffn_dim=40"],
    "fithubert": ["student.dim=32", "student.heads=4", "student.depth=2", "student.ffn_dim=48", "student.position_groups=4"],
}
RECIPES["deep-narrow"].append("objectives.layer_to_layer.layers=[['1/2'],['1/1']]")
RECIPES["fithubert"] += [
    "objectives.layer_to_layer.layers=[['1'],['2']]",
    "objectives.layer_to_layer.weights=[0.1,1.0]",
]


@pytest.mark.parametrize("style", ["10 s", "half turned"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_make_students(recipe: str, style: str, speech_folder: Path, tmp_path: Path) -> None:
    from sottovoce.train.recipe import load_recipe

    found = load_recipe(recipe)
    overrides = [*FEW, *RECIPES[recipe], "pruning.ramp=2"]
    for stage in (stage.label for stage in found.build_stages() if stage.updates):
        overrides += [f"stages.{stage}.steps=3", f"stages.{stage}.warmup=1"]
    result = api.compress(
        save(style, tmp_path / "teacher"),
        keep=0.6 if "cut" in found.stages else None,
        recipe=recipe,
        data=speech_folder,
        out=tmp_path / "out",
        device="cpu",
        overrides=overrides,
        larger=True,
    )
    assert result.met
    student = load_pretrained(result.out)
    assert (student.family, student.shape.window) == ("sottovoce", 0)
    assert EncoderConfig.from_dict(json.loads(json.dumps(student.shape.to_dict()))) == student.shape


@pytest.mark.parametrize("style", ["80 mels", "half turned"])
def test_bench_times_the_class_of_transformers(style: str, tmp_path: Path) -> None:
    wave, _ = speech([20_000, 20_000])
    found: Any = RUNTIMES["transformers"].open(str(save(style, tmp_path)), 1)(wave.numpy())
    last = found.last_hidden_state[:, :63] if style == "80 mels" else found.last
    with torch.no_grad():
        assert (last - load_pretrained(tmp_path).encoder(wave).last).abs().max() < 1e-4


def test_the_tensors_may_lie_without_a_prefix(tmp_path: Path) -> None:
    save("half turned", tmp_path)
    model = tiny("half turned").get_encoder()
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    wave, _ = speech([20_000])
    with torch.no_grad():
        assert torch.allclose(load_pretrained(tmp_path).encoder(wave).last, model(wave).last_hidden_state, atol=1e-4)
