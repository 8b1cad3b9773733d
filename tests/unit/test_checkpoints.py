"""A model's folder as other people leave it: names, settings and files are understood exactly, or called what they are."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load, load_file, save_file

from sottovoce.core.plain_warning import PlainWarning
from sottovoce.core.registry import FAMILIES
from sottovoce.encoder import Encoder
from sottovoce.exporting.api import export
from sottovoce.hub.checkpoint import read_tensors
from sottovoce.hub.pretrained import load_pretrained, save_pretrained
from sottovoce.hub.student import save_student
from tests.conftest import tiny_shape
from tests.unit.test_families import BATCH, CLASSES, config, difference, edit, save, speech, stranger, tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def hubert() -> torch.nn.Module:
    return tiny("hubert")


@pytest.fixture
def folder(hubert: torch.nn.Module, tmp_path: Path) -> Path:
    return save(hubert, tmp_path / "hubert")


def rename(folder: Path, change: object) -> Path:
    """The folder with every tensor's name changed."""
    tensors = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")  # type: ignore[operator]
    return folder


def same(folder: Path, model: torch.nn.Module) -> bool:
    return difference(load_pretrained(folder).encoder, model, BATCH, alone=True) < 1e-4


# names


@pytest.mark.parametrize("pickled", [False, True])
def test_a_folder_whose_name_is_not_utf8_is_read_and_not_written_to(folder: Path, hubert: torch.nn.Module, pickled: bool) -> None:
    odd = Path(os.fsdecode(os.fsencode(folder.parent) + b"/mod\xe9le"))
    try:
        folder.rename(odd)
    except OSError:
        pytest.skip("this file system has no such names")
    if pickled:
        torch.save(load((odd / "model.safetensors").read_bytes()), odd.parent / "pytorch_model.bin")
        (odd.parent / "pytorch_model.bin").rename(odd / "pytorch_model.bin")
        (odd / "model.safetensors").unlink()
    assert same(odd, hubert)
    with pytest.raises(ValueError, match=r"the name of .*mod\\xe9le is not UTF-8, so model files cannot be written there"):
        save_pretrained(odd, load_pretrained(odd).encoder, "hubert", normalize=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not UTF-8"):
        export(odd)


def test_keys_of_the_configuration_that_nobody_reads_are_said_once(folder: Path) -> None:
    def notes(folder: Path) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            load_pretrained(folder)
            load_pretrained(folder)
        return [str(each.message) for each in caught if issubclass(each.category, PlainWarning)]

    def configure(**keys: object) -> None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**found, **keys}))

    # transformers' own, of generation, and of earlier versions
    configure(mask_time_prob=0.05, max_length=20, torch_dtype="float32", tokenizer_class="X")
    assert notes(folder) == []
    configure(hidden_sise=4, my_note="mine")
    assert notes(folder) == [
        f"{folder}: 2 keys of config.json are known neither to transformers nor to sottovoce, and are not used: hidden_sise, my_note"
    ]
    assert load_pretrained(folder).unknown == ("hidden_sise", "my_note")


def test_what_sottovoce_writes_has_no_unknown_keys(tmp_path: Path) -> None:
    for name in CLASSES:
        encoder = load_pretrained(save(tiny(name), tmp_path / name)).encoder
        assert isinstance(encoder, Encoder)
        save_pretrained(tmp_path / f"{name}-again", encoder, name, normalize=False)
        for folder in (name, f"{name}-again"):
            assert load_pretrained(tmp_path / folder).unknown == ()
    save_student(tmp_path / "student", Encoder(tiny_shape()).reset_parameters(), normalize=False, teacher="demo")
    assert load_pretrained(tmp_path / "student").unknown == ()
    assert load_pretrained("demo").unknown == ()


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "base_model.model.",
        "model.",
        "hubert.",
        "module.model.hubert.",
    ],
)
def test_wrappers_are_taken_off(folder: Path, hubert: torch.nn.Module, prefix: str) -> None:
    assert same(rename(folder, lambda name: prefix + name), hubert)


def test_layers_that_were_compiled_or_sharded_one_by_one(folder: Path, hubert: torch.nn.Module) -> None:
    wrapped = ".layers.0._orig_mod.", ".layers.1._fsdp_wrapped_module."
    assert same(rename(folder, lambda name: name.replace(".layers.0.", wrapped[0]).replace(".layers.1.", wrapped[1])), hubert)


