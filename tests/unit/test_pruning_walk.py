"""The walk that all costs of an encoder share: its parts in order, each once, with the frames that reach it."""

from __future__ import annotations

import dataclasses

import pytest

from sottovoce.pruning import encoder_cost, encoder_parts
from sottovoce.pruning.walk import walk

from .test_pruning_styles import STYLES


@pytest.mark.parametrize("style", STYLES)
def test_frames_are_those_of_the_encoder(style: str) -> None:
    config = STYLES[style]
    pieces = list(walk(config, None, 0.5))
    frames = [piece.frames for piece in pieces]
    assert set(frames[[piece.kind for piece in pieces].index("projection") :]) == {config.frontend.frames(8000)}
    assert frames == sorted(frames, reverse=True)
    names = [piece.name for piece in pieces]
    assert len(set(names)) == len(names)
    assert names == list(encoder_cost(config, seconds=0.5)) == list(encoder_parts(config, seconds=0.5))


def test_widths_reach_the_part_they_are_of_and_the_next() -> None:
    widths = {"frontend.convs.1": 5, "layers.1.head": 2.5, "layers.1.attention": 0.5, "layers.2.ffn1": 7, "layers.2.glu": 3}
    found = {piece.name: piece for piece in walk(STYLES["conformer"], widths, 0.5)}
    assert found["frontend.convs.1"].units == found["frontend.convs.2"].inputs == 5
    assert (found["layers.1.attention"].units, found["layers.1.attention"].part) == (2.5, 0.5)
    assert (found["layers.2.ffn1"].units, found["layers.2.ffn"].units, found["layers.2.glu"].units) == (7, 40, 3)


def test_what_is_gone_has_no_part() -> None:
    config = STYLES["hubert-base"]
    gone = dataclasses.replace(config.layers[0], attention=False, ffn=False)
    found = {piece.name: piece.part for piece in walk(dataclasses.replace(config, layers=(gone,)), None, 0.5)}
    assert (found["layers.0.attention"], found["layers.0.ffn"], found["norms"]) == (0, 0, 1)


@pytest.mark.parametrize("style", ["hubert-base", "w2v-bert"])
def test_a_clip_must_hold_a_frame(style: str) -> None:
    with pytest.raises(ValueError, match=r"0\.001 s are too short"):
        encoder_cost(STYLES[style], seconds=0.001)
