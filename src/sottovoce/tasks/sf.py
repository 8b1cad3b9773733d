"""Slot filling (SUPERB SF): names and values of the slots in a spoken request."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from sottovoce.core.registry import TASKS
from sottovoce.data import Recording
from sottovoce.evaluation.kinds.classification import field
from sottovoce.evaluation.kinds.ctc import CTC, SPACE, Label, Outputs, Recurrent, ctc_loss, spelled
from sottovoce.evaluation.kinds.probing import Fold, Rows, Unusable
from sottovoce.evaluation.kinds.task import Metric
from sottovoce.evaluation.statistics.bootstrap import ratio
from sottovoce.evaluation.statistics.metrics import slot_f1, slot_value_cer
from sottovoce.evaluation.statistics.texts import normalized

BEGIN, END = "B-", "E-"
Slots = list[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """slots: (name, value) in order. text: the transcript, "" if unknown. Values and text are normalised."""

    slots: Slots
    text: str = ""


@dataclass
class UnorderedLabel(Label):
    """A label whose order of slots is learned. parts: the tokens of each slot. seen: how often it was in a batch."""

    parts: list[list[int]]
    seen: int = 0


@TASKS.register("sf")
class SlotFilling(CTC):
    """Slot filling: characters and slot tags with CTC; F1 of the slot types and character error rate of the slot values.

    With a transcript in the field ``text``, tags surround the words of each slot, as in SUPERB (and Lai et al. 2021). Without one (not in
    SUPERB), the model outputs only the slots.
    """

    title = "Slot filling"
    reads = "slots in a column 'slots' (JSON: a list of [slot, value] or an object), with the transcript in a column 'text' if it is known"
    metrics = (Metric("slot_f1"), Metric("slot_value_cer", better="lower"))

    @dataclass(frozen=True)
    class Config(Recurrent):
        """SUPERB's values (s3prl, ctc/snips); its masks grow with the recording there.

        field: the column with the slots. order: "given", or "free" if the spoken order of slots without a transcript is unknown. Then an
        utterance is trained with the order of its slots that is likeliest under the model, among at most `max_orders` (the last one
        and random ones). It is chosen again at each `revisit`-th use. In its first `warm_up` uses the order is random, since an
        untrained model would settle on any order. Scores ignore the order.
        """

        field: str = "slots"
        order: Literal["given", "free"] = "given"
        max_orders: int = 24
        revisit: int = 2
        warm_up: int = 6

        def __post_init__(self) -> None:
            if min(self.max_orders, self.revisit) < 1:
                raise ValueError("max_orders and revisit must be at least 1")

    def target(self, recording: Recording) -> Request:
        slots = read_slots(field(recording, self.config.field))
        request = Request(slots, normalized(recording.fields.get("text", "").replace("&", " and ")))
        if request.text:
            tagged(request)  # raises Unusable if a slot is not in the text
        return request

    def tokens(self, answer: Request) -> list[str]:
        if answer.text:
            return tagged(answer)
        return [token for slot in answer.slots for token in _with_tags(*slot)]

    def prepare(self, fold: Fold) -> Fold:
        prepared = super().prepare(fold)
        self.unordered: list[UnorderedLabel] = []
        if self.config.order == "given":
            return prepared
        number = {token: i for i, token in enumerate(self.alphabet, 1)}
        train = []
        for item in prepared.train:
            request: Request = item.target.answer
            if not request.text and len(request.slots) > 1:
                parts = [[number[token] for token in _with_tags(*slot)] for slot in request.slots]
                self.unordered.append(UnorderedLabel(item.target.ids, request, parts))
                item = replace(item, target=self.unordered[-1])
            train.append(item)
        return replace(prepared, train=train)

    def head(self, dim: int) -> nn.Module:
        for label in self.unordered:  # a new head must not start with the orders of another
            label.ids, label.seen = _joined(label.parts, range(len(label.parts))), 0
        head: nn.Module = self.config.head(dim, len(self.alphabet) + 1)
        return head

    def loss(self, outputs: Outputs, lengths: Tensor, targets: list[Label]) -> Tensor:
        due = []
        for row, label in enumerate(targets):
            if isinstance(label, UnorderedLabel):
                if label.seen < self.config.warm_up:
                    label.ids = _joined(label.parts, torch.randperm(len(label.parts)).tolist())
                elif (label.seen - self.config.warm_up) % self.config.revisit == 0:
                    due.append((row, label))
                label.seen += 1
        if due:
            likeliest_order(outputs, due, self.config.max_orders)
        return super().loss(outputs, lengths, targets)

    def errors(self, answer: Request, tokens: list[str]) -> tuple[float, ...]:
        slots = slots_in(tokens)
        return (*slot_f1(answer.slots, slots), *slot_value_cer(answer.slots, slots))

    def scores(self, rows: Rows) -> tuple[float, ...]:
        return ratio(rows[:, :2]), ratio(rows[:, 2:])


@torch.no_grad()
def likeliest_order(outputs: Outputs, due: Sequence[tuple[int, UnorderedLabel]], most: int) -> None:
    """Sets each label to the order of its parts with the least CTC loss. due: (row of the outputs, label)."""
    log_probs, frames = outputs
    candidates = [[label.ids, *_orders(label.parts, most)] for _, label in due]
    rows = torch.tensor([row for (row, _), ids in zip(due, candidates, strict=True) for _ in ids], device=frames.device)
    losses = ctc_loss(log_probs.detach()[rows], frames[rows], [each for ids in candidates for each in ids], "none").tolist()
    for (_, label), ids in zip(due, candidates, strict=True):
        own, losses = losses[: len(ids)], losses[len(ids) :]
        label.ids = ids[own.index(min(own))]


def _orders(parts: list[list[int]], most: int) -> list[list[int]]:
    """All orders, or `most` - 1 random ones if there are more than `most`."""
    count = len(parts)
    if math.factorial(count) <= most:
        orders = list(itertools.permutations(range(count)))
    else:
        orders = [tuple(torch.randperm(count).tolist()) for _ in range(most - 1)]
    return [_joined(parts, order) for order in orders]


def _joined(parts: list[list[int]], order: Sequence[int]) -> list[int]:
    return [i for part in order for i in parts[part]]


def read_slots(text: str) -> Slots:
    """(slot, normalised value) of a JSON object or of a list of pairs. Raises Unusable."""
    try:
        parsed = json.loads(text)
        pairs = parsed.items() if isinstance(parsed, dict) else parsed
        slots = [(str(slot), normalized(str(value).replace("&", " and "))) for slot, value in pairs]
    except (TypeError, ValueError):
        raise Unusable("slots that are no JSON object or list of [slot, value]") from None
    if not all(value for _, value in slots):
        raise Unusable("a slot without a value")
    return slots


def tagged(request: Request) -> list[str]:
    """The tokens of the text with tags around the words of each slot. Raises Unusable if a slot is not in the text."""
    words = request.text.split()
    tokens, at = [], 0
    for slot, value in request.slots:
        words_of_slot = value.split()
        places = range(at, len(words) - len(words_of_slot) + 1)
        begin = next((i for i in places if words[i : i + len(words_of_slot)] == words_of_slot), None)
        if begin is None:
            raise Unusable("a slot that the text does not have, or not in this order")
        tokens += [*(_spaced(words[at:begin])), *_with_tags(slot, value), SPACE]
        at = begin + len(words_of_slot)
    return (tokens + _spaced(words[at:]))[:-1]


def slots_in(tokens: Sequence[str]) -> Slots:
    """The text between each begin tag and the next end tag of its slot, without other tags in it (as in s3prl)."""
    slots: Slots = []
    at = 0
    while at < len(tokens):
        name, begin = tokens[at].removeprefix(BEGIN), at + 1
        at = begin
        if name != tokens[begin - 1] and END + name in tokens[begin:]:
            end = begin + list(tokens[begin:]).index(END + name)
            value = "".join(token for token in tokens[begin:end] if len(token) == 1).replace(SPACE, " ").strip()
            if value:
                slots.append((name, value))
                at = end + 1
    return slots


def _with_tags(slot: str, value: str) -> list[str]:
    return [BEGIN + slot, *spelled(value), END + slot]


def _spaced(words: list[str]) -> list[str]:
    """The characters of the words, with a space after each word."""
    return [token for word in words for token in (*word, SPACE)]