def test_another_prefix_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"under other names, which begin with 'teacher\.net\.'"):
        load_pretrained(rename(folder, lambda name: "teacher.net." + name))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_state_dict_inside_a_checkpoint_of_a_trainer(folder: Path, hubert: torch.nn.Module, key: str) -> None:
    torch.save({key: load_file(folder / "model.safetensors"), "epoch": 3}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert same(folder, hubert)


def test_other_dictionaries_are_refused_with_their_keys(folder: Path) -> None:
    torch.save({"epoch": 3, "weights": [1]}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not a plain mapping .*\(it has epoch, weights\)"):
        load_pretrained(folder)


def test_two_tensors_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder\.layer_norm\.weight is there twice"):
        load_pretrained(edit(folder, hubert__encoder__layer_norm__weight=torch.ones(48)))
    edit(folder, hubert__encoder__layer_norm__weight=None, encoder__pos_conv_embed__conv__weight=torch.ones(48, 12, 16))
    with pytest.raises(ValueError, match=r"conv\.weight is there twice, as it is and as length and direction"):
        load_pretrained(folder)


def test_adapters_are_refused_by_name(folder: Path) -> None:
    lora = "base_model__model__encoder__layers__0__attention__q_proj__lora_A__default__weight"
    with pytest.raises(ValueError, match=r"adapter of PEFT that is not merged .*lora_A.*merge_and_unload"):
        load_pretrained(edit(folder, **{lora: torch.ones(2, 48)}))
    edit(folder, **{lora: None})
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config\.json says that a PEFT adapter"):
        load_pretrained(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="a PEFT adapter without its base model"):
        load_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_quantised_weights_are_refused_by_name(folder: Path, dtype: torch.dtype) -> None:
    name = "encoder__layers__0__attention__q_proj__weight"
    with pytest.raises(ValueError, match=r"q_proj\.weight .*" + str(dtype).removeprefix("torch.")):
        load_pretrained(edit(folder, **{name: torch.ones(48, 48).to(dtype)}))


def test_quantised_formats_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"quantised \(it has encoder\.layers\.0\.attention\.q_proj\.qweight\)"):
        load_pretrained(edit(folder, encoder__layers__0__attention__q_proj__qweight=torch.ones(6, 48, dtype=torch.int32)))
    other = config(save(stranger(), tmp_path / "sew"), quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ValueError, match="quantised"):
        load_pretrained(other)


# heads


@pytest.mark.parametrize("head", ["final_proj", "label_embs_concat", "lm_head", "classifier", "quantizer", "project_q", "tdnn"])
@pytest.mark.parametrize("prefix", ["", "hubert."])
def test_heads_are_left_out_and_said(folder: Path, hubert: torch.nn.Module, head: str, prefix: str) -> None:
    rename(folder, lambda name: prefix + name)
    edit(folder, **{f"{head}__weight": torch.full((3, 48), float("nan"))})  # not looked at either
    assert same(folder, hubert)
    assert load_pretrained(folder).left_out == (head,)


def test_unknown_heads_are_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"emotion\.weight of shape \(3, 48\) is not part of this encoder"):
        load_pretrained(edit(folder, emotion__weight=torch.ones(3, 48)))


def test_mask_vector_must_be_finite(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"masked_spec_embed .*NaN"):
        load_pretrained(edit(folder, masked_spec_embed=torch.full((48,), float("nan"))))


# settings


@pytest.mark.parametrize("family", sorted(set(FAMILIES.names()) - {"sottovoce"}))
def test_defaults_are_those_of_transformers(family: str) -> None:
    cls = FAMILIES.get(family)
    theirs = transformers.CONFIG_MAPPING[cls.model_types[0]]().to_dict()
    read = {key: value for key, value in cls.defaults.items() if key not in cls.fixed and key in theirs}
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in theirs.items() if key in read} == read
    own = {"do_normalize_per_mel_bins"}  # ours, for the extractor's call
    assert set(cls.defaults) - set(read) - set(cls.fixed) <= own
    assert cls().encoder_config({"model_type": cls.model_types[0]}) == cls().encoder_config(theirs)


def test_keys_that_the_class_does_not_read_change_nothing(tmp_path: Path) -> None:
    model = tiny("wav2vec2")
    folder = config(save(model, tmp_path), feat_proj_layer_norm=False)
    assert same(folder, model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("hidden_size", -48),
        ("num_hidden_layers", 10**9),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", float("inf")),
        ("conv_kernel", [10, 3, 3, 3, 3, 2, 0]),
        ("conv_dim", []),
        ("conv_stride", [5, 2, 2, 2, 2, 2, "2"]),
        ("conv_bias", 1),
        ("hidden_size", 10**18),
    ],
)
def test_settings_that_cannot_be_are_named(folder: Path, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"config\.json: {key} is "):
        load_pretrained(config(folder, **{key: value}))


