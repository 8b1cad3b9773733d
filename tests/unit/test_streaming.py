"""Streams: the same features as one pass over the recording under the same limits, however the audio arrives."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sottovoce
from sottovoce.encoder import DistanceConfig, Encoder, EncoderConfig, FbankConfig, FrontendConfig, LayerConfig, PositionConfig
from sottovoce.encoder.attention import Attention
from sottovoce.hub.student import Speech
from sottovoce.hub.teacher_space import TeacherSpace
from sottovoce.streaming.layers import StreamFeatures
from sottovoce.streaming.one_pass import stream_in_one_pass

from . import test_pruning_styles as styles

PARTS = styles.LAYER
WHOLE = ("whisper", "whisper-window", "moonshine")  # hear whole recordings only
SHAPES: dict[str, EncoderConfig] = {
    **{name: shape for name, shape in styles.STYLES.items() if name not in WHOLE},
    "conformer-batch": dataclasses.replace(
        styles.CONFORMER, frontend=styles.BASE.frontend, convolution=styles.BATCH_NORMED, distance=DistanceConfig("key", 4, 2)
    ),
    "bank-as-it-is": dataclasses.replace(styles.W2V_BERT, frontend=FrontendConfig((), fbank=FbankConfig(20, 2, normalize=False))),
    # what pruning leaves: fewer heads, constants in place of parts, no parts
    "pruned": dataclasses.replace(
        styles.BASE,
        position=PositionConfig(8, 4, kept=(0, 2)),
        layers=(
            LayerConfig(2, 12, 20, query_dim=7, value_dim=3),
            LayerConfig(0, 12, 0),
            LayerConfig(4, 12, 40, attention=False),
        ),
    ),
    "pruned-wavlm": dataclasses.replace(
        styles.WAVLM,
        position=PositionConfig(8, 4, kept=()),
        layers=(LayerConfig(2, 12, 20, heads=(1, 3)), LayerConfig(0, 12, 8), LayerConfig(1, 12, 40, ffn=False, heads=(2,))),
    ),
    "pruned-conformer": dataclasses.replace(
        styles.W2V_BERT,
        layers=(
            dataclasses.replace(styles.HALVES, num_heads=2, glu_dim=0),
            dataclasses.replace(styles.HALVES, attention=False, ffn1=False, glu_dim=7),
            dataclasses.replace(styles.HALVES, num_heads=0, ffn_dim=0),
        ),
    ),
}
LIMITS = {  # frames: chunk, left, right
    "no look-ahead": (4, 6, 0),
    "look-ahead": (3, 5, 2),
    "look-ahead beyond the next chunk": (2, math.inf, 5),
    "no past": (5, 0, 1),
}
ATOL = 1e-4


def model_of(name: str, normalize: bool = False) -> Speech:
    known = dict(styles.STYLES)
    try:
        styles.STYLES[name] = SHAPES[name]
        encoder = styles.make(name)
    finally:
        styles.STYLES.clear()
        styles.STYLES.update(known)
    return Speech(encoder, encoder.config, normalize=normalize).eval()


def frame(model: Speech) -> float:
    assert model.config is not None
    return model.config.frontend.stride / 16_000


def seconds(model: Speech, limits: tuple[float, float, float]) -> tuple[float, float, float]:
    chunk, left, right = (frames * frame(model) for frames in limits)
    return chunk, left, right


def audio(model: Speech, frames: int = 23, rows: int = 1, rest: int = 7) -> Tensor:
    """`frames` and `rest` samples more, whose level and offset change, so that running statistics move."""
    assert model.config is not None
    shape = model.config.frontend
    size = (frames - 1) * shape.stride + shape.kernel + rest
    wave = torch.randn(rows, size, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.05, 0.5, size)
    return wave + torch.linspace(0.0, 0.05, size)


def pieces(wave: Tensor, sizes: list[int]) -> list[Tensor]:
    """`wave` in pieces of `sizes`, over and over."""
    found, start, i = [], 0, 0
    while start < wave.shape[-1]:
        found.append(wave[..., start : start + sizes[i % len(sizes)]])
        start, i = start + sizes[i % len(sizes)], i + 1
    return found


def streamed(model: Speech, wave: Tensor, limits: tuple[float, float, float], sizes: list[int]) -> StreamFeatures:
    """All pieces of a stream, put together; checks that they follow each other."""
    stream = sottovoce.stream(model, *seconds(model, limits))
    found = [stream.push(piece) for piece in pieces(wave, sizes)] + [stream.flush()]
    at = 0
    for piece in found:
        assert piece.first == at
        at += piece.last.shape[1]
    hidden = [torch.cat(states, dim=1) for states in zip(*(piece.hidden for piece in found), strict=True)]
    return dataclasses.replace(
        found[0],
        hidden=hidden,
        embedded=torch.cat([piece.embedded for piece in found], dim=1),
        last=torch.cat([piece.last for piece in found], dim=1),
    )


def difference(a: sottovoce.types.Features, b: sottovoce.types.Features) -> float:
    ours, theirs = [*a.hidden, a.embedded, a.last], [*b.hidden, b.embedded, b.last]
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    return max(float((x - y).abs().max()) for x, y in zip(ours, theirs, strict=True))


def normalizes(name: str) -> list[bool]:
    return [False] if SHAPES[name].frontend.fbank is not None else [False, True]


CASES = [(name, normalize) for name in SHAPES for normalize in normalizes(name)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("whisper", "counts positions"), ("whisper-window", "counts positions"), ("moonshine", "level of the whole recording")],
)
def test_models_that_hear_whole_recordings_are_refused(name: str, message: str) -> None:
    encoder = styles.make(name)
    with pytest.raises(ValueError, match=message):
        sottovoce.stream(Speech(encoder, encoder.config, normalize=False).eval(), 0.4)


LIMITED = [(*case, "look-ahead") for case in CASES]
LIMITED += [(name, normalizes(name)[-1], limits) for name in SHAPES for limits in LIMITS if limits != "look-ahead"]


@pytest.mark.parametrize(("name", "normalize", "limits"), LIMITED)
def test_a_stream_is_the_recording_under_the_same_limits(name: str, normalize: bool, limits: str) -> None:
    model = model_of(name, normalize)
    wave = audio(model)
    want = stream_in_one_pass(model, wave, *seconds(model, LIMITS[limits]))
    assert want.last.shape[1] == 23
    assert want.last.std() > 0.1
    assert difference(streamed(model, wave, LIMITS[limits], [97]), want) < ATOL


@pytest.mark.parametrize(("name", "normalize"), CASES)
@torch.no_grad()
def test_without_limits_it_is_the_encoder(name: str, normalize: bool) -> None:
    model = model_of(name, normalize)
    wave = audio(model)
    for limits in ((3, math.inf, math.inf), (5, 23, 23), (40, 0, 0)):
        for found in (stream_in_one_pass(model, wave, *seconds(model, limits)), streamed(model, wave, limits, [1000])):
            assert difference(found, model(wave)) < ATOL


@pytest.mark.parametrize("sizes", [[1], [641, 3], [40], [100_000], [0, 2000, 1]])
def test_it_does_not_matter_how_the_audio_arrives(sizes: list[int]) -> None:
    for name in ("hubert-base", "w2v-bert"):
        model = model_of(name, name == "hubert-base")
        wave = audio(model, frames=11)
        want = streamed(model, wave, (3, 4, 2), [500])
        assert difference(streamed(model, wave, (3, 4, 2), sizes), want) < 1e-5


def test_buffers_may_be_written_over() -> None:
    model = model_of("hubert-large")
    wave, buffer = audio(model), torch.empty(1, 50)
    stream, found = sottovoce.stream(model, *seconds(model, (4, 6, 0))), []
    for piece in pieces(wave, [50]):
        buffer[:, : piece.shape[1]] = piece
        found.append(stream.push(buffer[:, : piece.shape[1]]).last)
    found.append(stream.flush().last)
    assert torch.equal(torch.cat(found, dim=1), streamed(model, wave, (4, 6, 0), [50]).last)


@pytest.mark.parametrize("frames", [1, 4, 5, 8, 9])
@pytest.mark.parametrize("rest", [0, 39])
def test_ends_of_all_kinds(frames: int, rest: int) -> None:
    """On and beside the last sample of a chunk and of what it waits for."""
    for name in ("hubert-base", "wavlm-large"):
        model = model_of(name, normalize=True)
        wave = audio(model, frames=frames, rest=rest)
        for limits in ((4, 3, 0), (4, 3, 1)):
            want = stream_in_one_pass(model, wave, *seconds(model, limits))
            assert want.last.shape[1] == frames
            assert difference(streamed(model, wave, limits, [33]), want) < ATOL


def test_frames_come_out_when_they_may() -> None:
    model = model_of("hubert-base")
    stream = sottovoce.stream(model, *seconds(model, (4, 3, 2)))
    wait = (4 + 2 - 1) * 40 + 60  # samples: the last frame that is waited for, to its end
    assert stream.latency == pytest.approx(wait / 16)
    wave = audio(model)[0]
    assert stream.push(wave[: wait - 1]).last.shape == (1, 0, 48)
    piece = stream.push(wave[wait - 1 : wait])
    assert (piece.first, piece.last.shape, piece.lengths) == (0, (1, 4, 48), None)
    assert piece.times.tolist() == pytest.approx([(30 + 40 * i) / 16_000 for i in range(4)])
    assert stream.push(wave[wait : wait + 4 * 40 - 1]).last.shape[1] == 0
    piece = stream.push(wave[wait + 4 * 40 - 1 : wait + 4 * 40])
    assert (piece.first, piece.last.shape[1]) == (4, 4)
    assert piece.times[0] == pytest.approx((30 + 4 * 40) / 16_000)
    usual = Speech(Encoder(_usual()).eval(), _usual(), normalize=False)
    assert sottovoce.stream(usual).latency == 325
    assert sottovoce.stream(usual, chunk=0.16, right=0.08).latency == 245
    assert sottovoce.stream(usual, right=math.inf).latency == math.inf


def _usual() -> EncoderConfig:
    from ..conftest import tiny_shape

    return tiny_shape(depth=1)


@pytest.mark.parametrize("name", ["hubert-base", "wavlm-base", "conformer", "w2v-bert"])
def test_flush_and_reset_begin_anew(name: str) -> None:
    model = model_of(name)
    wave, other = audio(model), 0.3 * audio(model, frames=9).flip(-1)
    stream = sottovoce.stream(model, *seconds(model, (4, 6, 1)))
    want = streamed(model, wave, (4, 6, 1), [10_000])
    for end in (stream.flush, stream.reset):
        stream.push(other)
        end()
        first, rest = stream.push(wave), stream.flush()
        assert difference(first, _part(want, 0, first.last.shape[1])) == 0
        assert difference(rest, _part(want, rest.first, 23)) == 0
    assert stream.flush().last.shape == (1, 0, 48)
    stream.push(wave[:, :20])
    assert stream.flush().last.shape == (1, 0, 48)  # too short for a frame


def _part(features: StreamFeatures, start: int, end: int) -> StreamFeatures:
    hidden = [x[:, start:end] for x in features.hidden]
    return dataclasses.replace(
        features, hidden=hidden, embedded=features.embedded[:, start:end], last=features.last[:, start:end]
    )


@pytest.mark.parametrize("name", ["hubert-base", "data2vec", "conformer", "w2v-bert"])
def test_rows_of_a_batch_are_streams_of_their_own(name: str) -> None:
    model = model_of(name, SHAPES[name].frontend.fbank is None)
    wave = audio(model, rows=2)
    found, offline = streamed(model, wave, (4, 6, 1), [500]), stream_in_one_pass(model, wave, *seconds(model, (4, 6, 1)))
    for i in range(2):
        alone = streamed(model, wave[i : i + 1], (4, 6, 1), [500])
        for both in (found, offline):
            row = dataclasses.replace(
                both, hidden=[x[i : i + 1] for x in both.hidden], embedded=both.embedded[i : i + 1], last=both.last[i : i + 1]
            )
            assert difference(row, alone) < ATOL


@pytest.mark.parametrize("name", ["hubert-large", "conformer"])
def test_nothing_after_the_look_ahead_is_known(name: str) -> None:
    model = model_of(name)
    for limits, end in (((4, 6, 0), 8), ((4, 6, 3), 8)):
        wave = audio(model)
        want = stream_in_one_pass(model, wave, *seconds(model, limits))
        waited = (end + int(limits[2]) - 1) * 40 + 60
        wave[:, waited:] = torch.randn(wave[:, waited:].shape)
        found = stream_in_one_pass(model, wave, *seconds(model, limits))
        assert difference(_part(found, 0, end), _part(want, 0, end)) < 1e-5
        assert difference(_part(found, end, 12), _part(want, end, 12)) > 1e-2
        wave[:, (end - 1) * 40 + 60 :] = 0  # of what was waited for, something was used
        found = stream_in_one_pass(model, wave, *seconds(model, limits))
        assert (difference(_part(found, 0, end), _part(want, 0, end)) > 1e-2) == (limits[2] > 0)


@pytest.mark.parametrize(("left", "sees"), [(5, False), (6, True)])
def test_attention_reaches_left_from_its_chunk(left: int, sees: bool) -> None:
    shape = dataclasses.replace(SHAPES["hubert-large"], position=None)
    encoder = Encoder(dataclasses.replace(shape, layers=shape.layers[:1])).reset_parameters().eval()
    nn.init.normal_(encoder.layers[0].attention.v_proj.weight, std=0.3)  # type: ignore[union-attr,arg-type]
    model = Speech(encoder, encoder.config, normalize=False)
    wave = audio(model)
    want = stream_in_one_pass(model, wave, *seconds(model, (4, left, 0)))
    wave[:, : 2 * 40 + 20] += 1.0  # frames 0 to 2
    found = stream_in_one_pass(model, wave, *seconds(model, (4, left, 0)))
    assert (difference(_part(found, 8, 12), _part(want, 8, 12)) > 1e-3) == sees


def test_memory_does_not_grow() -> None:
    model = model_of("conformer")
    stream, wave = sottovoce.stream(model, *seconds(model, (4, 6, 1))), audio(model, frames=200)
    sizes = []
    for piece in pieces(wave, [1000]):
        stream.push(piece)
        held = [*stream.context.cache.values(), *stream.frontend.waiting]
        sizes.append(sum(x.untyped_storage().nbytes() for x in held))
    assert max(sizes[2:]) < 1.5 * min(sizes[2:])


def test_what_a_model_may_be(teacher_folder: Path) -> None:
    wave = 0.1 * torch.randn(16_000)
    by_name, by_model = sottovoce.stream(teacher_folder), sottovoce.stream(sottovoce.load(str(teacher_folder)))
    found, again = by_name.push(wave), by_model.push(wave.numpy().astype(np.float64))
    assert found.last.shape == (1, 48, 32)
    assert difference(found, again) == 0
    assert type(by_name.encoder.layers[0].attention) is Attention  # streams have layers of their own


def test_joined_frames_in_the_teachers_space() -> None:
    """As many frames as the teacher, at the teacher's times."""
    model = model_of("joined")
    model.projections = TeacherSpace({"all": [0, 1, 2, 3]}, 48, 64, join=2).eval()
    wave = audio(model)
    found, want = streamed(model, wave, (4, 6, 1), [77]), stream_in_one_pass(model, wave, *seconds(model, (4, 6, 1)))
    assert found.last.shape == (1, 2 * found.embedded.shape[1], 64)
    assert difference(found, want) < ATOL
    assert model.config is not None
    alone = model.config.frontend.apart
    assert (found.stride, found.kernel) == (want.stride, want.kernel) == (alone.stride, alone.kernel)


