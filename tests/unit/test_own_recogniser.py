"""A student and the head that learned characters beside it, as a recogniser of transformers' kind."""

from __future__ import annotations

import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder
from sottovoce.hosts.load import load_host
from sottovoce.hosts.own import recogniser
from sottovoce.hosts.save import save_host
from sottovoce.train import api
from tests.conftest import tiny_shape
from tests.recipes.test_recipes import SMALL
from tests.unit.test_families import speech

CHARACTERS = " abcdefgh'"
ALONE = """
import sys
sys.modules["sottovoce"] = None  # as where it is not installed
import torch, transformers
model = transformers.AutoModelForCTC.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = transformers.AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
wave = torch.load(sys.argv[2], weights_only=True)
with torch.inference_mode():
    inputs = processor(list(wave.numpy()), sampling_rate=16000, return_tensors="pt", padding=True)
    print("|".join(processor.batch_decode(model(**inputs).logits.argmax(-1))))
"""


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(1)
    return Encoder(tiny_shape()).reset_parameters().eval()


def head_of(dim: int) -> nn.Linear:
    torch.manual_seed(2)
    linear = nn.Linear(dim, len(CHARACTERS) + 1)
    nn.init.normal_(linear.weight)
    return linear


def test_it_says_what_its_head_says_in_every_environment(encoder: Encoder, tmp_path: Path) -> None:
    head, wave = head_of(encoder.config.dim), speech([16_000, 16_000, 16_000])[0]
    with torch.no_grad():
        logits = head(encoder(wave).last)
    expected = ["".join(CHARACTERS[k - 1] for k, _ in groupby(row.argmax(-1).tolist()) if k).strip() for row in logits]
    assert any(" " in text for text in expected)
    made = recogniser(encoder, head, CHARACTERS, normalize=False, source="a teacher")
    save_host(tmp_path / "student", made, teacher="a teacher")
    host = load_host(tmp_path / "student")
    assert host is not None
    with torch.no_grad():
        said = host.outputs(host.listen(Batch(wave)), Batch(wave)).logits
    torch.testing.assert_close(said, logits)
    assert [" ".join(text.split()) for text in host.transcribe(wave)] == [" ".join(text.split()) for text in expected]
    assert host.spelled("ABBA") == [2, 3, 3, 2]
    assert type(transformers.AutoProcessor.from_pretrained(tmp_path / "student")).__name__ == "Wav2Vec2Processor"
    torch.save(wave, tmp_path / "wave.pt")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "student"), str(tmp_path / "wave.pt")]
    alone = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    assert [" ".join(text.split()) for text in alone.split("|")] == [" ".join(text.split()) for text in expected]


def test_a_space_needs_the_sign_that_stands_for_it(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match="hold both a space and"):
        recogniser(encoder, head_of(encoder.config.dim), " |", normalize=False, source="")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("host.keep=true", "will be a recogniser"),
        ("host.keep=false", ""),
        ("objectives.ctc.layer=1", "layer below the last"),
    ],
)
def test_the_last_head_that_was_trained_stays(
    option: str, said: str, teacher_folder: Path, speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "speech.tsv"
    rows = [f"{file}\tab ba" for file in sorted(speech_folder.glob("*.wav"))]
    manifest.write_text("\n".join(["path\ttext", *rows]) + "\n")
    options: dict[str, Any] = {"data": manifest, "out": tmp_path / "out", "device": "cpu", "keep": 0.7}
    result = api.compress(
        teacher_folder,
        recipe="hj-pruning",
        overrides=[*SMALL, "stages.prune.steps=3", "stages.prune.warmup=1", "pruning.ramp=2", option],
        **options,
    )
    assert said in capsys.readouterr().err
    host = load_host(result.out)
    assert (host is not None) == (option == "host.keep=true")
    if host is not None:
        assert "in the characters that its head has learned" in (result.out / "README.md").read_text()
