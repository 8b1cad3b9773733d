"""CTC tasks: decoding, heads, targets, and that probes learn what the features say and nothing else."""

from __future__ import annotations

import importlib.util
import json
import random
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sottovoce.core.config import ConfigError, build
from sottovoce.data import Recording, Recordings, espeak
from sottovoce.data.phones import phones
from sottovoce.evaluation.features.store import FeatureStore
from sottovoce.evaluation.heads.schedule import Training
from sottovoce.evaluation.kinds.ctc import BLSTM, FrameClassifier, Masks, ctc_loss, greedy, stack, stretches
from sottovoce.evaluation.kinds.probing import ProbeTask, Unusable
from sottovoce.evaluation.kinds.task import Outcome, Workbench
from sottovoce.evaluation.statistics.texts import normalized
from sottovoce.tasks.asr import SpeechRecognition
from sottovoce.tasks.pr import PhoneRecognition
from sottovoce.tasks.sf import Request, SlotFilling, read_slots, slots_in, tagged
from tests.unit.probing_helpers import levels_subject, recording

needs_espeak = pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="espeak-ng is not installed")
NO_MASKS = Masks(0, 0, 0, 0)
SMALL: dict[str, Any] = {"projector": 32, "layers": 1, "units": 24, "dropout": 0.0, "masks": NO_MASKS}
QUICK = Training(lrs=(0.02,), steps=80, batch=5, evaluate_every=20)


def measure(task: ProbeTask, recordings: list[Recording], folder: Path) -> Outcome:
    return task.measure(levels_subject(), Recordings(recordings), Workbench(FeatureStore(folder / "features"), seeds=(1,)))


def spoken(folder: Path, name: str, text: str, fields: Mapping[str, str]) -> Recording:
    """A recording of the text, A as level 1 and so on."""
    return recording(folder, name, [27 if c == " " else string.ascii_uppercase.index(c) + 1 for c in text], fields)


def corpus(folder: Path, texts: list[str], fields: Callable[[int], Mapping[str, str]]) -> list[Recording]:
    """Every text once in each split."""
    splits = ("train", "dev", "test")
    return [
        spoken(folder, f"{split}{i}", text, {"split": split, **fields(i)}) for split in splits for i, text in enumerate(texts)
    ]


def words(count: int, letters: str = "ABCDEFGH", seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join("".join(draw.choices(letters, k=3)) for _ in range(3)) for _ in range(count)]


# Decoding and loss


def test_greedy_takes_out_repetitions_then_blanks_and_stops_at_the_end() -> None:
    best = torch.tensor([[1, 1, 0, 1, 2, 2, 0, 3], [0, 0, 3, 3, 3, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]])
    log_probs = torch.nn.functional.one_hot(best, 4).float().log_softmax(-1)
    assert greedy(log_probs, torch.tensor([8, 5, 8])) == [[1, 1, 2, 3], [3], []]


def test_more_tokens_than_frames_cost_nothing() -> None:
    log_probs = torch.zeros(2, 3, 4).log_softmax(-1).requires_grad_()
    loss = ctc_loss(log_probs, torch.tensor([3, 3]), [[1, 2, 3, 1], [1, 2]], "none")
    assert loss[0] == 0
    # Of the 4^3 paths, those that read "1 2": 112, 122, 012, 102, 120.
    assert loss[1].item() == pytest.approx(-np.log(5 / 64), abs=1e-5)


# Heads


