"""Whole hosts as ONNX files: the texts that onnxruntime writes are torch's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models
from torch import nn
from transformers import PreTrainedTokenizerFast, Wav2Vec2CTCTokenizer

from sottovoce.encoder import Encoder
from sottovoce.exporting.api import export
from sottovoce.exporting.proto import scope, weights
from sottovoce.exporting.quantize import DYNAMIC, targets
from sottovoce.exporting.runtime_host import RuntimeHost
from sottovoce.exporting.whole import decoding, spelled
from sottovoce.exporting.whole_files import export_whole
from sottovoce.hosts.load import load_host
from tests.unit import test_families as waves
from tests.unit import test_recognisers as recognisers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(folder: Path, names: list[str], decoder: Any) -> None:
    names = ["<pad>", "<s>", "</s>", *names]
    made = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    made.decoder = decoder
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def made(kind: str, folder: Path, pieces: bool = False) -> Path:
    """A random host of this kind, with a tokenizer of letters; pieces: also of bytes of a letter, of which it may write one alone."""
    if kind.startswith("ctc"):
        family, more = ("wav2vec2", {"add_adapter": True, "num_adapter_layers": 1}) if kind == "ctc, adapter" else ("hubert", {})
        waves.tiny(family, head="ForCTC", vocab_size=9, pad_token_id=0, **more).save_pretrained(folder)  # type: ignore[operator]
        settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16_000}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(["<pad>", "<unk>", "|", *"abcdef"])}))
        Wav2Vec2CTCTokenizer(folder / "vocab.json", pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
        return folder
    recognisers.save({"whisper": "80 mels", "moonshine": "half turned"}[kind], folder, "ForConditionalGeneration")
    (folder / "generation_config.json").write_text(
        json.dumps({"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "max_length": 30})
    )
    if kind == "whisper":
        tokenizer(folder, ["Ġ", "Ã", "©", *LETTERS], decoders.ByteLevel())
    else:
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer(folder, ["▁", *(["<0xC3>", "<0xA9>"] if pieces else ["-", "+"]), *LETTERS], decoders.Sequence(steps))
    return folder


@pytest.mark.parametrize("kind", ["whisper", "moonshine", "ctc", "ctc, adapter"])
def test_texts_are_those_of_torch(kind: str, tmp_path: Path, speech_folder: Path) -> None:
    source = made(kind, tmp_path / "host")
    said: list[str] = []
    path = export(source, out=tmp_path / "out", data=speech_folder, seconds=3, say=said.append)
    assert path == tmp_path / "out" / "encoder.onnx"
    check = json.loads((path.parent / "model.check.json").read_text())
    assert check["equal"] == check["recordings"] >= 3
    assert check["wer"]["files to torch"] == 0
    assert f"{check['recordings']} of {check['recordings']} texts are those of torch" in said[-1]
    decodes = not kind.startswith("ctc")
    assert (path.parent / "decoder.onnx").exists() == decodes
    encoder = onnx.load(path)
    chosen = set(targets(encoder, DYNAMIC, ("MatMul", "Gemm")))
    places = [scope(node) for node in encoder.graph.node if node.name in chosen]
    assert places
    assert not any(place.startswith("encoder.frontend.features") for place in places)  # a filter bank in 8 bits hears nothing
    if decodes:
        decoder = onnx.load(path.with_name("decoder.onnx"))
        chosen, known = set(targets(decoder, DYNAMIC, ("MatMul",))), weights(decoder)
        widths = [known[node.input[1]].dims[-1] for node in decoder.graph.node if node.name in chosen]
        assert 32 in widths  # the head's, one for each token
    host, files = load_host(source), RuntimeHost(path.parent)
    assert host is not None
    wave, _ = soundfile.read(speech_folder / "00.wav", dtype="float32")
    for part in (wave[: len(wave) // 2], wave):  # lengths that the export did not see
        options = {"max_new_tokens": files.most(len(part) / 16_000)} if decodes else {}
        text = host.transcribe(torch.from_numpy(part)[None], **options)[0].strip()
        assert files.transcribe(part) == text
        assert text


def test_a_student_of_whisper_of_any_length(tmp_path: Path, speech_folder: Path) -> None:
    """It hears the recording alone, and the file fills the frames after the end."""
    host = load_host(made("whisper", tmp_path / "host"))
    assert host is not None
    assert isinstance(host.encoder, Encoder)
    student = Encoder(dataclasses.replace(host.encoder.config, window=0))
    student.load_state_dict(host.encoder.state_dict())
    host.put(student.eval(), nn.Identity())
    path = export_whole(host.eval(), tmp_path / "out", "fp32", speech_folder, 3, lambda text: None)
    check = json.loads((path.parent / "model.check.json").read_text())
    assert check["equal"] == check["recordings"]
    assert json.loads((path.parent / "model.json").read_text())["longest"] == 148 * 320 - 1_600


def test_the_bytes_of_tokens(tmp_path: Path) -> None:
    """Of the three kinds of tokenizers, the same text."""
    texts = {}
    for kind in ("whisper", "moonshine"):
        folder = made(kind, tmp_path / kind, pieces=True)
        host = load_host(folder)
        assert host is not None
        tokens = spelled(host.tokenizer)
        ids = [1, 3, 6, 3, 4, 5, 7, 2]
        texts[kind] = "".join(tokens[i] for i in ids).encode("latin-1").decode().strip()
        assert texts[kind] == host.texts(torch.tensor([ids]))[0].strip()
    assert texts == {"whisper": "a éb", "moonshine": "a éb"}
    host = load_host(made("ctc", tmp_path / "ctc"))
    assert host is not None
    assert spelled(host.tokenizer, frames=True)[:4] == ["", "<unk>", " ", "a"]
    assert decoding(host) == {"blank": 0}


def test_what_cannot_be_exported_whole_is_refused(tmp_path: Path, speech_folder: Path) -> None:
    source = made("moonshine", tmp_path / "host")
    with pytest.raises(
        ValueError, match="a whole model is exported in fp32 or int8, not in fp16; --layer last exports its encoder"
    ):
        export(source, out=tmp_path / "out", data=speech_folder, precision="fp16")
    assert not list((tmp_path / "out").glob("*"))
