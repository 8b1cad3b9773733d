"""A student's way to the disk and back: sottovoce.load, AutoModel, and transformers without sottovoce."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

import sottovoce
from sottovoce.encoder import (
    ConvConfig,
    ConvolutionConfig,
    DistanceConfig,
    Encoder,
    EncoderConfig,
    FbankConfig,
    FrontendConfig,
    LayerConfig,
    LogMelConfig,
    PositionConfig,
    ProjectionConfig,
    RelativeConfig,
    normalize,
)
from sottovoce.hub import folder as store
from sottovoce.hub.modeling import SottovoceModel
from sottovoce.hub.source_code import source_code
from sottovoce.hub.student import Card, save_student

CONVS = (ConvConfig(6, 10, 5), ConvConfig(5, 3, 2), ConvConfig(7, 3, 2))


def layer(heads: tuple[int, ...] = (0, 1, 2, 3), ffn: int = 24, attention: bool = True, has_ffn: bool = True) -> LayerConfig:
    return LayerConfig(num_heads=len(heads), head_dim=4, ffn_dim=ffn, attention=attention, ffn=has_ffn, heads=heads)


HUBERT = EncoderConfig(FrontendConfig(CONVS), 16, PositionConfig(8, 4), (layer(), layer(), layer()))
LARGE = dataclasses.replace(HUBERT, frontend=FrontendConfig(CONVS, norm="layer", bias=True), norm_first=True)
WAVLM = dataclasses.replace(HUBERT, relative=RelativeConfig(8, 20, 4))
CONFORMER_LAYER = LayerConfig(num_heads=4, head_dim=4, ffn_dim=24, kind="conformer", ffn1_dim=20, glu_dim=14)
W2V_BERT = EncoderConfig(
    FrontendConfig((), fbank=FbankConfig(20, 2)),
    16,
    None,
    (CONFORMER_LAYER, dataclasses.replace(CONFORMER_LAYER, num_heads=2, glu_dim=0), CONFORMER_LAYER),
    distance=DistanceConfig("key", 2, 1),
    convolution=ConvolutionConfig(5, causal=True),
    norm=False,
)
CONFORMER = dataclasses.replace(
    LARGE,
    position=None,
    layers=(CONFORMER_LAYER, dataclasses.replace(CONFORMER_LAYER, ffn1_dim=0, num_heads=3), CONFORMER_LAYER),
    distance=DistanceConfig("sinusoid"),
    convolution=ConvolutionConfig(5, norm="batch"),
)
WHISPER = EncoderConfig(
    FrontendConfig(
        (ConvConfig(6, 3, 1, padding=1),),
        "none",
        bias=True,
        projection_norm=False,
        log_mel=LogMelConfig(20),
        projection=ProjectionConfig(3, 2, 1),
    ),
    16,
    None,
    tuple(LayerConfig(heads, 4, 24) for heads in (4, 0, 3)),
    norm_first=True,
    positions=100,
    attention_bias="qvo",
)
MOONSHINE = EncoderConfig(
    FrontendConfig(
        (ConvConfig(6, 127, 64, bias=False, activation="tanh"), ConvConfig(9, 7, 3)),
        "whole",
        bias=True,
        projection_norm=False,
        projection=ProjectionConfig(3, 2),
    ),
    16,
    None,
    WHISPER.layers,
    norm_first=True,
    distance=DistanceConfig("rotary_heads", width=2),
    attention_bias="",
    norm_bias=False,
)
SHAPES = {
    "hubert": HUBERT,
    "large": LARGE,
    "wavlm": WAVLM,
    "wavlm-cut-heads": dataclasses.replace(WAVLM, layers=(layer((1, 3)), layer((0, 2, 3)), layer((2,), ffn=5))),
    "no-heads-left": dataclasses.replace(WAVLM, layers=(layer(()), layer((3,), ffn=0), layer())),
    "no-attention-or-ffn": dataclasses.replace(HUBERT, layers=(layer(attention=False), layer(has_ffn=False), layer())),
    "position-kept": dataclasses.replace(HUBERT, position=PositionConfig(8, 4, kept=(1, 3))),
    "position-none-kept": dataclasses.replace(HUBERT, position=PositionConfig(8, 4, kept=())),
    "joined": dataclasses.replace(HUBERT, frontend=FrontendConfig(CONVS, join=3)),
    "shared-maps": dataclasses.replace(HUBERT, layers=(layer(), dataclasses.replace(layer(), reuse=True), layer())),
    "w2v-bert": W2V_BERT,
    "conformer": CONFORMER,
    "conformer-rotary": dataclasses.replace(CONFORMER, distance=DistanceConfig("rotary")),
    "whisper": WHISPER,
    "whisper-window": dataclasses.replace(WHISPER, window=32_000),
    "moonshine": MOONSHINE,
}


def encoder(shape: EncoderConfig = HUBERT) -> Encoder:
    """Random in every parameter, so that none can be lost unnoticed."""
    made = Encoder(shape)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
        for name, buffer in made.named_buffers():
            if name.endswith((".norm.mean", ".norm.variance")):
                buffer.copy_(torch.rand(buffer.shape, generator=random) + 0.5)
    return made.eval()


def waves(rows: int = 2, samples: int = 1600) -> Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(5)) * 0.2


def save(folder: Path, model: Encoder | None = None, **options: object) -> Path:
    save_student(folder, model or encoder(), **{"normalize": False, "teacher": "demo", **options})  # type: ignore[arg-type]
    return folder


def projections(dim: int = 16, teacher_dim: int = 20) -> dict[str, nn.Linear]:
    torch.manual_seed(7)
    return {"0": nn.Linear(dim, teacher_dim), "2": nn.Linear(dim, teacher_dim), "3": nn.Linear(dim, teacher_dim)}


LAYERS = {"0": [0], "2": [2], "3": [3]}


def run(code: str, **environment: str) -> str:
    made = subprocess.run(
        [sys.executable, "-W", "error:sottovoce could not", "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, sys.path)),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_round_trip(name: str, tmp_path: Path) -> None:
    before = encoder(SHAPES[name])
    save(tmp_path, before)
    wave, lengths = waves(), torch.tensor([1600, 1100])
    for given in (None, lengths):
        want = before(wave, given)
        ours = sottovoce.load(tmp_path)(wave, given)
        theirs = AutoModel.from_pretrained(tmp_path)
        assert type(theirs) is SottovoceModel
        assert not theirs.training
        mask = None if given is None else (torch.arange(1600) < given[:, None]).long()
        out = theirs(wave, attention_mask=mask, output_hidden_states=True)
        valid = want.valid()
        for a, b in zip(want.hidden, ours.hidden, strict=True):
            assert torch.equal(a, b)
        states = [want.embedded, *want.hidden[1:]]
        for a, b in zip(states, out.hidden_states, strict=True):
            torch.testing.assert_close(a[valid], b[valid], rtol=0, atol=1e-6)
        assert torch.equal(out.last_hidden_state, want.last)
    for path, buffer in before.named_buffers():  # those that no checkpoint holds, too
        assert torch.equal(buffer, theirs.encoder.get_buffer(path)), path


def test_loading_is_exact_and_says_what_is_missing(tmp_path: Path) -> None:
    save(tmp_path, encoder(SHAPES["wavlm-cut-heads"]), projections=projections(), layers=LAYERS)
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(stored[name], x) for name, x in model.state_dict().items())
    model.init_weights()  # must leave loaded tensors alone
    assert all(torch.equal(stored[name], x) for name, x in model.state_dict().items())
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(waves().bfloat16()).last_hidden_state.dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "ratio"), [("wavlm-cut-heads", 20), ("w2v-bert", 320), ("conformer", 20)])
@torch.no_grad()
def test_a_model_without_weights_starts_finite(name: str, ratio: int) -> None:
    from sottovoce.hub.configuration import SottovoceConfig

    model = SottovoceModel(SottovoceConfig(encoder=SHAPES[name].to_dict())).eval()
    assert model(waves()).last_hidden_state.isfinite().all()
    assert model.config.inputs_to_logits_ratio == ratio
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, 3)


@torch.no_grad()
def test_drop_in_details(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(save(tmp_path))
    first, second = model(waves(), output_hidden_states=True, return_dict=False)
    assert torch.equal(first, second[-1])
    assert model(waves()).hidden_states is None
    assert int(model._get_feat_extract_output_lengths(1600)) == first.shape[1]
    mask = (torch.arange(1600) < torch.tensor([1600, 1100])[:, None]).long()
    assert torch.equal(
        model._get_feature_vector_attention_mask(first.shape[1], mask), model.encoder(waves(), mask.sum(-1)).valid()
    )
    with pytest.raises(ValueError, match="attention maps"):
        model(waves(), output_attentions=True)


@pytest.mark.parametrize("name", ["hubert", "large"])
@torch.no_grad()
def test_feature_extractor_gives_what_load_gives(name: str, tmp_path: Path) -> None:
    save(
        tmp_path,
        encoder(SHAPES[name]),
        normalize=True,
        preprocessor={"feature_extractor_type": "Wav2Vec2FeatureExtractor", "padding_value": 7.0},
    )
    rows = [waves(1, 1600)[0] * 3 + 0.1, waves(1, 1000)[0]]
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    inputs = extractor([row.numpy() for row in rows], sampling_rate=16000, padding=True, return_tensors="pt")
    out = AutoModel.from_pretrained(tmp_path)(**inputs, output_hidden_states=True)
    student = sottovoce.load(tmp_path)
    features = student(nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9.0), [1600, 1000])
    for a, b in zip(features.hidden[1:-1], out.hidden_states[1:-1], strict=True):
        torch.testing.assert_close(a[features.valid()], b[features.valid()], rtol=1e-4, atol=1e-5)
    alone = student(rows[1].numpy())
    torch.testing.assert_close(alone.last[0], features.last[1, : alone.last.shape[1]], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_speech_takes_raw_audio(tmp_path: Path) -> None:
    before = encoder(LARGE)
    student = sottovoce.load(save(tmp_path, before, normalize=True))
    assert (student.normalize, student.sample_rate, student.frame_rate) == (True, 16000, 800.0)
    assert student.config == LARGE
    wave = waves(1)
    want = before(normalize(wave)).last
    array = wave[0].numpy().astype(np.float64)
    array.flags.writeable = False
    for given in (wave, wave[0], wave.numpy(), array):
        torch.testing.assert_close(student(given).last, want)
    assert student(wave[0], [1000]).lengths.tolist() == [student.config.frontend.frames(1000)]
    with pytest.raises(ValueError, match="int16; divide 16-bit samples by 32768"):
        student((array * 32768).astype(np.int16))
    with pytest.raises(ValueError, match=r"got shape \(1, 1, 1600\)"):
        student(wave[None])
    with pytest.raises(ValueError, match="between 1 and the 1600 samples"):
        student(wave, [1601])
    with pytest.raises(ValueError, match="as many lengths"):
        student(wave, [1600, 1600])


@torch.no_grad()
def test_teacher_space(tmp_path: Path) -> None:
    before, maps = encoder(LARGE), projections()
    save(tmp_path, before, projections=maps, layers=LAYERS)
    hidden = before(waves()).hidden
    want = [maps["0"](hidden[0]), maps["2"](hidden[1]), maps["2"](hidden[2]), maps["3"](hidden[3])]
    features = sottovoce.load(tmp_path, space="teacher")(waves())
    out = AutoModel.from_pretrained(tmp_path)(waves(), output_hidden_states=True, space="teacher")
    for a, b, c in zip(want, features.hidden, out.hidden_states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-6)
    assert torch.equal(out.last_hidden_state, out.hidden_states[-1])
    assert torch.equal(features.last, features.hidden[-1])
    assert sottovoce.load(tmp_path).projections is None  # nothing idle among the parameters
    with pytest.raises(ValueError, match="not one of student, teacher"):
        sottovoce.load(tmp_path, space="pupil")  # type: ignore[arg-type]


@torch.no_grad()
def test_one_projection_for_many_layers(tmp_path: Path) -> None:
    before, shared = encoder(), nn.Linear(16, 20, bias=False)
    save(tmp_path, before, projections={"1-2": shared}, layers={"1-2": [1, 2]})
    hidden = before(waves()).hidden  # layer 0 goes up, layer 3 lies above all that were distilled
    features = sottovoce.load(tmp_path, space="teacher")(waves())
    for a, b in zip(hidden, features.hidden, strict=True):
        torch.testing.assert_close(shared(a), b, rtol=0, atol=1e-6)


def test_teacher_space_needs_projections(tmp_path: Path) -> None:
    save(tmp_path / "none")
    with pytest.raises(ValueError, match="saved without projections"):
        sottovoce.load(tmp_path / "none", space="teacher")
    with pytest.raises(ValueError, match="saved without projections"):
        AutoModel.from_pretrained(tmp_path / "none")(waves(), space="teacher")
    save(tmp_path / "zero", projections={"0": nn.Linear(16, 20)}, layers={"0": [0]})
    with pytest.raises(ValueError, match=r"no projection .* suits layer 1"):
        sottovoce.load(tmp_path / "zero", space="teacher")(waves())


@pytest.mark.parametrize(
    ("maps", "layers", "message"),
    [
        ({"a": nn.Linear(16, 20)}, {"b": [1]}, "same names"),
        ({"a": nn.Linear(16, 20), "b": nn.Linear(16, 20)}, {"a": [1, 2], "b": [2]}, "one projection at most"),
        ({"a": nn.Linear(16, 20)}, {"a": [4]}, "layers 0 to 3"),
        ({"a": nn.Linear(8, 20)}, {"a": [1]}, "student's width, 16"),
    ],
)
def test_projections_that_do_not_fit(
    maps: dict[str, nn.Linear], layers: dict[str, list[int]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path, projections=maps, layers=layers)
    assert not any(tmp_path.iterdir())


def test_import_is_cheap_and_registers_when_transformers_comes(tmp_path: Path) -> None:
    folder = str(save(tmp_path))
    code = (
        "import inspect, sys, sottovoce\n"
        "assert not {'torch', 'transformers', 'numpy', 'yaml'} & sys.modules.keys()\n"
        "assert sottovoce.__version__ and 'load' in dir(sottovoce) and not hasattr(sottovoce, 'nothing')\n"
        "from transformers import PreTrainedModel, AutoConfig\n"  # this order imports AutoConfig half-way through PreTrainedModel
        f"assert AutoConfig.from_pretrained({folder!r}).hidden_size == 16\n"
        "from transformers import AutoModel\n"
        f"assert type(AutoModel.from_pretrained({folder!r})).__module__ == 'sottovoce.hub.modeling'\n"
        "from transformers.models.auto import modeling_auto\n"
        "assert 'AutoModel' in inspect.getsource(modeling_auto)\n"  # the hook left the module's loader as it was
    )
    run(code)


def test_registers_at_once_after_transformers(tmp_path: Path) -> None:
    code = (
        "from transformers import AutoModel\n"
        "import sottovoce\n"
        f"assert type(AutoModel.from_pretrained({str(save(tmp_path))!r})).__module__ == 'sottovoce.hub.modeling'\n"
    )
    run(code)


def test_a_failing_registration_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    from sottovoce.hub import auto

    def fail() -> None:
        raise ImportError("another transformers")

    monkeypatch.setattr(auto, "ACTIONS", {"transformers.models.auto.modeling_auto": [fail]})
    with pytest.warns(UserWarning, match="another transformers"):
        auto.install()
    assert sum(isinstance(finder, auto._Finder) for finder in sys.meta_path) == 1


@pytest.mark.parametrize("name", ["wavlm-cut-heads", "w2v-bert", "conformer"])
def test_remote_code_without_sottovoce(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    if shape.position is not None:
        shape = dataclasses.replace(shape, position=PositionConfig(8, 4, kept=(1, 3)))
    before, maps = encoder(shape), projections()
    folder = save(tmp_path / "a student.v2", before, projections=maps, layers=LAYERS)
    torch.save(waves(), tmp_path / "wave.pt")
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'sottovoce': raise ImportError('sottovoce is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
        "import torch\n"
        "from transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"wave = torch.load({str(tmp_path / 'wave.pt')!r})\n"
        "mask = (torch.arange(1600) < torch.tensor([1600, 1100])[:, None]).long()\n"
        "with torch.no_grad():\n"
        "    out = [model(wave, mask, output_hidden_states=True, space=s).hidden_states for s in ('student', 'teacher')]\n"
        f"torch.save(out, {str(tmp_path / 'out.pt')!r})\n"
        f"model.save_pretrained({str(tmp_path / 'again')!r})\n"
        f"again = AutoModel.from_pretrained({str(tmp_path / 'again')!r}, trust_remote_code=True)\n"
        "with torch.no_grad(): assert torch.equal(again(wave, mask)[0], model(wave, mask)[0])\n"
        "assert 'sottovoce' not in sys.modules\n"
    )
    run(code, HF_MODULES_CACHE=str(tmp_path / "modules"), HF_HOME=str(tmp_path / "home"))
    student, teacher = torch.load(tmp_path / "out.pt")
    with torch.no_grad():
        want = before(waves(), torch.tensor([1600, 1100]))
        valid = want.valid()
        for a, b in zip([want.embedded, *want.hidden[1:]], student, strict=True):
            torch.testing.assert_close(a[valid], b[valid], rtol=0, atol=1e-6)
        torch.testing.assert_close(maps["2"](want.hidden[1])[valid], teacher[1][valid], rtol=0, atol=1e-6)


def test_remote_code_is_flat_and_marked() -> None:
    files = source_code()
    assert {"modeling_sottovoce.py", "configuration_sottovoce.py", "sottovoce_types.py", "sottovoce_encoder.py"} <= files.keys()
    for name, text in files.items():
        header = text.split("\n")[0]
        assert "copy of" in header
        assert f"sottovoce {sottovoce.__version__}, Apache-2.0" in header
        assert "from .." not in text
        compile(text, name, "exec")


def test_whoever_may_read_one_file_may_read_all(tmp_path: Path) -> None:
    save(tmp_path, encoder())
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("step", ["write", "flush", "rename"])
def test_a_kill_leaves_the_old_student_whole(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, encoder())
    (tmp_path / "run").mkdir()
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target = {"write": "safetensors.torch.save_file", "flush": "sottovoce.hub.folder._flush", "rename": "os.rename"}[step]
    with monkeypatch.context() as patch:
        patch.setattr(target, die)
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: None)  # killed, so nobody tidies up
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, encoder(WAVLM))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == old
    assert sottovoce.load(tmp_path).config == HUBERT
    save(tmp_path, encoder(WAVLM))  # what is left of the first attempt is no hindrance
    assert sottovoce.load(tmp_path).config == WAVLM
    assert {path.name for path in tmp_path.iterdir()} == {*old, "run"}


@pytest.mark.parametrize("moved", [0, 1, 5])
def test_a_kill_after_the_new_student_counts_is_made_good(moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, encoder())
    replace, done = os.replace, []

    def die(*paths: Path) -> None:
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(paths)
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", die)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, encoder(WAVLM))
    assert sottovoce.load(tmp_path).config == WAVLM
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    save(tmp_path)
    for problem in (
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("IoError: No space left on device (os error 28)"),
    ):

        def fail(*_: object, problem: Exception = problem, **__: object) -> None:
            raise problem

        with monkeypatch.context() as patch:
            patch.setattr("safetensors.torch.save_file", fail)
            with pytest.raises(OSError, match=r"disk is full .* is unchanged") as caught:
                save(tmp_path, encoder(WAVLM))
        assert caught.value.errno == errno.ENOSPC
    assert sottovoce.load(tmp_path).config == HUBERT
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_model_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(ValueError, match="model_type 'hubert'"):
        save(tmp_path)


def test_files(tmp_path: Path) -> None:
    card = Card(
        numbers=[
            {"measure": "parameters", "teacher": 94_000_000, "student": 23_500_000},
            {"measure": "a|b", "student": 0.123456789},
        ],
        recipe="name: dphubert\nsteps: 10",
        data="12 hours of demo speech",
        license="mit",
        languages=["en"],
    )
    save(
        tmp_path,
        normalize=True,
        teacher="facebook/hubert-base-ls960",
        card=card,
        preprocessor={"feature_extractor_type": "SeamlessM4TFeatureExtractor", "stride": 2},
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["num_hidden_layers"]) == ("sottovoce", 16, 3)
    assert (config["projections"], config["teacher_dim"], config["normalize"]) == ({}, None, True)
    assert config["dtype"] == "float32"
    assert AutoConfig.from_pretrained(tmp_path).teacher == "facebook/hubert-base-ls960"
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessor["feature_extractor_type"] == "Wav2Vec2FeatureExtractor"
    assert (preprocessor["do_normalize"], preprocessor["return_attention_mask"], "stride" in preprocessor) == (True, True, False)
    text = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["library_name"], front["base_model"], front["license"]) == ("transformers", "facebook/hubert-base-ls960", "mit")
    for part in (
        'sottovoce.load("PATH")',
        "trust_remote_code=True",
        "| measure | teacher | student |\n| --- | --- | --- |\n| parameters | 94000000 | 23500000 |\n| a\\|b |  | 0.123457 |",
        "```yaml\nname: dphubert\nsteps: 10\n```",
        "12 hours of demo speech",
        f"Trained with sottovoce {sottovoce.__version__}.",
    ):
        assert part in text


def test_a_card_says_nothing_that_it_was_not_told(tmp_path: Path) -> None:
    teacher = tmp_path / "secret" / "my-teacher"
    teacher.mkdir(parents=True)
    save(tmp_path / "student", teacher=str(teacher))
    text = (tmp_path / "student" / "README.md").read_text()
    assert "base_model" not in text
    assert "license" not in text
    assert "made from `my-teacher`" in text
    assert [line for line in text.split("\n") if line.startswith("#")] == ["# Student of my-teacher", "## Use"]
    assert "secret" not in (tmp_path / "student" / "config.json").read_text()


def test_a_student_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    from sottovoce.hub.pretrained import save_pretrained

    folder = save(tmp_path / "student")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for value in (float("nan"), float("inf")):
        model = encoder()
        with torch.no_grad():
            model.layers[1].ffn.up_proj.bias[0] = value
        with pytest.raises(ValueError, match=r"no model was written .*encoder\.layers\.1\.ffn\.up_proj\.bias.*diverged"):
            save(folder, model)
        with pytest.raises(ValueError, match="no model was written"):
            save_pretrained(tmp_path / "hubert", model, "sottovoce", normalize=False)
    maps = projections()
    with torch.no_grad():
        next(iter(maps.values())).weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"no model was written .*projections\."):
        save(folder, projections=maps, layers={name: [i] for i, name in enumerate(maps)})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "hubert" / "config.json").exists()


def test_numbers_that_float16_cannot_hold_are_not_written(tmp_path: Path) -> None:
    from sottovoce.hub.pretrained import save_pretrained

    model = encoder()
    with torch.no_grad():
        model.layers[1].ffn.up_proj.bias[0] = 1e6
    save_pretrained(tmp_path / "whole", model, "sottovoce", normalize=False)
    with pytest.raises(ValueError, match="no model was written"):
        save_pretrained(tmp_path / "half", model, "sottovoce", normalize=False, half=True)


def test_the_configuration_of_transformers_has_the_fields_of_the_format() -> None:
    import inspect

    from sottovoce.families.student_config import StudentConfig
    from sottovoce.hub.configuration import SottovoceConfig

    theirs = {name: item.default for name, item in inspect.signature(SottovoceConfig.__init__).parameters.items()}
    ours = {item.name: item.default for item in dataclasses.fields(StudentConfig)}
    assert set(theirs) - {"self", "kwargs"} == set(ours)
    assert all(theirs[name] == ours[name] for name in ("normalize", "teacher_dim", "teacher_frames", "teacher"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("dim",), "16"),
        (("dim",), 0),
        (("norm_eps",), float("nan")),
        (("layers", 0, "ffn_dim"), -1),
        (("layers", 0, "ffn"), 1),
        (("layers", 0, "ffn_dim"), [16]),
        (("frontend", "convs", 0, "stride"), 0),
        (("frontend", "convs", 0, "kernel"), 10**12),
        (("activation",), "mish"),
    ],
)
def test_a_student_whose_shape_cannot_be_is_refused_in_one_line(
    place: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    folder = save(tmp_path / "student")
    values = json.loads((folder / "config.json").read_text())
    inner = values["encoder"]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json describes? |config\.json does not describe") as caught:
        sottovoce.load(folder)
    assert "\n" not in str(caught.value)