def test_features_in_the_teachers_space() -> None:
    model = model_of("hubert-base")
    model.projections = TeacherSpace({"low": [0, 1], "high": [3]}, 48, 64).eval()
    wave = audio(model)
    found, want = streamed(model, wave, (4, 6, 1), [77]), stream_in_one_pass(model, wave, *seconds(model, (4, 6, 1)))
    assert found.last.shape == (1, 23, 64)
    assert found.embedded.shape == (1, 23, 48)
    assert difference(found, want) < ATOL


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"chunk": 0.33}, r"chunk is 0\.33 seconds; this model's frames last 20 ms, so take 0\.32 or 0\.34"),
        ({"chunk": 0.0}, r"chunk is 0 seconds; .* so take 0\.02$"),
        ({"chunk": math.inf}, "chunk is inf seconds; it must be a length of time$"),
        ({"left": 0.01}, r"left is 0\.01 seconds; .* so take 0 or 0\.02"),
        ({"right": -0.02}, r"right is -0\.02 seconds; it must be a length of time, or inf"),
        ({"left": math.nan}, "left is nan seconds"),
    ],
)
def test_limits_that_are_refused(limits: dict[str, float], message: str) -> None:
    model = Speech(Encoder(_usual()).eval(), _usual(), normalize=False)
    with pytest.raises(ValueError, match=message):
        sottovoce.stream(model, **limits)
    with pytest.raises(ValueError, match=message):
        stream_in_one_pass(model, torch.zeros(8000), **limits)


