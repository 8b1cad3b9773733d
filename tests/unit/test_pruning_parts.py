"""The parts that all costs of an encoder share: each once, in order, with the frames that reach it."""

from __future__ import annotations

import dataclasses

import pytest

from sottovoce.pruning import Workload, encoder_cost, encoder_parts
from tests.unit.test_pruning_styles import STYLES


@pytest.mark.parametrize("style", STYLES)
def test_frames_are_those_of_the_encoder(style: str) -> None:
    config = STYLES[style]
    parts = encoder_parts(config, None, 0.5)
    frames = [part.frames for part in parts.values()]
    names = list(parts)
    assert set(frames[names.index("frontend.projection") :]) == {config.frontend.frames(config.window or 8000)}
    assert frames == sorted(frames, reverse=True)
    assert names == list(encoder_cost(config, seconds=0.5))


def test_widths_reach_the_part_they_are_of_and_the_next() -> None:
    config = STYLES["conformer"]
    first = encoder_parts(config, {"frontend.convs.1": 5}, 0.5)
    convs = config.frontend.convs
    assert first["frontend.convs.1"].params == 5 * (12 * convs[1].kernel + 3)
    assert first["frontend.convs.2"].params == 12 * (5 * convs[2].kernel + 3)
    widths = {"layers.1.head": 2.5, "layers.1.attention": 0.5, "layers.2.ffn1": 7, "layers.2.glu": 3}
    before, after = encoder_parts(config, None, 0.5), encoder_parts(config, widths, 0.5)
    changed = {name for name in before if before[name].params != after[name].params}
    assert changed == {"layers.1.attention", "layers.2.ffn1", "layers.2.glu"}
    heads = encoder_parts(config, {"layers.1.head": 2.5}, 0.5)
    assert after["layers.1.attention"].params == 0.5 * heads["layers.1.attention"].params


def test_what_is_gone_costs_nothing() -> None:
    config = STYLES["hubert-base"]
    gone = dataclasses.replace(config.layers[0], attention=False, ffn=False)
    parts = encoder_parts(dataclasses.replace(config, layers=(gone,)), None, 0.5)
    assert (parts["layers.0.attention"].params, parts["layers.0.ffn"].macs) == (0, 0)
    assert parts["layers.0.ffn"].terms["call"] == 0
    assert parts["norms"].params > 0


@pytest.mark.parametrize("style", ["hubert-base", "w2v-bert"])
def test_a_clip_must_hold_a_frame(style: str) -> None:
    with pytest.raises(ValueError, match=r"0\.001 s are too short"):
        Workload.of(STYLES[style], None, 0.001)
