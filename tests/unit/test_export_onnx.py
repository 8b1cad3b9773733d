"""ONNX files: what they say is what the model says, whatever the batch, the length, the padding and the precision."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import sottovoce
from sottovoce import cli
from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder, EncoderConfig, PositionConfig
from sottovoce.encoder.kaldi_fbank import Fbank
from sottovoce.evaluation.subjects.onnx_file import RuntimeEncoder
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.exporting import api, audio, check, half, proto, quantize
from sottovoce.exporting import onnx as export_onnx
from sottovoce.exporting.check import LayerView
from sottovoce.exporting.graph import ALL, Graph, PlainFbank, longest
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.hub.student import save_student

from .test_export_hf import HUBERT, SHAPES, W2V_BERT, encoder, waves

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_python.py"
STYLES: dict[str, EncoderConfig] = {
    **SHAPES,
    "data2vec": dataclasses.replace(HUBERT, position=PositionConfig(3, 4, depth=3, norm=True)),
}
FACTS = {"sottovoce": "0", "source": "handmade", "family": "none", "precision": "fp32", "sampling_rate": "16000"}
FACTS |= {"frame_rate": "16000", "kernel": "1", "stride": "1", "dim": "3", "layer": "last", "layers": '["layer 1"]'}


@functools.cache
def translated(style: str, normalize: bool = True) -> tuple[Graph, Any]:
    """The graph in torch and in ONNX, all layers."""
    graph = Graph(encoder(STYLES[style]), normalize=normalize, layer=ALL).eval()
    return graph, export_onnx.translate(graph)


def made(style: str, precision: str) -> tuple[Graph, Any]:
    graph, model = translated(style)
    model = copy.deepcopy(model)
    if precision == "fp16":
        half.halve(model)
    elif precision == "int8":
        model = quantize.quantize_dynamic(model)
    elif precision == "int8-static":
        model = quantize.quantize_static(model, list(0.2 * torch.randn(4, 5000) + 0.1), ("layers",))
    return graph, model


def opened(model: Any, folder: Path, graph: Graph) -> RuntimeEncoder:
    front = graph.encoder.config.frontend
    facts = {**FACTS, "kernel": str(front.kernel), "dim": str(graph.encoder.config.dim), "layers": json.dumps(graph.chosen)}
    export_onnx.describe(model, facts)
    export_onnx.save(model, folder / "model.onnx")
    return RuntimeEncoder(folder / "model.onnx")


def padded(lengths: list[int], offset: float = 0.1) -> Batch:
    """Noise around a constant, which a model that normalises takes away. Garbage behind the shorter rows."""
    random = torch.Generator().manual_seed(len(lengths))
    return Batch(torch.randn(len(lengths), max(lengths), generator=random) * 0.2 + offset, torch.tensor(lengths))


def differences(style: str, precision: str, folder: Path) -> dict[str, float]:
    """Of the worst layer, on lengths and a batch size that no export has seen. Not `error`: the states of these random models hardly
    vary over time, so that a share of that variance says nothing."""
    graph, model = made(style, precision)
    file = opened(model, folder, graph)
    rows = check.parity(file, LayerView(graph), [padded([3111, 4007, 1203]), padded([2777])], file.layers)
    return {
        "max_abs": max(row["max_abs"] for row in rows),
        "scale": max(row["scale"] for row in rows),
        "cosine": min(row["cosine"] for row in rows),
    }


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_the_file_says_what_the_model_says(style: str, tmp_path: Path) -> None:
    graph, model = made(style, "fp32")
    file = opened(model, tmp_path, graph)
    assert differences(style, "fp32", tmp_path)["max_abs"] < 1e-4
    together = padded([3111, 1203, 2222])
    found = file(together.wave, together.lengths)
    for i, size in enumerate([3111, 1203, 2222]):  # padding changes nothing
        alone = file(together.wave[i : i + 1, :size])
        frames = alone.last.shape[1]
        assert found.lengths is not None
        assert int(found.lengths[i]) == frames
        for a, b in zip(found.hidden, alone.hidden, strict=True):
            assert (a[i, :frames] - b[0]).abs().max() < 1e-4
    least = graph.encoder.config.frontend.kernel
    short = torch.randn(2, least), torch.tensor([least, least])
    assert (file(*short).last - LayerView(graph)(*short).last).abs().max() < 1e-4  # one frame, too


@pytest.mark.slow
def test_a_student_of_whisper_takes_recordings_longer_than_the_table(tmp_path: Path) -> None:
    """Of 1 s: two turns of the table and a part of a third."""
    config = dataclasses.replace(SHAPES["whisper"], window=0, positions=50, sinusoids=SHAPES["whisper"].dim)
    graph = Graph(encoder(config), normalize=False, layer=ALL).eval()
    assert longest(config) == 64 * 16_000
    audio = padded([36_000, 15_000, 17_000])
    want = encoder(config)(audio.wave, audio.lengths)
    for found in (LayerView(graph), opened(export_onnx.translate(graph), tmp_path, graph)):
        states = found(audio.wave, audio.lengths)
        assert (states.last - want.last)[want.valid()].abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("style", ["hubert", "wavlm-cut-heads", "w2v-bert", "conformer", "whisper", "moonshine"])
@pytest.mark.parametrize(("precision", "most"), [("fp16", 1e-5), ("int8", 1e-2), ("int8-static", 5e-2)])
def test_lower_precision_loses_little(style: str, precision: str, most: float, tmp_path: Path) -> None:
    whole, small = made(style, "fp32")[1], made(style, precision)[1]
    assert 1 - differences(style, precision, tmp_path)["cosine"] < most  # 1 where a part is missing or in the wrong place
    kinds = {node.op_type for node in small.graph.node}
    if precision == "int8":
        assert "MatMulInteger" in kinds or "DynamicQuantizeMatMul" in kinds
    elif precision == "int8-static":
        assert "QuantizeLinear" in kinds
    assert [item.type.tensor_type.elem_type for item in [*small.graph.input, *small.graph.output]] == [
        item.type.tensor_type.elem_type for item in [*whole.graph.input, *whole.graph.output]
    ]


@pytest.mark.slow
def test_export_check_and_evaluate(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    splits = ("train", "train", "dev", "test")
    rows = [f"{wave}\t{splits[i // 2 % 4]}\t{'ab'[i % 2]}" for i, wave in enumerate(sorted(speech_folder.glob("*.wav")))]
    (tmp_path / "labelled.tsv").write_text("path\tsplit\tlabel\n" + "\n".join(rows) + "\n")
    path = sottovoce.export(
        teacher_folder,
        out=tmp_path / "int8",
        precision="int8-static",
        layer="all",
        data=tmp_path / "labelled.tsv",
        seconds=8,
        vs=str(teacher_folder),
        tasks=["ks"],
        overrides=["training.steps=5", "training.evaluate_every=5"],
        max_error=-1.0,
        say=said.append,
        table=True,
    )
    assert path == tmp_path / "int8" / "model.onnx"
    assert "warning: int8 changes the features" in said[-1]
    assert "fidelity to the teacher" in capsys.readouterr().out
    about = json.loads((path.parent / "model.json").read_text())
    assert about["layers"] == ["embedded", "layer 1", "layer 2", "layer 3"]
    assert (about["frame_rate"], about["sampling_rate"], about["family"]) == (50.0, 16000, "hubert")
    kept = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert (kept["sottovoce"], kept["precision"]) == (sottovoce.__version__, "int8-static")
    measured = json.loads((path.parent / "model.check.json").read_text())
    assert {row["layer"] for row in measured["layers"]} == set(about["layers"])
    assert measured["fidelity"]["onnx to torch"]["explained"] > 0.9
    assert {"torch", "onnx", "measure"} <= set(measured["tasks"]["ks"])
    assert set(measured["fidelity"]) == {"onnx to torch", "onnx to teacher", "torch to teacher"}

    subject, model = open_subject(str(path)), open_subject(str(teacher_folder))
    assert (subject.layers, subject.dim, subject.frame_rate) == (model.layers, model.dim, model.frame_rate)
    assert subject.params == model.params
    batch = Batch(waves(2, 9000), torch.tensor([9000, 7000]))
    (ours, frames), (theirs, same) = subject.states(batch), model.states(batch)
    assert torch.equal(frames, same)
    assert ours.shape == theirs.shape
    assert torch.equal(pickle.loads(pickle.dumps(subject)).states(batch)[0], ours)  # tasks run in other processes

    results = sottovoce.evaluate(
        [str(path)], vs=[str(teacher_folder)], tasks=["fidelity"], data=speech_folder, out=tmp_path / "r"
    )
    assert next(iter(results[0].record["measures"].values()))["value"] > 0.9


@pytest.mark.slow
def test_one_layer_by_the_command(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "export",
        str(teacher_folder),
        "--to",
        "onnx",
        "--layer",
        "2",
        "--out",
        str(tmp_path),
        "--data",
        str(speech_folder),
    ]
    monkeypatch.setattr(sys, "argv", ["sottovoce", *arguments, "--seconds", "5"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    file, model = RuntimeEncoder(tmp_path / "model.onnx"), load_pretrained(teacher_folder)
    assert file.layers == ["layer 2"]
    names = [item.name for item in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert not [name for name in names if "layers.2" in name]  # nothing above the layer is in it
    wave = waves(1, 8000)
    with torch.no_grad():
        assert (file(wave).last - model.encoder(wave).hidden[2]).abs().max() < 1e-4


# without the exporter, which takes seconds


def handmade(folder: Path, **facts: str) -> Path:
    """A file that multiplies every sample with three weights."""
    helper, tensor = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(np.array([[1.0, 2.0, 1e6]], dtype=np.float32), "weight")
    axes = onnx.numpy_helper.from_array(np.array([2]), "axes")
    nodes = [
        helper.make_node("Unsqueeze", ["wave", "axes"], ["columns"]),
        helper.make_node("MatMul", ["columns", "weight"], ["hidden_states"]),
        helper.make_node("Identity", ["lengths"], ["frames"]),
    ]
    inputs = [
        helper.make_tensor_value_info("wave", tensor.FLOAT, ["batch", "samples"]),
        helper.make_tensor_value_info("lengths", tensor.INT64, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info("hidden_states", tensor.FLOAT, ["batch", "frames", 3]),
        helper.make_tensor_value_info("frames", tensor.INT64, ["batch"]),
    ]
    graph = helper.make_graph(nodes, "handmade", inputs, outputs, [weight, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    export_onnx.describe(model, {**FACTS, **facts})
    export_onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_file_is_a_subject(tmp_path: Path) -> None:
    subject = open_subject(str(handmade(tmp_path)))
    assert (subject.name, subject.layers, subject.dim, subject.role) == ("handmade-onnx-fp32", 1, 3, "teacher")
    states, frames = subject.states(Batch(torch.ones(2, 5), torch.tensor([5, 4])))
    assert states.shape == (2, 5, 1, 3)
    assert frames.tolist() == [5, 4]
    assert subject.features(Batch(torch.ones(2, 5))).lengths is None
    student = open_subject(str(handmade(tmp_path, origin='{"teacher": "demo"}')))
    assert student.role == "student"
    assert student.fingerprint != subject.fingerprint


def test_files_that_are_no_subjects(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        open_subject(str(tmp_path / "model.onnx"))
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot load it"):
        open_subject(str(tmp_path / "model.onnx"))
    model = onnx.load(handmade(tmp_path))
    export_onnx.describe(model, {})
    export_onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="not written by 'sottovoce export'"):
        open_subject(str(tmp_path / "model.onnx"))
    short = RuntimeEncoder(handmade(tmp_path, kernel="400"))
    with pytest.raises(ValueError, match="one frame needs 400"):
        short(torch.zeros(1, 399))


def test_half_precision_keeps_inputs_and_outputs(tmp_path: Path) -> None:
    model = onnx.load(handmade(tmp_path))
    with pytest.raises(ValueError, match=r"weight of 1e\+06, and float16 ends at 65504"):
        half.halve(copy.deepcopy(model))
    weight = next(item for item in model.graph.initializer if item.name == "weight")
    values = onnx.numpy_helper.to_array(weight).clip(max=65504)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "weight"))
    half.halve(model)
    export_onnx.save(model, tmp_path / "model.onnx")
    found = RuntimeEncoder(tmp_path / "model.onnx")(torch.tensor([[0.5, 1.0]]))
    assert found.last.dtype == torch.float32
    assert found.last[0].tolist() == [[0.5, 1.0, 32752.0], [1.0, 2.0, 65504.0]]
    assert [item.name for item in model.graph.initializer if item.name != "axes"] == ["weight_half"]


def test_only_what_was_asked_for_is_quantised(tmp_path: Path) -> None:
    model = onnx.load(handmade(tmp_path))
    model.graph.node[1].name = "product"
    assert quantize.targets(model, ("layers",), ("MatMul",)) == ["product"]
    for scope, part in [
        ("encoder.frontend.convs.0.conv", "frontend"),
        ("encoder.frontend.projection", "layers"),
        ("encoder.position.convs.0", "position"),
        ("encoder.layers.3.ffn.up_proj", "layers"),
    ]:
        del model.graph.node[1].metadata_props[:]
        model.graph.node[1].metadata_props.add(key=proto.SCOPES, value=f"['', 'encoder', '{scope}', 'linear_2']")
        assert proto.scope(model.graph.node[1]) == scope
        assert quantize.part(model.graph.node[1]) == part
    with pytest.raises(ValueError, match="nothing can be quantised in frontend"):
        quantize.targets(model, ("frontend",), ("MatMul",))
    with pytest.raises(ValueError, match="no part 'head'"):
        quantize.targets(model, ("head",), ("MatMul",))
    with pytest.raises(ValueError, match="int8-static, or leave it out"):
        quantize.quantize_dynamic(model, ("position",))
    with pytest.raises(ValueError, match="real audio"):
        quantize.quantize_static(model, [])


@torch.no_grad()
def test_the_filter_bank_in_matrices_is_the_filter_bank() -> None:
    assert W2V_BERT.frontend.fbank is not None
    bank = Fbank(W2V_BERT.frontend.fbank)
    wave = 0.3 * torch.randn(2, 6000)
    assert (PlainFbank(bank)(wave, torch.tensor([6000, 4321])) - bank(wave, torch.tensor([6000, 4321]))).abs().max() < 1e-4


@torch.no_grad()
def test_layers_are_counted_as_transformers_counts_them() -> None:
    model, (wave, lengths) = encoder(SHAPES["large"]), (waves(), torch.tensor([1600, 1100]))
    expected = model(wave, lengths)
    everything, frames = Graph(model, normalize=False, layer="all")(wave, lengths)
    assert torch.equal(frames, expected.lengths)
    assert torch.equal(everything[:, 0], expected.embedded)
    assert torch.equal(everything[:, 2], expected.hidden[2])
    assert torch.equal(everything[:, 3], expected.last)
    assert torch.equal(Graph(model, normalize=False, layer="2")(wave, lengths)[0], expected.hidden[2])
    assert Graph(model, normalize=False).names == ["embedded", "layer 1", "layer 2", "layer 3, normed"]
    with pytest.raises(ValueError, match="no layer '4'; give 0 to 3"):
        Graph(model, normalize=False, layer="4")


@torch.no_grad()
def test_layers_in_the_teachers_space(tmp_path: Path, speech_folder: Path) -> None:
    """As `sottovoce.load` gives them; a teacher with twice as many frames has twice as many in the file."""
    for join in (1, 2):
        folder = tmp_path / f"student-{join}"
        model, maps = encoder(HUBERT), {"1": torch.nn.Linear(16, 20 * join), "rest": torch.nn.Linear(16, 20 * join)}
        save_student(
            folder, model, normalize=False, projections=maps, layers={"1": [0, 1], "rest": [2, 3]}, join=join, teacher="someone"
        )
        path = api.export(
            folder, out=tmp_path / f"out-{join}", space="teacher", layer=2, data=speech_folder, seconds=4, say=lambda _: None
        )
        about = json.loads((path.parent / "model.json").read_text())
        assert (about["dim"], about["space"], about["frame_rate"]) == (
            20,
            "teacher",
            16_000 / model.config.frontend.stride * join,
        )
        assert about["layers"] == ["layer 2"]
        lengths = torch.tensor([6_000, 4_000])
        said, right = RuntimeEncoder(path)(waves(2, 6_000), lengths), sottovoce.load(folder, "teacher")(waves(2, 6_000), lengths)
        assert torch.equal(said.lengths, right.lengths)
        assert (said.last - right.hidden[2])[right.valid()].abs().max() < 1e-4
    save_student(tmp_path / "without", encoder(HUBERT), normalize=False, teacher="someone")
    with pytest.raises(ValueError, match="without projections into its teacher's space"):
        api.export(tmp_path / "without", out=tmp_path / "no", space="teacher", data=speech_folder)
    with pytest.raises(ValueError, match="leave out --task, or --space teacher"):
        api.export(tmp_path / "without", out=tmp_path / "no", space="teacher", tasks=["ks"], data=speech_folder)


@torch.no_grad()
def test_parity_sees_what_differs() -> None:
    view = LayerView(Graph(encoder(), normalize=False, layer="all"))
    audio = [padded([1600, 900])]
    same = check.parity(view, view, audio, ["a", "b", "c", "d"])
    assert all(row["max_abs"] == 0 and row["error"] == 0 and row["cosine"] == pytest.approx(1) for row in same)

    class Louder(LayerView):
        def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Any:
            found = super().forward(wave, lengths)
            return dataclasses.replace(found, hidden=[*found.hidden[:-1], 1.1 * found.hidden[-1]])

    last = check.parity(Louder(view.graph), view, audio, ["a", "b", "c", "d"])[-1]
    assert last["max_abs"] == pytest.approx(0.1 * last["scale"], rel=1e-3)
    assert last["cosine"] == pytest.approx(1)
    assert last["error"] > 0.009


def test_audio_for_calibration_and_check_is_not_the_same(speech_folder: Path, tmp_path: Path) -> None:
    clips = audio.read(speech_folder, 10)
    assert 9 < sum(map(len, clips.calibration_waves)) / 16000 < 14
    assert not any(torch.equal(a[:1000], b[:1000]) for a in clips.calibration_waves for b in clips.check_waves)
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    with pytest.raises(ValueError, match="no audio of at least"):
        audio.read(tmp_path, 10)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layer": "9"}, "no layer '9'; give 0 to 3, 'last' or 'all'"),
        ({"to": "tflite"}, "cannot export to 'tflite'; known: onnx"),
        ({"precision": "int4"}, "no precision 'int4'"),
        ({"parts": ["layers"]}, "with int8 or int8-static only"),
        ({"data": "/nowhere"}, "/nowhere"),
        ({"vs": "/nowhere"}, "/nowhere"),
        ({"tasks": ["ks"]}, "label"),
        ({"tasks": ["fidelity"]}, "name its teacher with --vs"),
        ({"tasks": ["sid"], "overrides": ["projektor=3"]}, "projektor"),
        ({"data": "{one}", "precision": "int8-static"}, "needs others to be calibrated on"),
        ({"model": "facebook/nothing"}, "say with --out"),
    ],
)
def test_mistakes_are_said_before_anything_is_translated(
    options: dict[str, Any], says: str, teacher_folder: Path, speech_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_onnx, "translate", lambda graph: pytest.fail("too late"))
    one = next(iter(sorted(speech_folder.glob("*.wav"))))
    options = {"model": teacher_folder, "data": speech_folder, **options}
    options["data"] = one if options["data"] == "{one}" else options["data"]
    with pytest.raises(ValueError, match=says):
        sottovoce.export(**options)


def test_without_the_extra_it_says_what_to_install(teacher_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r'ONNX file needs onnxscript.*pip install "sottovoce\[onnx\]"'):
        api.export(teacher_folder)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r'running .* needs onnxruntime.*pip install "sottovoce\[onnx\]"'):
        open_subject(str(handmade(tmp_path)))


def test_without_speech_noise_serves_what_needs_no_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(data: object, seconds: float) -> audio.ExportAudio:
        raise ValueError("espeak-ng is not installed")

    monkeypatch.setattr(audio, "read", missing)
    said: list[str] = []
    assert len(api._audio(None, 60, "int8", said.append).check) == 3
    assert "taking noise" in said[0]
    with pytest.raises(ValueError, match="name some with --data"):
        api._audio(None, 60, "int8-static", said.append)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = handmade(tmp_path)
    before, model = path.read_bytes(), onnx.load(path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_onnx, "save", full)
    with pytest.raises(OSError, match="the disk is full"), api._writing(tmp_path, model, FACTS):
        pass
    assert path.read_bytes() == before


def test_the_example_needs_no_torch(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.5), 16_000)
    blocker = f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {[str(handmade(tmp_path)), str(tmp_path / 'a.wav')]!r}; "
    code = f"{blocker}import runpy; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1600 frames of 3 numbers" in done.stdout


def test_teachers_that_run_inside_transformers_are_not_exported() -> None:
    from sottovoce.hub.pretrained import Pretrained

    stranger = Pretrained(torch.nn.Linear(1, 1), None, "generic", False, "who", hf_config={"model_type": "sew"})
    with pytest.raises(ValueError, match="'sew' runs inside transformers"):
        export_onnx.graph_of(stranger)


def test_the_encoder_is_left_as_it_was() -> None:
    model = encoder(W2V_BERT)
    graph = Graph(model, normalize=True)
    assert type(model.frontend.features) is Fbank
    assert isinstance(graph.encoder, Encoder)
    assert graph.encoder is not model


BIAS = "layers.0.ffn.down_proj.bias"


def overflowing(folder: Path, tmp_path: Path, value: float) -> Path:
    """A copy of the teacher whose first layer adds `value` to everything."""
    from sottovoce.hub.pretrained import load_pretrained, save_pretrained

    loaded = load_pretrained(folder)
    with torch.no_grad():
        loaded.encoder.get_parameter(BIAS).fill_(value)
    save_pretrained(tmp_path / "model", loaded.encoder, loaded.family, normalize=False)
    return tmp_path / "model"


@pytest.mark.parametrize("family", ["w2v-bert", "wavlm", "conformer"])
def test_rows_that_are_too_short_for_a_frame_stay_finite(family: str, tmp_path: Path) -> None:
    import onnxruntime
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "w2v-bert":
        model = transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**shape, conv_depthwise_kernel_size=7))
    elif family == "wavlm":
        convs = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        model = transformers.WavLMModel(transformers.WavLMConfig(**shape, **convs))
    else:
        kind = transformers.Wav2Vec2ConformerConfig(**shape, conv_dim=[16] * 7, conv_depthwise_kernel_size=7)
        model = transformers.Wav2Vec2ConformerModel(kind)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_onnx.export_onnx(tmp_path, tmp_path / "model.onnx", layer="all")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    wave = np.random.default_rng(0).standard_normal((4, 16000)).astype(np.float32)
    states, frames = session.run(None, {"wave": wave, "lengths": np.array([16000, 399, 1, 0])})
    assert frames.tolist() == [49, 0, 0, 0]
    assert np.isfinite(states).all()
    alone, _ = session.run(None, {"wave": wave[:1], "lengths": np.array([16000])})
    assert np.abs(states[0] - alone[0]).max() < 1e-4


def test_recordings_on_which_the_model_overflows_are_left_out_and_counted(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sottovoce.exporting.graph import Graph

    first = sorted(speech_folder.glob("*.wav"))[0]
    loud, _ = soundfile.read(first, dtype="float32")
    whole = Graph.features

    def features(self: Graph, wave: torch.Tensor, lengths: torch.Tensor | None) -> object:
        made = whole(self, wave, lengths)
        if wave.shape[1] == len(loud) and lengths is None:
            made.hidden[1][:] = float("inf")
        return made

    monkeypatch.setattr(Graph, "features", features)
    said: list[str] = []
    api.export(teacher_folder, out=tmp_path, data=speech_folder, seconds=60, precision="int8-static", say=said.append)
    measured = json.loads((tmp_path / "model.check.json").read_text())
    assert all("not finite" in why for why in measured["left_out"].values())
    assert len(measured["left_out"]) >= 1
    assert any("left out" in text and "not finite" in text for text in said)


def test_audio_that_was_skipped_is_said_and_counted(speech_folder: Path, tmp_path: Path) -> None:
    files = sorted(speech_folder.glob("*.wav"))[:5]
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    names = [*map(str, files), str(tmp_path / "broken.wav"), str(tmp_path / "missing.wav")]
    rows = ["path\tstart\tend", *(f"{name}\t0\t0.9" for name in names), f"{files[0]}\t5\t4"]
    (tmp_path / "list.tsv").write_text("\n".join(rows) + "\n")
    read = audio.read(tmp_path / "list.tsv", 60)
    counts = read.counts()
    assert counts["calibration"] + counts["check"] == 5
    assert counts["left_out"] + counts["skipped"] == 3
    said = " ".join(read.summary())
    assert "recordings skipped (" in said
    assert "left out" in said
    assert "broken" in said


def test_nothing_is_written_when_no_audio_gives_finite_values(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite on all of the audio"):
        api.export(overflowing(teacher_folder, tmp_path, 3e38), out=tmp_path / "out", data=speech_folder)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_file_that_overflows_is_not_written(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"layer": "last", "max_abs": float("nan"), "scale": 1.0, "cosine": 1.0, "error": float("nan")}]
    monkeypatch.setattr(check, "parity", lambda *arguments: rows)
    with pytest.raises(ValueError, match=r"ONNX in fp32 gives values that are not finite"):
        api.export(teacher_folder, out=tmp_path, data=speech_folder)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_float16_cannot_hold_are_refused(teacher_folder: Path, tmp_path: Path) -> None:
    graph = export_onnx.graph_of(load_pretrained(teacher_folder))
    with torch.no_grad():
        graph.encoder.layers[1].ffn.up_proj.weight[0, 0] = 1e5
    model = export_onnx.translate(graph)
    with pytest.raises(ValueError, match=r"weight of 1e\+05, and float16 ends at 65504"):
        half.halve(model)
