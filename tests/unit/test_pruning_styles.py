"""The encoders that the pruning tests run on: a tiny one per style of model, in which every bias and norm matters."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sottovoce.core.registry import UNITS
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
from sottovoce.pruning import make_plan, prepare_config

CONVS = (ConvConfig(12, 10, 5), ConvConfig(12, 3, 2), ConvConfig(12, 3, 2), ConvConfig(12, 2, 2))
LAYER = LayerConfig(num_heads=4, head_dim=12, ffn_dim=40)
BASE = EncoderConfig(FrontendConfig(CONVS), 48, PositionConfig(8, 4), (LAYER,) * 3)
NORMED = FrontendConfig(CONVS, norm="layer", bias=True)
WAVLM = dataclasses.replace(
    BASE,
    layers=(dataclasses.replace(LAYER, heads=(0, 1, 2, 3)),) * 3,
    relative=RelativeConfig(buckets=16, max_distance=40, heads=4),
)
HALVES = LayerConfig(num_heads=4, head_dim=12, ffn_dim=40, kind="conformer", ffn1_dim=36, glu_dim=30)
CONFORMER = EncoderConfig(
    NORMED, 48, None, (HALVES,) * 3, norm_first=True, activation="swish", distance=DistanceConfig("sinusoid")
)
W2V_BERT = dataclasses.replace(
    CONFORMER,
    frontend=FrontendConfig((), fbank=FbankConfig(20, 2)),
    distance=DistanceConfig("key", left=2, right=1),
    convolution=ConvolutionConfig(5, causal=True),
    norm=False,
)
BATCH_NORMED = ConvolutionConfig(5, norm="batch")
CONFORMERS = {
    "w2v-bert": W2V_BERT,
    "w2v-bert-rotary": dataclasses.replace(W2V_BERT, distance=DistanceConfig("rotary")),
    "w2v-bert-no-distance": dataclasses.replace(W2V_BERT, distance=None, convolution=ConvolutionConfig(3)),
    "conformer": dataclasses.replace(CONFORMER, convolution=BATCH_NORMED),
    "conformer-rotary": dataclasses.replace(
        CONFORMER, frontend=FrontendConfig(CONVS), convolution=BATCH_NORMED, distance=DistanceConfig("rotary")
    ),
}
WHISPER = EncoderConfig(
    FrontendConfig(
        (ConvConfig(14, 3, 1, padding=1),),
        "none",
        bias=True,
        projection_norm=False,
        log_mel=LogMelConfig(10),
        projection=ProjectionConfig(3, 2, 1),
    ),
    48,
    None,
    (LAYER,) * 3,
    norm_first=True,
    positions=40,
    attention_bias="qvo",
)
MOONSHINE = EncoderConfig(
    FrontendConfig(
        (ConvConfig(12, 127, 64, bias=False, activation="tanh"), ConvConfig(24, 7, 3)),
        "whole",
        bias=True,
        projection_norm=False,
        projection=ProjectionConfig(3, 2),
    ),
    48,
    None,
    (LAYER,) * 3,
    norm_first=True,
    distance=DistanceConfig("rotary_heads", width=10),
    attention_bias="",
    norm_bias=False,
)


def shared_maps(config: EncoderConfig) -> tuple[LayerConfig, ...]:
    """The second of three layers takes the attention map of the first."""
    first, second, third = config.layers
    return first, dataclasses.replace(second, reuse=True), third


STYLES = {
    "hubert-base": BASE,
    "hubert-large": dataclasses.replace(BASE, frontend=NORMED, norm_first=True),
    "wavlm-base": WAVLM,
    "wavlm-large": dataclasses.replace(WAVLM, frontend=dataclasses.replace(NORMED, bias=False), norm_first=True),
    "data2vec": dataclasses.replace(
        BASE, frontend=dataclasses.replace(NORMED, bias=False), position=PositionConfig(7, 4, depth=5, norm=True)
    ),
    "no-projection-norm": dataclasses.replace(BASE, frontend=dataclasses.replace(BASE.frontend, projection_norm=False)),
    "joined": dataclasses.replace(BASE, frontend=dataclasses.replace(BASE.frontend, join=2)),
    # one layer in the middle of another kind
    "mixed": dataclasses.replace(
        CONFORMER, layers=(HALVES, LAYER, HALVES), convolution=BATCH_NORMED, position=PositionConfig(8, 4)
    ),
    **CONFORMERS,
    "whisper": WHISPER,
    "whisper-window": dataclasses.replace(WHISPER, window=12_800),
    "moonshine": MOONSHINE,
    "shared-maps": dataclasses.replace(WAVLM, layers=shared_maps(WAVLM)),
    "conformer-shared-maps": dataclasses.replace(CONFORMER, layers=shared_maps(CONFORMER)),
}


def all_units(style: str) -> tuple[str, ...]:
    """Every kind that the style has: a row of positional convolutions is not pruned."""
    config = STYLES[style]
    kinds = tuple(
        kind for kind in UNITS.names() if kind != "position" or (config.position is not None and config.position.depth == 1)
    )
    return tuple(kind for kind in kinds if len(make_plan(prepare_config(config, kinds), (kind,))))


CASES = [(style, units) for style in STYLES for units in [*((kind,) for kind in all_units(style)), all_units(style)]]


def make(style: str, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    encoder = Encoder(STYLES[style]).reset_parameters()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif any(part in name for part in (".attention.", ".ffn", ".convolution.")):
                parameter.copy_(0.3 * torch.randn_like(parameter))
        for name, buffer in encoder.named_buffers():
            if name.endswith(".norm.mean"):
                buffer.copy_(0.3 * torch.randn_like(buffer))
            elif name.endswith(".norm.variance"):
                buffer.copy_(0.5 + torch.rand_like(buffer))
    return encoder.eval()


def waves(padded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    wave = torch.randn(2, 1600, generator=torch.Generator().manual_seed(1))
    if not padded:
        return wave, None
    wave[1, 1100:] = 0
    return wave, torch.tensor([1600, 1100])


@pytest.mark.parametrize("style", STYLES)
def test_every_bias_and_norm_has_an_effect(style: str) -> None:
    encoder, (wave, _) = make(style), waves(False)
    features = encoder(wave)
    loss = sum(state.square().sum() for state in [*features.hidden, features.last])
    loss.backward()
    for name, parameter in encoder.named_parameters():
        if not name.endswith("k_proj.bias"):  # softmax does not see it
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