@pytest.mark.parametrize("subsample", [1, 2, 3])
@pytest.mark.parametrize("head", ["linear", "blstm"])
def test_padding_changes_nothing(head: str, subsample: int) -> None:
    torch.manual_seed(0)
    net = FrameClassifier(6, 5, 4) if head == "linear" else BLSTM(6, 5, 4, 2, 3, 0.2, subsample, Masks())
    net.eval()
    x, lengths = torch.randn(3, 11, 6), torch.tensor([11, 7, 4])
    together, frames = net(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, own = net(x[row : row + 1, :length], torch.tensor([length]))
        assert own.item() == frames[row].item()
        torch.testing.assert_close(together[row, : own.item()], alone[0])


def test_the_blstm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    net = BLSTM(6, 5, 4, 1, 3, 0.0, 1, NO_MASKS).eval()
    reference = torch.nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    weights = {
        f"{name}{end}": value
        for end, part in (("", net.ahead[0]), ("_reverse", net.back[0]))
        for name, value in part.state_dict().items()
    }
    reference.load_state_dict(weights)
    x, lengths = torch.randn(2, 9, 6), torch.tensor([9, 5])
    packed = torch.nn.utils.rnn.pack_padded_sequence(net.projector(x), lengths, batch_first=True)
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    found, _ = net(x, lengths)
    torch.testing.assert_close(found[1, :5], net.output(wanted).log_softmax(-1)[1, :5])
    torch.testing.assert_close(found[0], net.output(wanted).log_softmax(-1)[0])


def test_stacking_keeps_every_frame() -> None:
    x = torch.arange(1.0, 11.0).reshape(2, 5, 1)
    stacked, lengths = stack(x, torch.tensor([5, 3]), 2)
    assert stacked.tolist() == [[[1, 2], [3, 4], [5, 0]], [[6, 7], [8, 0], [0, 0]]]
    assert lengths.tolist() == [3, 2]


def test_masks_hide_stretches_of_what_is_there() -> None:
    torch.manual_seed(0)
    ends = torch.tensor([50, 7] * 200)
    hidden = stretches(400, 50, ends, 1, 10)
    assert hidden.sum(1).max() <= 10
    assert hidden.sum(1).min() == 0
    assert not hidden[1::2, 7:].any()
    assert hidden[::2, 40:].any()
    x = torch.ones(4, 20, 8)
    assert (NO_MASKS.apply(x, torch.full((4,), 20)) == x).all()
    assert Masks().apply(x, torch.full((4,), 20)).eq(0).any()


# Learning


def test_speech_recognition_learns_what_the_features_say(tmp_path: Path) -> None:
    texts = words(10)
    recordings = corpus(tmp_path, texts, lambda i: {"text": texts[i].lower() + "."})
    task = SpeechRecognition(SpeechRecognition.Config(training=QUICK, **SMALL))
    outcome = measure(task, recordings, tmp_path)
    wer, cer = outcome.measures
    assert (wer.metric.name, cer.metric.name) == ("wer", "cer")
    assert wer.value <= 5
    assert cer.value <= 2
    assert outcome.details["alphabet"] == len(set("".join(texts)))
    assert outcome.details["schedule"]["name"] == "steps"


def test_other_peoples_texts_teach_nothing(tmp_path: Path) -> None:
    def labels(text: str) -> dict[str, str]:
        return {"text": text, "phones": " ".join(text.replace(" ", ""))}

    letters = string.ascii_uppercase
    texts, others, unseen = (words(20, letters, seed) for seed in range(3))
    recordings = [item for item in corpus(tmp_path, texts, lambda i: labels(others[i])) if item.fields["split"] != "test"]
    recordings += [spoken(tmp_path, f"new{i}", text, {"split": "test", **labels(text)}) for i, text in enumerate(unseen)]
    for task in (
        SpeechRecognition(SpeechRecognition.Config(training=QUICK, **SMALL)),
        PhoneRecognition(PhoneRecognition.Config(training=QUICK, projector=16)),
    ):
        assert measure(task, recordings, tmp_path).measures[0].value >= 90


# Texts


def test_normalized_keeps_letters_digits_and_apostrophes() -> None:
    assert normalized("  It’s a well-known   naïve fact, №2! ") == "IT'S A WELL KNOWN NAÏVE FACT NO2"


def test_a_text_without_letters_cannot_be_used() -> None:
    task = SpeechRecognition(SpeechRecognition.Config())
    with pytest.raises(Unusable, match="no letters"):
        task.target(Recording("a", "a.wav", fields={"text": "..."}))
    with pytest.raises(Unusable, match="no text"):
        task.target(Recording("a", "a.wav"))


# Phones


def phone_task(recordings: list[Recording], **config: Any) -> tuple[PhoneRecognition, Recordings]:
    task = PhoneRecognition(PhoneRecognition.Config(**config))
    return task, task.arrange(Recordings(recordings))


def test_phones_come_from_the_lexicon(tmp_path: Path) -> None:
    lexicon, more = tmp_path / "lexicon.txt", tmp_path / "more.txt"
    lexicon.write_text("READ  R EH1 D\nREAD  R IY1 D\nIT'S\tIH1 T S\n")
    more.write_text("read  X\nbooks  B UH1 K S\n")
    said = Recording("a", "a.wav", fields={"text": "It's read, books"})
    other = Recording("b", "b.wav", fields={"text": "read papers"})
    config = {"lexicon": (str(lexicon), str(more))}
    task, found = phone_task([said, other], **config)
    assert task.target(found[0]) == ["IH1", "T", "S", "R", "EH1", "D", "B", "UH1", "K", "S"]
    with pytest.raises(Unusable, match="PAPERS is not in the lexicon"):
        task.target(found[1])
    task, found = phone_task([said], stress=False, **config)
    assert task.target(found[0]) == ["IH", "T", "S", "R", "EH", "D", "B", "UH", "K", "S"]


def test_a_broken_lexicon_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="no lexicon"):
        phone_task([], lexicon=(str(empty),))
    with pytest.raises(ValueError, match="cannot read"):
        phone_task([], lexicon=(str(tmp_path / "none.txt"),))
    with pytest.raises(ConfigError, match="name a file"):
        build(PhoneRecognition.Config, {"g2p": "lexicon"})


