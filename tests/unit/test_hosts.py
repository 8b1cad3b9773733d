"""Hosts: what a checkpoint with a head says is what transformers says, whatever the padding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder, normalize
from sottovoce.hosts.base import Host
from sottovoce.hosts.load import load_host
from tests.unit import test_conformers as conformers
from tests.unit import test_families as waves
from tests.unit import test_recognisers as recognisers
from tests.unit.test_families import speech

HEADS: dict[str, Any] = {"classifier_proj_size": 20, "num_labels": 5, "tdnn_dim": (24, 24, 40), "tdnn_kernel": (5, 3, 1)}
HEADS |= {"tdnn_dilation": (1, 2, 1), "xvector_output_dim": 16}
SUFFIXES = {"ctc": "ForCTC", "sequence-classification": "ForSequenceClassification", "xvector": "ForXVector"}
SUFFIXES |= {"frame-classification": "ForAudioFrameClassification"}
FAMILIES = ("wav2vec2", "hubert", "wavlm", "unispeech_sat", "data2vec_audio", "wav2vec2_conformer", "wav2vec2_bert")
CASES = [
    (family, kind)
    for family in FAMILIES
    for kind, suffix in SUFFIXES.items()
    if family != "hubert" or kind in ("ctc", "sequence-classification")
]
EVEN = [16_000, 9_840, 12_400]  # an even number of 10 ms windows, so that filter banks fill their last frame


def tiny(family: str, kind: str, **changes: Any) -> nn.Module:
    """A random model of transformers with a head, each of whose weights matters."""
    if family in conformers.CLASSES:
        position = "relative_key" if family == "wav2vec2_bert" else "rotary"
        return conformers.tiny(family, position, "", SUFFIXES[kind], **{**HEADS, **changes})
    style = "large" if family in ("wav2vec2", "wavlm") else "base"
    return waves.tiny(family, style, SUFFIXES[kind], **{**HEADS, **changes})


def save(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[operator]
    if model.config.model_type == "wav2vec2-bert":
        conformers.EXTRACTOR.save_pretrained(folder)
    else:
        settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16_000}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def said(model: nn.Module, wave: Tensor) -> Tensor:
    """The logits of transformers' model for one recording, (S,): (N, C)."""
    if model.config.model_type == "wav2vec2-bert":
        given = conformers.EXTRACTOR(wave.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    else:
        given = normalize(wave[None])
    logits: Tensor = model(given).logits[0]
    return logits if logits.dim() == 2 else logits[None]


def loaded(source: Path) -> Host:
    host = load_host(source)
    assert host is not None
    return host


def close(host: Host, wave: Tensor, sizes: Tensor, wanted: list[Tensor]) -> None:
    """Checks each row of a padded batch, and the first alone."""
    batch = Batch(wave, sizes)
    out = host.outputs(host.listen(batch), batch)
    alone = Batch(wave[:1, : int(sizes[0])])
    first = host.outputs(host.listen(alone), alone)
    assert first.valid.all()
    for row, valid, right in [*zip(out.logits, out.valid, wanted, strict=True), (first.logits[0], first.valid[0], wanted[0])]:
        assert int(valid.sum()) == len(right)
        assert (row[: len(right)] - right).abs().max() < 1e-4 * max(1.0, float(right.abs().max()))


@pytest.mark.parametrize(("family", "kind"), CASES)
@torch.no_grad()
def test_heads_say_what_transformers_says(family: str, kind: str, tmp_path: Path) -> None:
    model = tiny(family, kind)
    host = loaded(save(model, tmp_path))
    assert (host.name, host.pretrained.family) == (kind, family)
    assert host.answers == {"ctc": "frames", "frame-classification": "frames"}.get(kind, "classes")
    wave, sizes = speech(EVEN)
    close(host, wave, sizes, [said(model, row[:size]) for row, size in zip(wave, EVEN, strict=True)])
    assert not any(parameter.requires_grad for parameter in host.rest.parameters())


ADAPTED = {"add_adapter": True, "output_hidden_size": 40, "num_adapter_layers": 2}


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "wav2vec2_conformer", "wav2vec2_bert"])
@torch.no_grad()
def test_adapters_behind_the_encoder(family: str, tmp_path: Path) -> None:
    """Frames are joined twice; a row says what it says alone, whatever padding its last convolution reaches."""
    more = {**ADAPTED, "use_intermediate_ffn_before_adapter": True} if family == "wav2vec2_bert" else ADAPTED
    model = tiny(family, "ctc", **more)
    host = loaded(save(model, tmp_path))
    sizes = [16_000, 9_840, 12_800]
    wave, lengths = speech(sizes)
    right = [said(model, row[:size]) for row, size in zip(wave, sizes, strict=True)]
    close(host, wave, lengths, right)
    assert host.count(lengths).tolist() == [len(each) for each in right]


