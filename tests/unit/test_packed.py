"""The encoder prepared for inference says what the encoder says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

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
)
from sottovoce.inference import packed as packed_module
from sottovoce.inference.packed import can_pack, fastest, pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="needs oneDNN")

CONVS = (ConvConfig(16, 10, 5), ConvConfig(24, 3, 2), ConvConfig(9, 3, 2), ConvConfig(24, 2, 2), ConvConfig(16, 2, 2))
LAYERS = (LayerConfig(2, 8, 48), LayerConfig(1, 8, 5), LayerConfig(0, 8, 0), LayerConfig(1, 8, 12, attention=False))


def front(norm: str = "group", **other: object) -> FrontendConfig:
    return FrontendConfig(CONVS, norm, **other)  # type: ignore[arg-type]


CONFORMER = tuple(
    LayerConfig(heads, 8, units, kind="conformer", ffn1_dim=units, glu_dim=glu) for heads, units, glu in ((2, 20, 16), (1, 7, 3))
)
SHAPES = {
    "group norm": EncoderConfig(front(), 32, PositionConfig(16, 4), LAYERS),
    "group norm with bias": EncoderConfig(front(bias=True), 32, PositionConfig(15, 4), LAYERS),
    "layer norm": EncoderConfig(front("layer", bias=True), 32, PositionConfig(128, 4), LAYERS, norm_first=True),
    "joined": EncoderConfig(dataclasses.replace(front(), join=2), 32, PositionConfig(16, 4), LAYERS),
    "relu": EncoderConfig(front(activation="relu"), 32, PositionConfig(16, 4), LAYERS, activation="relu"),
    "silu": EncoderConfig(front(activation="silu"), 32, PositionConfig(16, 4), LAYERS, activation="silu"),
    "over padding": EncoderConfig(front(norm_over_padding=True), 32, PositionConfig(19, 4, depth=3, norm=True), LAYERS),
    "fewer positions": EncoderConfig(front(), 32, PositionConfig(16, 4, kept=(0, 3)), LAYERS),
    "no positions": EncoderConfig(front(), 32, PositionConfig(16, 4, kept=()), LAYERS),
    "filter bank": EncoderConfig(FrontendConfig((), fbank=FbankConfig()), 32, None, LAYERS),
    "log-mel": EncoderConfig(
        FrontendConfig(
            (ConvConfig(16, 3, 1, padding=1),),
            "none",
            bias=True,
            projection_norm=False,
            log_mel=LogMelConfig(20),
            projection=ProjectionConfig(3, 2, 1),
        ),
        32,
        None,
        LAYERS,
        norm_first=True,
        positions=100,
        attention_bias="qvo",
    ),
    "whole norm": EncoderConfig(
        FrontendConfig(
            (ConvConfig(16, 127, 64, bias=False, activation="tanh"), ConvConfig(24, 7, 3)),
            "whole",
            bias=True,
            projection_norm=False,
            projection=ProjectionConfig(3, 2),
        ),
        32,
        None,
        LAYERS,
        norm_first=True,
        distance=DistanceConfig("rotary_heads", width=6),
        attention_bias="",
        norm_bias=False,
    ),
    "whole norm, linear": EncoderConfig(
        FrontendConfig((ConvConfig(16, 20, 10, activation="tanh"), ConvConfig(24, 32, 32, padding=3)), "whole"), 32, None, LAYERS
    ),
    "filter bank and convolutions": EncoderConfig(
        FrontendConfig((ConvConfig(16, 3, 2, 1), ConvConfig(24, 3, 1, 1)), "group", fbank=FbankConfig(20)), 32, None, LAYERS
    ),
    "layer norm, padded": EncoderConfig(
        FrontendConfig((ConvConfig(16, 10, 5), ConvConfig(24, 3, 64, padding=1)), "layer", bias=True), 32, None, LAYERS
    ),
    "relative": EncoderConfig(
        front(),
        32,
        None,
        (LayerConfig(2, 8, 9, heads=(0, 3)), LayerConfig(1, 8, 4, heads=(2,))),
        relative=RelativeConfig(32, 80, 4),
    ),
    **{
        kind: EncoderConfig(
            front(), 32, None, CONFORMER, distance=DistanceConfig(kind, 8, 4), convolution=ConvolutionConfig(7), norm_first=True
        )
        for kind in ("key", "sinusoid", "rotary")
    },
}


def encoder(shape: EncoderConfig) -> Encoder:
    """With no weight at a value where a mistake could hide (norms at 1, biases at 0)."""
    torch.manual_seed(0)
    made = Encoder(shape).reset_parameters().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def wave(samples: int = 20_000, rows: int = 3) -> Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("padded", "library"), [(False, "onednn"), (True, "onednn"), (True, "torch")])
def test_same_features(name: str, padded: bool, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_KERNELS", library)
    plain, x = encoder(SHAPES[name]), wave()
    lengths = torch.tensor([20_000, 9_001, 700]) if padded else None
    with torch.no_grad():
        theirs, ours = plain(x, lengths, taps=True), pack(plain)(x, lengths, taps=True)
    valid = theirs.valid()
    assert torch.equal(valid, ours.valid())
    pairs = zip([*theirs.hidden, *theirs.ffn, theirs.last], [*ours.hidden, *ours.ffn, ours.last], strict=True)
    for a, b in pairs:
        assert float((a - b)[valid].abs().max()) < 1e-5 * max(1.0, float(a[valid].abs().max()))


@pytest.mark.parametrize("frames", [1, packed_module.PIECE, packed_module.PIECE + 1, 3 * packed_module.PIECE])
def test_pieces_are_seamless(frames: int) -> None:
    plain = encoder(SHAPES["group norm"])
    shape = plain.config.frontend
    x = wave((frames - 1) * shape.stride + shape.kernel, 1) * 0.01 + 3.0  # a large offset: moments must not lose precision
    with torch.no_grad():
        fast = pack(plain)(x).hidden[0]
        exact = plain.double()(x.double()).hidden[0]
    assert exact.shape[1] == frames
    assert float((exact - fast).abs().max()) < 5e-5 * float(exact.abs().max())


def test_moments_of_long_recordings_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, x = pack(encoder(SHAPES["group norm"])), wave()
    once = packed(x).last
    monkeypatch.setattr(packed_module, "MANY", 100)
    assert torch.allclose(packed(x).last, once, atol=1e-5)


@pytest.mark.parametrize("library", ["onednn", "torch"])
def test_the_encoder_stays_as_it_was(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_KERNELS", library)
    plain = encoder(SHAPES["group norm"])
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    packed = pack(plain)
    said = packed(wave()).last
    after = plain.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    plain.train()
    assert not packed.training
    plain(wave()).last.sum().backward()  # the original still learns
    assert plain.layers[0].ffn.up_proj.weight.grad is not None
    with torch.no_grad():
        plain.layers[0].ffn.up_proj.weight.zero_()
    assert torch.equal(packed(wave()).last, said)  # and what it learns does not reach the packed one


def test_no_training() -> None:
    packed = pack(encoder(SHAPES["group norm"]))
    assert not packed(wave()).last.requires_grad
    with pytest.raises(ValueError, match="cannot be trained"):
        packed.train()


def test_float32_inside_autocast() -> None:
    packed = pack(encoder(SHAPES["group norm"]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(packed(wave()).last, packed(wave()).last)
        assert packed(wave()).last.dtype == torch.float32


def test_what_cannot_be_packed_says_so() -> None:
    half = encoder(SHAPES["group norm"]).half()
    with pytest.raises(ValueError, match="float16"):
        pack(half)
    assert fastest(half) is half


def test_errors_of_the_encoder_stay() -> None:
    with pytest.raises(ValueError, match="too few"):
        pack(encoder(SHAPES["group norm"]))(wave(20))


def test_loaded_for_speed() -> None:
    x = wave(16_000, 1)
    plain, fast = sottovoce.load("demo"), sottovoce.load("demo", fast=True)
    with torch.no_grad():
        assert torch.allclose(plain(x).last, fast(x).last, atol=1e-4)
