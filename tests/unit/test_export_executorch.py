"""Files for ExecuTorch: what they say of a window is what the model says of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sottovoce
from sottovoce.encoder import ConvConfig, EncoderConfig, FrontendConfig
from sottovoce.exporting import executorch
from sottovoce.exporting.graph import ALL, Graph

from .test_export_hf import HUBERT, LARGE, encoder, layer

installed = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed: pip install 'sottovoce[executorch]'"
)
WINDOW = 0.1
CONVS = (ConvConfig(7, 10, 5), ConvConfig(5, 3, 2))
STYLES = {  # two convolutions and one layer: translating costs seconds, more with each
    "group norm": dataclasses.replace(HUBERT, frontend=FrontendConfig(CONVS), layers=(layer(),)),
    "layer norm": dataclasses.replace(LARGE, frontend=FrontendConfig(CONVS, norm="layer", bias=True), layers=(layer(),)),
    "pruned, odd widths": dataclasses.replace(HUBERT, frontend=FrontendConfig(CONVS), layers=(layer((0, 2, 3), ffn=7),)),
}


def file_of(shape: EncoderConfig, folder: Path, precision: str = "fp32") -> tuple[Graph, executorch.ExecutorchEncoder]:
    graph = Graph(encoder(shape), normalize=True, layer=ALL).eval()
    facts = {"source": "handmade", "precision": precision, "layers": json.dumps(graph.chosen)}
    executorch.save(executorch.build(graph, facts | executorch.settings(graph, WINDOW)), folder / "model.pte")
    return graph, executorch.ExecutorchEncoder(folder / "model.pte")


@installed
@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_the_file_says_what_the_model_says(style: str, tmp_path: Path) -> None:
    graph, file = file_of(STYLES[style], tmp_path)
    size = torch.tensor([1600, 1600])
    wave = 0.2 * torch.randn(2, 1600) + 0.1  # the constant is taken away by normalising
    expected, frames = graph(wave, size)
    found = file(wave, size)
    assert file.layers == graph.chosen
    assert found.lengths is not None
    assert torch.equal(found.lengths, frames)
    for x, y in zip(found.hidden, expected.unbind(1), strict=True):
        assert (x - y).abs().max() < 1e-4 * y.abs().max()
    with pytest.raises(ValueError, match="takes 1600 samples at a time"):
        file(wave[:, :1000])
    with pytest.raises(ValueError, match="takes 1600 samples at a time"):
        file(wave, torch.tensor([1600, 1000]))


@installed
@pytest.mark.slow
@torch.no_grad()
def test_int8_loses_little(tmp_path: Path) -> None:
    graph, file = file_of(STYLES["pruned, odd widths"], tmp_path, "int8")
    wave = 0.2 * torch.randn(1, 1600)
    expected, found = graph(wave, torch.tensor([1600]))[0].unbind(1)[-1], file(wave).last
    assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert torch.cosine_similarity(found, expected, dim=-1).mean() > 0.999


@installed
@pytest.mark.slow
def test_export_and_check(teacher_folder: Path, speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sottovoce.export(
        teacher_folder, "executorch", out=tmp_path, data=speech_folder, seconds=5, window=1.0, vs=str(teacher_folder), table=True
    )
    assert path == tmp_path / "model.pte"
    about = json.loads((tmp_path / "model.json").read_text())
    assert (about["window"], about["frames"], about["layers"]) == (16000, 49, ["layer 3"])
    measured = json.loads((tmp_path / "model.check.json").read_text())
    assert set(measured["fidelity"]) == {"executorch to torch", "executorch to teacher", "torch to teacher"}
    assert measured["layers"][0]["max_abs"] < 1e-4 * measured["layers"][0]["scale"]
    assert "executorch" in measured["runtime"]
    assert "as ExecuTorch, fp32" in capsys.readouterr().out


@installed
def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "model.pte").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="ExecuTorch cannot load it"):
        executorch.opened(tmp_path / "model.pte")


@installed
def test_what_cannot_be_translated_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(encoder(HUBERT), normalize=False)

    def fail(self: object, wave: object) -> None:
        raise RuntimeError("\nno kernel for it\nand much more")

    monkeypatch.setattr(executorch.Window, "forward", fail)
    with pytest.raises(ValueError, match=r"ExecuTorch cannot translate handmade \(no kernel for it\); export it to ONNX"):
        executorch.build(graph, {"source": "handmade", "precision": "fp32", "window": "1600"})


def test_attention_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 3, 5, 4).unbind(0)
    for mask in (None, torch.randn(3, 5, 5), torch.randn(2, 3, 5, 5)):
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert torch.allclose(executorch._attention(q, k, v, mask), expected, atol=1e-6)


def test_recordings_are_cut_into_windows() -> None:
    waves = [torch.arange(7.0), torch.arange(7.0, 12.0)]
    found = executorch.pieces(waves, {"window": "5"})
    assert [piece.tolist() for piece in found] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    (alone,) = executorch.pieces([torch.ones(2)], {"window": "5"})
    assert alone.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": 0.01}, r"a window of 0.01 s cannot be; give 0.025 to 60 s"),
        ({"window": float("nan")}, "cannot be"),
        ({"window": 1e9}, "cannot be"),
        ({"window": 2.0, "to": "onnx"}, "takes audio of any length; leave out --window"),
        ({"precision": "fp16"}, "no precision 'fp16' for ExecuTorch; known: fp32, int8"),
        ({"precision": "int8", "parts": ["position"]}, "no part 'position' to quantise for ExecuTorch"),
        ({"tasks": ["ks"]}, "leave out --task"),
        ({"layer": "9"}, "no layer '9'"),
    ],
)
def test_mistakes_are_said_before_anything_is_translated(
    options: dict[str, Any], says: str, teacher_folder: Path, speech_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch, "require", lambda: None)
    monkeypatch.setattr(executorch, "build", lambda *args, **kwargs: pytest.fail("too late"))
    with pytest.raises(ValueError, match=says):
        sottovoce.export(**{"model": teacher_folder, "to": "executorch", "data": speech_folder, **options})


def test_without_the_extra_it_says_what_to_install(teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("executorch", "executorch.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r'needs executorch, which is not installed: pip install "sottovoce\[executorch\]"'):
        sottovoce.export(teacher_folder, "executorch")