def test_audio_that_is_refused() -> None:
    model = model_of("hubert-base")
    stream = sottovoce.stream(model, *seconds(model, (4, 6, 1)))
    wave = audio(model)
    found = [stream.push(wave[:, :500])]
    for samples, rate, message in (
        (wave, 44_100, "the audio is at 44100 Hz and the model needs 16000 Hz; resample it"),
        (torch.zeros(100, dtype=torch.int16), 16_000, "got int16; divide 16-bit samples by 32768"),
        (torch.zeros(1, 2, 3), 16_000, r"got shape \(1, 2, 3\)"),
        (torch.zeros(2, 100), 16_000, "the stream began with 1 rows and goes on with 2; flush or reset it"),
        (torch.tensor([0.0, math.nan]), 16_000, "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.push(samples, rate)
    found += [stream.push(wave[:, 500:]), stream.flush()]  # as if nothing had happened
    last = torch.cat([piece.last for piece in found], dim=1)
    assert torch.equal(last, streamed(model, wave, (4, 6, 1), [500, 10_000]).last)


def test_models_that_are_refused() -> None:
    model = model_of("hubert-base")
    generic = Speech(nn.Linear(1, 1), None, normalize=False).eval()
    filters = Speech(model_of("w2v-bert").encoder, SHAPES["w2v-bert"], normalize=True).eval()
    for each, message in (
        (generic, "runs inside transformers, which needs complete recordings"),
        (Speech(model.encoder, model.config, normalize=False).train(), r"training mode.*model\.eval\(\)"),
        (model_of("hubert-large").half(), r"is float16; call model\.float\(\)"),
        (filters, "a filter bank on normalised waveforms cannot be streamed"),
    ):
        with pytest.raises(ValueError, match=message):
            sottovoce.stream(each, 0.01)


def test_positions_of_a_long_row_of_convolutions() -> None:
    """data2vec-audio at its real kernel, where a chunk is shorter than what one convolution reaches back."""
    shape = dataclasses.replace(SHAPES["data2vec"], position=PositionConfig(19, 4, depth=5, norm=True))
    encoder = Encoder(shape).reset_parameters().eval()
    model = Speech(encoder, shape, normalize=True)
    wave = audio(model)
    for limits in ((1, 3, 0), (2, 5, 1)):
        assert difference(streamed(model, wave, limits, [50]), stream_in_one_pass(model, wave, *seconds(model, limits))) < ATOL
