"""Text decoders: padding changes nothing, step by step is all at once, units come back as the text they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sottovoce.evaluation.heads.decoder import Adapter, Decoder, PretrainedDecoder
from sottovoce.evaluation.heads.text_units import Characters, PretrainedTokens, SubWords
from tests.unit.probing_helpers import gpt

TEXTS = ["le chat dort.", "le chien  voit\tle chat", "Où est-ce que l'été dort ?", "ça va, œuf"]


def decoder(classes: int = 11) -> Decoder:
    return Decoder(classes, 1, 0, 16, 2, 4, 32, 0.1).eval()


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_the_adapter_does_not_see_padding(stride: int) -> None:
    net = Adapter(6, 8, stride).eval()
    x, frames = torch.randn(3, 21, 6), torch.tensor([21, 12, 5])
    together, lengths = net(x, frames)
    assert lengths.tolist() == [-(-n // stride) for n in frames.tolist()]
    for row, length in enumerate(frames.tolist()):
        alone, own = net(x[row : row + 1, :length], frames[row : row + 1])
        torch.testing.assert_close(together[row, : own.item()], alone[0, : own.item()])


def test_the_adapter_refuses_other_strides() -> None:
    with pytest.raises(ValueError, match="power of 2, not 3"):
        Adapter(6, 8, 3)


def check_rows_alone(net: Any) -> None:
    """A row says the same alone and beside longer ones, whatever stands in the padding, all at once and step by step."""
    speech, frames = torch.randn(3, 9, net.width), torch.tensor([9, 4, 6])
    tokens = torch.randint(2, 11, (3, 5))
    tokens[:, 0] = net.start
    together = net(tokens, speech, frames)
    for row, length in enumerate(frames.tolist()):
        alone = net(tokens[row : row + 1, :3], speech[row : row + 1, :length], frames[row : row + 1])
        torch.testing.assert_close(together[row, :3], alone[0], rtol=1e-4, atol=1e-4)
    state = net.begin(speech, frames)
    for i in range(5):
        found, state = net.step(tokens[:, i], state)
        torch.testing.assert_close(found, together[:, i].log_softmax(-1), rtol=1e-4, atol=1e-4)
    order = torch.tensor([2, 0, 0])
    picked, _ = net.step(tokens[order, 4], net.pick(state, order))
    direct, _ = net.step(tokens[:, 4], state)
    torch.testing.assert_close(picked, direct[order], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_decoder_does_not_see_padding() -> None:
    check_rows_alone(decoder())


@torch.no_grad()
def test_the_decoder_does_not_see_what_comes_later() -> None:
    net, speech, frames = decoder(), torch.randn(1, 6, 16), torch.tensor([6])
    one, two = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 9, 9]])
    torch.testing.assert_close(net(one, speech, frames)[:, :2], net(two, speech, frames)[:, :2])


@pytest.fixture(scope="module")
def gpt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt(tmp_path_factory.mktemp("gpt"), TEXTS)


@torch.no_grad()
def test_a_decoder_of_transformers_attends_to_speech(gpt_folder: Path) -> None:
    units = PretrainedTokens(str(gpt_folder))
    assert (units.start, units.end) == (1, 0)
    net = PretrainedDecoder(str(gpt_folder), units.start, units.end).eval()
    assert net.width == 16
    check_rows_alone(net)
    tokens, frames = torch.tensor([[1, 4, 5]]), torch.tensor([6])
    one, two = (net(tokens, torch.randn(1, 6, 16), frames) for _ in range(2))
    assert not torch.allclose(one, two), "what is said depends on the speech"


def test_a_decoder_that_cannot_listen_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot attend to speech"):
        PretrainedDecoder(str(tmp_path), 1, 0)
    with pytest.raises(ValueError, match="cannot load"):
        PretrainedDecoder(str(tmp_path / "nothing"), 1, 0)
    with pytest.raises(ValueError, match="cannot load"):
        PretrainedTokens(str(tmp_path / "nothing"))


def test_units_give_the_text_back() -> None:
    for units in (Characters(TEXTS), SubWords(TEXTS, 40), SubWords(TEXTS, 1000)):
        for text in TEXTS:
            ids = units.encode(text)
            assert units.decode(ids) == " ".join(text.split())
            assert units.decode([*ids, units.end]) == " ".join(text.split()), "the end is not spelled"
            assert all(1 < i < units.size for i in ids)
        assert units.decode(units.encode("le chat ψ dort")) == "le chat dort", "unknown letters are left out"


def test_units_of_a_model_give_the_text_back(gpt_folder: Path) -> None:
    units = PretrainedTokens(str(gpt_folder))
    assert units.decode([*units.encode("le chat dort"), units.end]) == "le chat dort"


def test_sub_words_are_learned_and_the_same_every_time() -> None:
    one, two = SubWords(TEXTS * 3, 60), SubWords(TEXTS * 3, 60)
    assert one.size == two.size <= 60
    assert [one.encode(text) for text in TEXTS] == [two.encode(text) for text in TEXTS]
    assert len(one.encode("le chat dort")) < len("le chat dort")
