"""Frames after the end of a recording, filled with the encoder's answer to silence."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from sottovoce.encoder import Encoder
from sottovoce.encoder.silence import fill, followed, silence_answer
from sottovoce.hub.pretrained import load_pretrained
from tests.unit.test_recognisers import save

ROOT = Path(__file__).parents[3]  # beside the checkout
MODEL = Path(os.environ.get("SOTTOVOCE_MODELS", ROOT / "models")) / "whisper-tiny.en"
SPEECH = ROOT / "shared" / "speech" / "librispeech_dev"

SAID = {
    "1272-128104-0001.opus": "Nor is Mr. Quilter's manner less interesting than his matter.",
    "2035-147960-0001.opus": "This change came about from an adventure we had together.",
}


def on_true_lengths(encoder: Encoder) -> Encoder:
    free = Encoder(dataclasses.replace(encoder.config, window=0)).eval()
    free.load_state_dict(encoder.state_dict())
    return free


@torch.no_grad()
def test_the_answer_is_that_of_a_silent_window(tmp_path: Path) -> None:
    padded = load_pretrained(save("80 mels", tmp_path)).encoder  # windows of 48,000 samples
    free, zeros = on_true_lengths(padded), torch.zeros(1, 48_000)
    for encoder in (padded, free):
        assert torch.allclose(silence_answer(encoder, 48_000), padded(zeros).last[0], atol=1e-5)
        assert torch.allclose(silence_answer(encoder, 48_000, bare=True), padded(zeros).hidden[-1][0], atol=1e-5)
    free.train()
    silence_answer(free, 48_000)
    assert free.training


def test_each_row_is_filled_after_its_own_end() -> None:
    states, answer = torch.randn(3, 5, 2, requires_grad=True), torch.randn(8, 2)
    lengths = torch.tensor([5, 3, 0])
    filled = fill(states, lengths, answer)
    assert filled.shape == (3, 8, 2)
    for row, count in enumerate(lengths.tolist()):
        assert torch.equal(filled[row, :count], states[row, :count])
        assert torch.equal(filled[row, count:], answer[count:])
    assert torch.equal(fill(states[:1], None, answer), filled[:1])
    filled.sum().backward()
    assert isinstance(states.grad, Tensor)
    assert states.grad[:, :, 0].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    shorter = fill(states, torch.tensor([4, 3, 0]), answer[:4])
    assert torch.equal(shorter[0], states[0, :4])


def test_what_does_not_fit_is_refused() -> None:
    states, answer = torch.zeros(2, 5, 2), torch.zeros(4, 2)
    for lengths in (None, torch.tensor([5, 1])):
        with pytest.raises(ValueError, match="has 5 frames, and the decoder reads 4; cut it into pieces"):
            fill(states, lengths, answer)
    with pytest.raises(ValueError, match="3 channels, and the answer to silence has 2"):
        fill(torch.zeros(1, 2, 3), None, answer)


def test_silence_follows_each_row() -> None:
    """On whole hops, and never beyond the window, which a longer recording keeps passing, so that it is refused."""
    wave, lengths = torch.ones(3, 10), torch.tensor([10, 7, 4])
    longer, ends = followed(wave, lengths, 4, hop=4, most=15)
    assert isinstance(ends, Tensor)
    assert ends.tolist() == [15, 12, 8]
    assert longer.shape == (3, 15)
    for row, size in zip(longer, lengths.tolist(), strict=True):
        assert row.tolist() == [1.0] * size + [0.0] * (15 - size)
    assert torch.equal(followed(wave[:1], None, 4, hop=4)[0], torch.tensor([[1.0] * 10 + [0.0] * 6]))
    same, ends = followed(wave, torch.tensor([10, 7, 4]), 4, most=8)
    assert isinstance(ends, Tensor)
    assert (same.shape, ends.tolist()) == ((3, 10), [10, 8, 8])


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.is_dir(), reason="whisper-tiny.en is not there; name the folder that holds it in SOTTOVOCE_MODELS")
@pytest.mark.skipif(not SPEECH.is_dir(), reason="shared/speech is not beside the checkout")
@torch.no_grad()
def test_whisper_transcribes_filled_recordings_as_padded_ones() -> None:
    """Without training. With the frames after the end missing, it does not."""
    host = transformers.WhisperForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32).eval()
    words = transformers.AutoTokenizer.from_pretrained(MODEL)
    padded = load_pretrained(MODEL).encoder
    free = on_true_lengths(padded)
    answer = silence_answer(free)

    def text(states: Tensor) -> str:
        heard = BaseModelOutput(last_hidden_state=states)
        return words.batch_decode(host.generate(encoder_outputs=heard, max_length=40), skip_special_tokens=True)[0].strip()

    missing = 0
    for name, wanted in SAID.items():
        wave = torch.from_numpy(soundfile.read(SPEECH / name, dtype="float32")[0])[None]
        features, whole = free(wave), torch.nn.functional.pad(wave, (0, 480_000 - wave.shape[1]))
        assert text(fill(features.last, None, answer)) == text(padded(whole).last) == wanted
        missing += text(features.last) != wanted
    assert missing
