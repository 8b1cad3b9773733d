"""The host of the main teacher, a recogniser or a classifier, with the student inside."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sottovoce.core.registry import suggestion
from sottovoce.core.types import SAMPLE_RATE, Batch, Features, Labels, Outputs
from sottovoce.objectives import EncoderShape
from sottovoce.objectives.alignment import alignable
from sottovoce.objectives.base import identity_
from sottovoce.train.recipe import HostChoice

if TYPE_CHECKING:  # imports transformers, which takes seconds
    from sottovoce.hosts.base import Host

TOKENS_A_SECOND, SPARE_TOKENS = 10, 10  # the most that a transcript may have


def transcript(host: Host, features: Features, batch: Batch, choice: HostChoice) -> Tensor | None:
    """The host's own greedy transcript (B, L); ``None`` for a host that does not answer with tokens."""
    if host.answers != "tokens":
        return None
    return host.greedy(features, batch, max_new_tokens=int(most_tokens(batch).max()), **host.asked(choice.task, choice.language))


def most_tokens(batch: Batch) -> Tensor:
    """(B,) the most tokens that a transcript of each recording may have: more are a decoder that repeats itself."""
    samples = (
        torch.full((len(batch.wave),), batch.wave.shape[1], device=batch.wave.device) if batch.lengths is None else batch.lengths
    )
    return SPARE_TOKENS + samples * TOKENS_A_SECOND // SAMPLE_RATE


def within(outputs: Outputs, batch: Batch) -> Outputs:
    """Outputs along a transcript without those beyond `most_tokens`, so that a recording counts the same beside a longer one."""
    return Outputs(outputs.logits, outputs.valid & (outputs.valid.cumsum(1) <= most_tokens(batch)[:, None]))


def say(host: Host, features: Features, batch: Batch, tokens: Tensor | None) -> Outputs:
    """What the host says. Where each class is a question of its own (who speaks in a frame), its yes and no are an output: (B, N C, 2)."""
    outputs = host.outputs(features, batch, tokens)
    if not host.independent:
        return outputs
    logits, valid = outputs.logits.flatten(1), outputs.valid.repeat_interleave(outputs.logits.shape[2], 1)
    return Outputs(torch.stack([logits, torch.zeros_like(logits)], dim=-1), valid)


def labels_of(host: Host, batch: Batch, choice: HostChoice) -> Labels:
    """What the data say that the host should say.

    Rows without text or label, with characters that the host's tokenizer does not know, or with more tokens than the host can say are not
    valid. ValueError for a class that the host does not know, and for a host whose labels are not in manifests.
    """
    device = batch.wave.device
    if host.answers == "classes":
        config: Any = host.rest.config
        classes = {str(name): int(index) for name, index in config.label2id.items()}
        for name in batch.labels:
            if name and name not in classes:
                raise ValueError(f"the host has no class '{name}'{suggestion(name, classes)}")
        ids = torch.tensor([[classes.get(name, 0)] for name in batch.labels], device=device)
        return Labels("classes", ids, torch.tensor([[bool(name)] for name in batch.labels], device=device))
    if not host.text:
        raise ValueError(f"a host of kind {host.name} learns labels of frames, which manifests do not have; leave task_loss out")
    options = host.asked(choice.task, choice.language)
    rows = [host.spelled(text, **options) if text else [] for text in batch.texts]
    longest = max(2, *map(len, rows))
    ids = torch.tensor([row + [host.end] * (longest - len(row)) for row in rows], device=device)
    sizes = torch.tensor([len(row) for row in rows], device=device)
    if host.answers == "tokens":
        return Labels("tokens", ids, host.chosen(ids) & (sizes > 0)[:, None])
    lengths = torch.full((len(rows),), batch.wave.shape[1]) if batch.lengths is None else batch.lengths
    frames = host.count(lengths).to(device)
    inside = torch.arange(longest, device=device) < sizes[:, None]
    return Labels("frames", ids, inside & alignable(rows, frames)[:, None], host.end)


class HostedStudent(nn.Module):
    """``hosted(features, batch, tokens)`` is what the teacher's host says with the student in the teacher's place.

    The student's last state goes through a projection into the teacher's space, through the teacher's final norm, and into what else the
    host has. The projection is that of an objective, or one of its own, which starts as the identity as far as widths allow. Of the host,
    only what is trained is a part of this module, and is saved with it.
    """

    def __init__(
        self, host: Host, student: EncoderShape, teacher: EncoderShape, shared: nn.Linear | None, train: str = "none"
    ) -> None:
        """teacher: at the student's frame rate. shared: the projection of an objective. ValueError if the host has no such part to train,
        reads all layers of its encoder, or hears frames between the student's."""
        super().__init__()
        if host.sums_layers:
            raise ValueError(
                "the host's head reads a weighted sum of the teacher's layers, which a student of other layers does not have; "
                "leave out objectives that learn from the host's outputs"
            )
        if teacher.rate:
            raise ValueError(
                f"a frame of the student is as long as {teacher.rate:g} of the host's, which needs a whole number; choose another student"
            )
        self.own = None if shared is not None else identity_(nn.Linear(student.dim, teacher.dim), teacher)
        projection = shared if self.own is None else self.own
        assert projection is not None
        host, trained = with_trained(host, train)
        self.rest = nn.ParameterDict({name.replace(".", "/"): parameter for name, parameter in trained.items()})
        self._others = host, projection, host.way(projection, teacher.join)  # a tuple, so that they are no part of this module

    @property
    def host(self) -> Host:
        """The host; if a part of it is trained, one with a copy of the rest."""
        return self._others[0]

    @property
    def projection(self) -> nn.Linear:
        """From the student's last state into the teacher's space."""
        return self._others[1]

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors of the host's rest, by their names there."""
        return {name.replace("/", "."): parameter for name, parameter in self.rest.items()}

    def forward(self, features: Features, batch: Batch, tokens: Tensor | None = None) -> Outputs:
        return say(self.host, self.heard(features, batch), batch, tokens)

    def heard(self, features: Features, batch: Batch) -> Features:
        """The student's last state as the host reads it: in the teacher's space, on the teacher's frames, after the teacher's norm."""
        frontend = self.host.pretrained.shape.frontend
        frames = int(frontend.frames(batch.wave.shape[1]))
        x = self._others[2](features.hidden[-1])
        missing = frames - x.shape[1]  # models round the length of a recording differently
        x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1) if missing > 0 else x[:, :frames]
        return Features([x], None if batch.lengths is None else frontend.frames(batch.lengths), x, x)


def with_trained(host: Host, train: str) -> tuple[Host, dict[str, nn.Parameter]]:
    """The host, and its parameters to be trained, by name. They are those of a copy, so that what the teacher says stays as it is."""
    if train == "none":
        return host, {}
    parts = host.parts()
    if train not in parts:
        raise ValueError(f"host.train: a host of kind {host.name} has no {train} to train; choose {' or '.join(parts)} or none")
    mine = copy.copy(host)
    mine._modules = {**host._modules, "rest": copy.deepcopy(host.rest)}
    trained = {name: parameter for name, parameter in mine.rest.named_parameters() if name in parts[train]}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return mine, trained