@pytest.mark.parametrize(
    ("family", "kind"), [case for case in CASES if case[0] in ("wavlm", "hubert", "wav2vec2_bert") and case[1] != "ctc"]
)
@torch.no_grad()
def test_sums_of_layers(family: str, kind: str, tmp_path: Path) -> None:
    model = tiny(family, kind, use_weighted_layer_sum=True)
    host = loaded(save(model, tmp_path))
    wave, sizes = speech(EVEN)
    close(host, wave, sizes, [said(model, row[:size]) for row, size in zip(wave, EVEN, strict=True)])


@pytest.mark.parametrize("style", ["80 mels", "half turned"])
@torch.no_grad()
def test_decoders_say_what_transformers_says(style: str, tmp_path: Path) -> None:
    model = recognisers.tiny(style, "ForConditionalGeneration")
    recognisers.save(style, tmp_path, "ForConditionalGeneration")
    host = loaded(tmp_path)
    assert host.answers == "tokens"
    assert host.rest.proj_out.weight is host.rest.model.decoder.embed_tokens.weight
    wave, sizes = speech(EVEN)
    tokens = torch.tensor([[1, 5, 9, 2, 0], [1, 3, 7, 8, 2], [1, 2, 0, 0, 0]])
    batch = Batch(wave, sizes)
    out = host.outputs(host.listen(batch), batch, tokens)
    assert out.valid.tolist() == [[True] * 3 + [False], [True] * 4, [True] + [False] * 3]
    extractor = recognisers.extractor_of(model)
    for i, size in enumerate(EVEN):
        row = wave[i, :size]
        given = extractor(row.numpy(), sampling_rate=16_000, return_tensors="pt").input_features if extractor else row[None]
        right = model(given, decoder_input_ids=tokens[i : i + 1, :-1]).logits[0]
        assert (out.logits[i] - right).abs().max() < 1e-4


def test_a_bare_encoder_and_an_unknown_head_are_no_hosts(tmp_path: Path) -> None:
    waves.tiny("hubert").save_pretrained(tmp_path / "bare")  # type: ignore[operator]
    waves.tiny("wav2vec2", head="ForPreTraining", proj_codevector_dim=8, codevector_dim=8).save_pretrained(tmp_path / "before")  # type: ignore[operator]
    assert load_host(tmp_path / "bare") is None
    assert load_host(tmp_path / "before") is None


def test_a_head_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    save(tiny("hubert", "ctc", vocab_size=9), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    with pytest.raises(ValueError, match=r"do not fit the HubertForCTC of config.json: lm_head.weight has shape \(9, 48\)"):
        load_host(tmp_path)


@torch.no_grad()
def test_frames_after_the_end_are_silence(tmp_path: Path) -> None:
    """Where the encoder heard the recordings alone, Whisper's decoder reads the encoder's answer to silence behind them."""
    recognisers.save("80 mels", tmp_path, "ForConditionalGeneration")
    host = loaded(tmp_path)
    wave, sizes = speech([16_000, 9_777])
    batch = Batch(wave, sizes)
    states = host.states(host.encoder(wave, sizes)).last
    whole = host.encoder(torch.zeros(1, 48_000)).last
    assert states.shape == (2, 150, 48)
    for row, alone, frames in zip(states, host.listen(batch).last, (50, 31), strict=True):
        assert (row[:frames] - alone[:frames]).abs().max() < 1e-5
        assert torch.equal(row[frames:], whole[0, frames:])


@torch.no_grad()
def test_a_bridge_leads_a_student_into_the_host(tmp_path: Path) -> None:
    """Two teacher frames of each of the student's, then the teacher's final norm; a student of another width needs a bridge."""
    host = loaded(save(tiny("wav2vec2", "ctc"), tmp_path))
    student = Encoder(replace(host.encoder.config, dim=32, layers=host.encoder.config.layers[:1])).eval()
    linear = nn.Linear(32, 96)
    with pytest.raises(ValueError, match="the student is 32 wide and its host reads 48 channels: it needs a trained projection"):
        host.put(student, host.way())
    with pytest.raises(ValueError, match="gives 96 channels, and the host's encoder has 48 in 1 frames"):
        host.way(linear)
    wave, sizes = speech(EVEN)
    host.put(student, host.way(linear, join=2))
    features = host.listen(Batch(wave, sizes))
    out = host.outputs(features, Batch(wave, sizes))
    norm = host.pretrained.encoder.norm
    right = host.rest.lm_head(norm(linear(features.hidden[-1]).reshape(3, -1, 48)))
    assert (out.logits - right).abs().max() < 1e-5
    assert out.valid.sum(1).tolist() == (2 * student.config.frontend.frames(sizes)).tolist()