def test_extractor_inside_processor_config(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    for nested, place in ((True, "feature_extractor"), (False, "feature_extractor"), (True, "audio_processor")):
        extractor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": nested, "sampling_rate": 16000}
        (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Wav2Vec2Processor", place: extractor}))
        assert load_pretrained(folder).normalize is nested
        assert load_pretrained(folder).preprocessor == extractor
    # both: the newer place counts, as in transformers
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert load_pretrained(folder).normalize is True
    # an older processor_config.json says nothing of the extractor
    (folder / "processor_config.json").write_text('{"processor_class": "Wav2Vec2Processor"}')
    assert load_pretrained(folder).normalize is False


def test_missing_normalisation_is_the_default_of_the_extractor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    assert load_pretrained(folder).normalize is transformers.AutoFeatureExtractor.from_pretrained(folder).do_normalize is True
    (folder / "preprocessor_config.json").write_text('{"do_normalize": "no"}')
    with pytest.raises(ValueError, match="do_normalize is 'no'"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("preprocessor_config.json", {"sampling_rate": 8000}),
        ("preprocessor_config.json", {"feature_extractor": {"sampling_rate": 8000}}),
        ("processor_config.json", {"feature_extractor": {"sampling_rate": 8000}}),
        ("processor_config.json", {"audio_processor": {"sample_rate": 8000}}),
        ("processor_config.json", {"sampling_rate": 8000}),
        ("config.json", {"sampling_rate": 8000}),
        ("config.json", {"sample_rate": "8000"}),
    ],
)
def test_other_rates_are_refused_wherever_they_stand(folder: Path, file: str, content: dict) -> None:
    held = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps({**held, **content}))
    with pytest.raises(ValueError, match=rf"{file} says .*8000.*16000 Hz"):
        load_pretrained(folder)


def test_extractor_of_another_kind_is_refused(folder: Path) -> None:
    config(folder, "preprocessor_config.json", feature_extractor_type="WhisperFeatureExtractor")
    with pytest.raises(ValueError, match="'WhisperFeatureExtractor', and this model reads waveforms"):
        load_pretrained(folder)


# files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 378342945\n"
CONTENTS = {
    "a git-lfs pointer": POINTER,
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "empty": b"",
    "text, not weights": b"Entry not found",
    "a gzip archive": b"\x1f\x8b\x08\0\0\0\0\0\0\0",
    "all zeros": bytes(2000),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_are_no_weights_are_called_what_they_are(folder: Path, file: str, what: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(CONTENTS[what])
    with pytest.raises(ValueError, match=what) as caught:
        load_pretrained(folder)
    assert file in str(caught.value)
    assert "code" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["a git-lfs pointer", "a web page", "empty"])
@pytest.mark.parametrize(
    "file", ["config.json", "preprocessor_config.json", "processor_config.json", "model.safetensors.index.json"]
)
def test_files_that_are_no_json_are_called_what_they_are(folder: Path, file: str, what: str) -> None:
    if file.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(CONTENTS[what])
    with pytest.raises(ValueError, match=rf"{file} is {what}"):
        load_pretrained(folder)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_links_to_nothing_are_not_files_that_were_left_out(folder: Path, file: str) -> None:
    (folder / file).unlink()
    (folder / file).symlink_to(folder / "blobs" / "0123")
    with pytest.raises(ValueError, match=rf"{file} is a link to a file that is not there"):
        load_pretrained(folder)


def test_a_shard_that_was_not_fetched(hubert: torch.nn.Module, tmp_path: Path) -> None:
    hubert.save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')
    next(tmp_path.glob("model-00002*")).write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"model-00002-of-.*safetensors is a git-lfs pointer"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_files(folder: Path, index: dict) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has no weight_map"):
        load_pretrained(folder)


def test_weights_that_were_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"cut short: {len(whole) // 2:,} of the {len(whole):,} bytes"):
        load_pretrained(folder)
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="cut short: 100 of"):
        load_pretrained(folder)
    torch.save({"a": torch.ones(1000)}, folder / "pytorch_model.bin")
    path.unlink()
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged"):
        load_pretrained(folder)


def test_weights_under_each_others_names(folder: Path) -> None:
    path, other = folder / "model.safetensors", folder / "pytorch_model.bin"
    path.rename(other)
    with pytest.raises(ValueError, match=r"a safetensors file under another name; call it model\.safetensors"):
        load_pretrained(folder)
    torch.save({"a": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"torch\.save under another name; call it pytorch_model\.bin"):
        read_tensors(folder)


def test_weights_of_other_kinds_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")
    with pytest.raises(ValueError, match=r"there are no weights.*it holds flax_model\.msgpack"):
        load_pretrained(folder)


# models that hear one length (Whisper)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    shape = {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1}
    shape |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 64, "vocab_size": 32, "num_mel_bins": 20}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    transformers.WhisperModel(transformers.WhisperConfig(**shape, **ids)).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=20).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_whisper_runs_in_half_precision(whisper: Path) -> None:
    encoder = load_pretrained(whisper).encoder
    wave, sizes = speech([32000, 12345])
    full, half = encoder(wave, sizes), encoder.to(torch.bfloat16)(wave, sizes)
    assert half.last.dtype == torch.bfloat16
    assert torch.allclose(half.last.float(), full.last, atol=0.2)


def test_inspect_says_what_a_whisper_is_and_what_is_left_out(
    whisper: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sottovoce.reporting.inspect import inspect, show

    shape = inspect(str(whisper))
    assert (shape["dim"], len(shape["layers"]), shape["window_seconds"]) == (48, 2, 30.0)
    show(shape)
    said = " ".join(capsys.readouterr().out.split())
    assert "30 s at a time" in said
    assert "left out, because the encoder does not use it: decoder" in said
    show(inspect(str(edit(folder, final_proj__weight=torch.ones(3, 48)))))
    assert "left out, because the encoder does not use it: final_proj" in capsys.readouterr().out