def test_the_column_phones_wins_and_is_the_only_source() -> None:
    with_phones = Recording("a", "a.wav", fields={"phones": "a b  c", "text": "abc"})
    without = Recording("b", "b.wav", fields={"text": "abc"})
    task, found = phone_task([with_phones, without], lexicon=("unread",))
    assert task.target(found[0]) == ["a", "b", "c"]
    with pytest.raises(Unusable, match="no phones"):
        task.target(found[1])


@needs_espeak
def test_espeak_gives_phones_without_stress() -> None:
    found = phones(["MISTER QUILTER, US", "mister", ""])
    assert found[0][:5] == ["m", "ɪ", "s", "t", "ɚ"]
    assert found[0][-2:] == ["ʌ", "s"], "capitals are not spelled out"
    assert found[1:] == [found[0][:5], []]
    assert phones(["Weekend"], "de")[0], "words of another language are marked, and the marks are no phones"
    assert not {"(", ")", "(en)", "(de)"} & set(phones(["das Weekend"], "de")[0])
    with pytest.raises(ValueError, match="no voice 'xx'"):
        phones(["a"], "xx")


@needs_espeak
def test_phones_of_all_recordings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = espeak.run
    monkeypatch.setattr(espeak, "run", lambda *args, **more: (calls.append(args), run(*args, **more)))
    items = [Recording(f"{i}", "a.wav", fields={"text": text, "language": language}) for i, (text, language) in enumerate(
        [("good day", "en"), ("guten Tag", "de"), ("", "en"), ("good", "")]
    )]  # fmt: skip
    task, found = phone_task(items)
    assert len(calls) == 2, "one process for each language"
    targets = [task.target(found[i]) for i in (0, 1, 3)]
    assert targets[0] == ["ɡ", "ʊ", "d", "d", "eɪ"]
    assert targets[1][-3:] == ["t", "ɑː", "k"]
    assert targets[2] == ["ɡ", "ʊ", "d"]
    with pytest.raises(Unusable, match="no phones"):
        task.target(found[2])


def test_without_espeak_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "sottovoce\[demo\]"'):
        phone_task([Recording("a", "a.wav", fields={"text": "day"})])


