"""Encoders in chunks of context: the same in one pass over a batch and as a stream, and trained as they will run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import sottovoce
from sottovoce.encoder import ContextConfig, Encoder, EncoderConfig
from sottovoce.encoder.context import Chunks
from sottovoce.exporting.graph import Graph
from sottovoce.hub.pretrained import save_pretrained
from sottovoce.hub.student import Speech
from sottovoce.inference.packed import can_pack, pack
from sottovoce.pruning.gated import GatedEncoder
from sottovoce.train.recipe import ContextChoice, build_recipe

from ..conftest import tiny_shape
from .test_streaming import ATOL, SHAPES, audio, difference, model_of, streamed

FROM_SAMPLES = [  # whose front ends hear the samples of a frame alone, whatever comes later
    name for name, shape in SHAPES.items() if not shape.frontend.over_time
]
CHUNKS = ContextConfig((2, 4), (3, 6))


def in_chunks(name: str) -> Speech:
    model = model_of(name)
    model.encoder.config = dataclasses.replace(model.encoder.config, context=CHUNKS)
    return model


@pytest.mark.parametrize("name", FROM_SAMPLES)
@torch.no_grad()
def test_a_pass_in_chunks_is_the_stream(name: str) -> None:
    model = in_chunks(name)
    wave = audio(model)
    found = model.encoder(wave, None)
    assert difference(streamed(model, wave, (4, 6, 0), [97]), found) < ATOL
    assert difference(streamed(model, wave, (3, 5, 0), [97]), model.encoder(wave, None, chunks=Chunks(3, 5))) < ATOL
    everything = model.encoder(wave, None, chunks=Chunks(100, 0))
    assert difference(model_of(name)(wave), everything) < ATOL
    if SHAPES[name].layers[0].num_heads:
        assert difference(found, everything) > 1e-3


@pytest.mark.parametrize("name", [*FROM_SAMPLES, "hubert-base"])
@torch.no_grad()
def test_padding_changes_nothing(name: str) -> None:
    model = in_chunks(name)
    wave = audio(model, rows=2)
    lengths = torch.tensor([wave.shape[1], wave.shape[1] // 3])
    wave[1, lengths[1] :] = 3.0
    both, alone = model.encoder(wave, lengths), model.encoder(wave[1:, : lengths[1]], None)
    count = alone.last.shape[1]
    assert 4 < count < 23
    assert all(bool(x.isfinite().all()) for x in both.hidden)
    for x, y in zip([*both.hidden, both.last], [*alone.hidden, alone.last], strict=True):
        assert torch.allclose(x[1:, :count], y, atol=ATOL)


@pytest.mark.parametrize("name", ["conformer", "hubert-large"])
def test_a_chunk_learns_from_no_later_frame(name: str) -> None:
    """Gradients reach a chunk's own samples and its past, and every weight; of padded rows, too."""
    model = in_chunks(name)
    encoder = model.encoder.train().requires_grad_(True)
    wave = audio(model, rows=2).requires_grad_(True)
    lengths = torch.tensor([wave.shape[1], wave.shape[1] // 2])
    encoder(wave, lengths).last[:, 4:8].square().sum().backward()
    shape = model.encoder.config.frontend
    assert wave.grad is not None
    assert float(wave.grad[:, : 3 * shape.stride].abs().max()) > 0
    assert float(wave.grad[:, 7 * shape.stride + shape.kernel :].abs().max()) == 0
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in encoder.parameters())


@torch.no_grad()
def test_gated_packed_and_exported() -> None:
    model = in_chunks("conformer")
    wave = audio(model)
    want = model.encoder(wave, None)
    gated = GatedEncoder(model.encoder, ["head", "ffn", "glu"]).eval()
    ones = {group.name: torch.ones(group.size) for group in gated.plan}
    assert difference(gated(wave, values=ones), want) < ATOL
    assert difference(gated.cut(ones)(wave), want) < ATOL
    assert difference(gated(wave, values=ones, chunks=Chunks(2, 2)), model.encoder(wave, chunks=Chunks(2, 2))) < ATOL
    if can_pack():
        assert difference(pack(model.encoder)(wave), want) < ATOL
    with pytest.raises(ValueError, match="in chunks"):
        Graph(model.encoder, normalize=False)


def test_the_shape_says_it() -> None:
    shape = dataclasses.replace(tiny_shape(depth=1), context=CHUNKS)
    assert EncoderConfig.from_dict(shape.to_dict()) == shape
    assert "context" not in tiny_shape(depth=1).to_dict()
    drawn = {CHUNKS.draw() for _ in range(300)}
    assert {each.size for each in drawn} == {2, 3, 4}
    assert {each.left for each in drawn} == {3, 4, 5, 6}
    with pytest.raises(ValueError, match="must rise"):
        ContextConfig((4, 2), (0, 0))
    with pytest.raises(ValueError, match="windows"):
        dataclasses.replace(shape, window=32_000)


def test_seconds_become_frames() -> None:
    assert ContextChoice().frames(320) is None
    assert ContextChoice((0.32,), (2.0,)).frames(320) == ContextConfig((16, 16), (100, 100))
    assert ContextChoice((0.16, 0.64), (1.0, 4.0)).frames(320) == ContextConfig((8, 32), (50, 200))
    endless = ContextChoice((0.32,), (math.inf,)).frames(320)
    assert endless is not None
    assert not endless.drawn
    with pytest.raises(ValueError, match=r"take 0\.32 or 0\.34"):
        ContextChoice((0.33,)).frames(320)
    with pytest.raises(ValueError, match=r"context\.left"):
        ContextChoice((0.32,), (1.0, math.inf))
    with pytest.raises(ValueError, match="compiled"):
        build_recipe(
            {"compile": True, "objectives": {"ctc": {}}, "context": {"chunk": [0.16, 0.32]}, "stages": {"train": {"steps": 1}}}
        )


def test_a_student_keeps_its_context(speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trained with contexts of the recipe, runs under the longest, and streams under it."""
    torch.manual_seed(0)
    shape = dataclasses.replace(tiny_shape(depth=2), frontend=dataclasses.replace(tiny_shape().frontend, norm="layer"))
    save_pretrained(tmp_path / "teacher", Encoder(shape).reset_parameters(), "hubert", normalize=False)
    seen = []
    forward = Encoder.forward

    def watched(self: Encoder, *args: object, **kwargs: object) -> object:
        seen.append(kwargs.get("chunks"))
        return forward(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "forward", watched)
    overrides = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32"]
    overrides += ["context.chunk=[0.08,0.16]", "context.left=[0.2,0.4]", "stages.evaluate=false"]
    overrides += ["stages.distill.steps=3", "stages.distill.warmup=1"]
    options = {"recipe": "distilhubert", "device": "cpu", "larger": True, "overrides": overrides}
    result = sottovoce.compress(tmp_path / "teacher", data=speech_folder, out=tmp_path / "out", **options)
    trained = {chunks for chunks in seen if chunks is not None}
    assert trained
    assert all(4 <= chunks.size <= 8 and 10 <= chunks.left <= 20 for chunks in trained)
    model = sottovoce.load(str(result.out)).eval()
    assert model.config is not None
    assert model.config.context == ContextConfig((4, 8), (10, 20))
    stream = sottovoce.stream(model)
    assert (stream.limits.chunk, stream.limits.left) == (8, 20)
    wave = 0.1 * torch.randn(1, 16_000)
    pieces = [stream.push(wave), stream.flush()]
    with torch.no_grad():
        found = model(wave)
    assert torch.allclose(torch.cat([piece.last for piece in pieces], dim=1), found.last, atol=ATOL)
