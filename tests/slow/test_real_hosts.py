"""Whisper tiny.en and Moonshine tiny as hosts, on speech: the logits and transcripts of transformers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
from torch import nn

from sottovoce.core.types import Batch
from sottovoce.hosts.load import load_host

SHARED = Path(__file__).parents[3] / "shared"
MODELS = Path(os.environ.get("SOTTOVOCE_MODELS", SHARED.parent / "models"))  # folders of real checkpoints


@pytest.mark.parametrize("name", ["whisper-tiny.en", "moonshine-tiny"])
@torch.no_grad()
def test_real_recognisers(name: str) -> None:
    folder = MODELS / name
    files = sorted((SHARED / "speech" / "librispeech_dev").rglob("*.opus"))[:2]
    if not folder.is_dir() or not files:
        pytest.skip(f"{folder} or speech in {SHARED} is not on this machine")
    rows = [torch.from_numpy(soundfile.read(file, frames=70_000 - 9_000 * i, dtype="float32")[0]) for i, file in enumerate(files)]
    sizes = torch.tensor([len(row) for row in rows])
    batch = Batch(nn.utils.rnn.pad_sequence(rows, batch_first=True), sizes)
    host = load_host(folder)
    assert host is not None
    features = host.listen(batch)
    tokens = host.greedy(features, batch)
    out = host.outputs(features, batch, tokens)
    # the most likely token, but for what is forbidden at the start
    assert (out.logits.argmax(-1) == tokens[:, 1:])[out.valid].float().mean() > 0.9
    texts = host.texts(tokens)
    for row, text in zip(tokens.tolist(), texts, strict=True):  # as labels, they are the tokens that the host says
        assert (ids := host.spelled(text)) == row[: len(ids)]

    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for i, row in enumerate(rows):
        given = extractor(row.numpy(), sampling_rate=16_000, return_tensors="pt")[model.main_input_name]
        right = model(given, decoder_input_ids=tokens[i : i + 1, :-1]).logits[0][out.valid[i]]
        assert (out.logits[i][out.valid[i]] - right).abs().max() < 2e-3
        assert tokenizer.decode(model.generate(given)[0], skip_special_tokens=True).strip() == texts[i]
        assert len(texts[i].split()) > 5