# Slots


def test_slots_with_a_transcript_stand_in_it() -> None:
    request = Request([("artist", "THE BAND"), ("city", "ROME")], "PLAY THE BAND IN ROME")
    wanted = [*"PLAY|", "B-artist", *"THE|BAND", "E-artist", *"|IN|", "B-city", *"ROME", "E-city"]
    assert tagged(request) == wanted
    assert slots_in(wanted) == request.slots
    assert tagged(Request([], "PLAY IT")) == [*"PLAY|IT"]
    for slots in ([("city", "PARIS")], [("city", "ROME"), ("artist", "THE BAND")]):
        with pytest.raises(Unusable, match="a slot that the text does not have"):
            tagged(Request(slots, request.text))


def test_slots_without_a_transcript_are_all_that_is_said() -> None:
    task = SlotFilling(SlotFilling.Config(field="extra"))
    item = Recording("a", "a.wav", fields={"extra": '{"size": "twelve ounce", "milk": "soy & oat"}'})
    request = task.target(item)
    assert request == Request([("size", "TWELVE OUNCE"), ("milk", "SOY AND OAT")])
    assert task.tokens(request) == ["B-size", *"TWELVE|OUNCE", "E-size", "B-milk", *"SOY|AND|OAT", "E-milk"]


@pytest.mark.parametrize("text", ["light roast", "[1]", '{"size": "?"}', "3"])
def test_broken_slots_cannot_be_used(text: str) -> None:
    with pytest.raises(Unusable, match="slot"):
        read_slots(text)


def test_half_slots_count_for_nothing() -> None:
    assert slots_in(["B-a", *"X|Y", "B-b", *"Z", "E-a", "E-b"]) == [("a", "X YZ")]
    assert slots_in(["B-a", *"X", "B-b", *"Z", "E-b", "E-c"]) == [("b", "Z")]
    assert slots_in(["B-a", "E-a", "E-a"]) == []


ORDERS = (("p", "q", "r"), ("r", "p", "q"), ("q", "r", "p"), ("r", "q", "p"))


def orders_corpus(folder: Path) -> tuple[list[Recording], dict[str, list[str]]]:
    """Coffee orders whose slots are listed by name and spoken in another order, which comes back too."""
    draw, made, orders = random.Random(0), [], {}
    for split, count in (("train", 40), ("dev", 10), ("test", 10)):
        for i in range(count):
            values = {
                slot: draw.choice(letters) for slot, letters in (("p", ("AB", "BA")), ("q", ("CD", "DC")), ("r", ("EF", "FE")))
            }
            order = draw.choice(ORDERS)
            name = f"{split}{i}"
            orders[name] = list(order)
            text = "".join(values[slot] for slot in order)
            made.append(spoken(folder, name, text, {"split": split, "slots": json.dumps(values)}))
    return made, orders


def test_the_free_order_is_the_spoken_one(tmp_path: Path) -> None:
    recordings, orders = orders_corpus(tmp_path)
    training = Training(lrs=(0.02,), steps=240, batch=10, evaluate_every=40)
    task = SlotFilling(SlotFilling.Config(training=training, order="free", warm_up=40, **SMALL))
    outcome = measure(task, recordings, tmp_path)
    f1, cer = outcome.measures
    assert (f1.metric.name, cer.metric.name) == ("slot_f1", "slot_value_cer")
    assert f1.value >= 98
    assert cer.value <= 5
    names = [item.id for item in recordings if item.fields["split"] == "train"]
    found = [
        [task.alphabet[i - 1].removeprefix("B-") for i in label.ids if task.alphabet[i - 1].startswith("B-")]
        for label in task.unordered
    ]
    right = sum(order == orders[name] for name, order in zip(names, found, strict=True))
    assert right >= 38, f"{right} of 40 orders found"
    task.head(4)
    assert all(label.ids == [i for part in label.parts for i in part] for label in task.unordered), "every trial begins anew"
