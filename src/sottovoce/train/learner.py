"""Student, objectives and mask vector in one module: everything that is trained, and how it is run on a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sottovoce.core.config import Component
from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Batch, Features, Loss
from sottovoce.data.augment import Augment
from sottovoce.encoder import Encoder
from sottovoce.objectives import Objective, Shape
from sottovoce.pruning import GatedEncoder
from sottovoce.train.recipe import Masking

Teach = Callable[
    [Batch, Tensor | None, bool], Features
]  # the teacher on a batch, its frames masked or not, feed-forward outputs or not


@dataclass(frozen=True)
class Drawn:
    """A batch with what is drawn for it before the forward pass.

    heard: (B, S), what the student hears; the batch itself unless it is augmented. valid, mask: (B, T) bool; mask is ``None`` when no
    objective masks.
    """

    batch: Batch
    heard: Tensor
    valid: Tensor
    mask: Tensor | None


class Learner(nn.Module):
    """``learner(drawn, learner.targets(drawn, teach))`` -> a `Loss` per objective.

    `student` is an `Encoder`, or a `GatedEncoder` while pruning.
    """

    def __init__(
        self,
        encoder: Encoder,
        objectives: Mapping[str, Component],
        teacher: Shape | None,
        masking: Masking,
        augment: Augment | None = None,
    ) -> None:
        super().__init__()
        shape = Shape(encoder.config.dim, len(encoder.config.layers), encoder.config.frontend.stride)
        teacher = shape if teacher is None else teacher.for_student(shape)
        self.student: Encoder | GatedEncoder = encoder
        self.objectives = nn.ModuleDict(
            {name: OBJECTIVES.get(part.name)(part.config, shape, teacher) for name, part in objectives.items()}
        )
        self.join = teacher.join  # frames of the teacher for each of the student's
        self.kept: dict[str, list[int]] = {}  # of the student as the stage began, when units were cut for good since
        self.compiled: Callable[..., Features] | None = None  # the student by torch.compile, where it is to be run so
        self.masking, self.augment = masking, augment or Augment()
        self.mask_vector = nn.Parameter(torch.empty(shape.dim).uniform_()) if any(self._each("masked")) else None

    def _each(self, attribute: str) -> list[bool]:
        return [bool(getattr(objective, attribute)) for objective in self.objectives.values()]

    @property
    def needs_teacher(self) -> bool:
        return any(self._each("needs_teacher"))

    @property
    def encoder(self) -> Encoder:
        """The student's own encoder, without gates."""
        return self.student.encoder if isinstance(self.student, GatedEncoder) else self.student

    def draw(self, batch: Batch) -> Drawn:
        """Valid frames, what the student hears and, where an objective wants it, a fresh span mask."""
        frontend = self.encoder.config.frontend
        frames, device = int(frontend.frames(batch.wave.shape[1])), batch.wave.device
        valid = torch.ones(len(batch.wave), frames, dtype=torch.bool, device=device)
        if batch.lengths is not None:
            valid = torch.arange(frames, device=device) < frontend.frames(batch.lengths)[:, None]
        heard = self.augment(batch.wave, batch.lengths) if self.training else batch.wave
        if self.mask_vector is None:
            return Drawn(batch, heard, valid, None)
        starts = torch.rand(valid.shape, device=device) < self.masking.share / self.masking.span
        ends = nn.functional.pad(starts.cumsum(1), (self.masking.span, 0))[:, :frames]
        return Drawn(batch, heard, valid, (starts.cumsum(1) > ends) & valid)

    def recall(self, trained: Mapping[str, Tensor]) -> None:
        """Takes over what earlier stages trained, as far as this learner has it."""
        mine = self.state_dict()
        self.load_state_dict({**mine, **{key: value for key, value in trained.items() if key in mine}})

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        """Trained maps into the teacher's space, and the student layers each serves. Of several for one layer the first counts."""
        maps: dict[str, nn.Linear] = {}
        layers: dict[str, list[int]] = {}
        for objective in self._objectives():
            found, serves = objective.projections()
            for name, linear in found.items():
                new = [layer for layer in serves[name] if not any(layer in known for known in layers.values())]
                if new:
                    key = name if name not in maps else f"{objective.name}-{name}"
                    maps[key], layers[key] = linear, new
        return maps, layers

    def counts(self, drawn: Drawn) -> Tensor:
        """(objectives,) frames that each objective will sum over in this batch."""
        return torch.stack([objective.frames(drawn.valid, drawn.mask).sum() for objective in self._objectives()])

    def _objectives(self) -> list[Objective]:
        return [objective for objective in self.objectives.values() if isinstance(objective, Objective)]

    def targets(self, drawn: Drawn, teach: Teach) -> dict[bool, Features]:
        """What the teacher says of the batch, on the student's frames; empty when no objective wants it.

        Under ``False`` of the clean audio; under ``True``, for objectives with ``masked_teacher``, the same at masked frames, and at
        the others what it says of the audio with the mask on it.
        """
        if not self.needs_teacher:
            return {}
        frames, taps = drawn.valid.shape[1], any(self._each("teacher_taps"))
        clean = teach(drawn.batch, None, taps).on_frames(frames, self.join)
        if not any(self._each("masked_teacher")):
            return {False: clean}
        assert drawn.mask is not None
        hidden, over = drawn.mask[..., None], drawn.mask if self.join == 1 else drawn.mask.repeat_interleave(self.join, 1)
        masked = teach(drawn.batch, over, taps).on_frames(frames, self.join)

        def mix(of_clean: list[Tensor], of_masked: list[Tensor]) -> list[Tensor]:
            return [torch.where(hidden, x, y) for x, y in zip(of_clean, of_masked, strict=True)]

        embedded, last = mix([clean.embedded, clean.last], [masked.embedded, masked.last])
        mixed = Features(mix(clean.hidden, masked.hidden), clean.lengths, embedded, last, mix(clean.ffn, masked.ffn))
        return {False: clean, True: mixed}

    def forward(self, drawn: Drawn, targets: Mapping[bool, Features]) -> dict[str, Loss]:
        losses: dict[str, Loss] = {}
        seen: dict[bool, Features] = {}
        for name, objective in zip(self.objectives, self._objectives(), strict=True):
            if objective.masked not in seen:  # one student pass for all clean objectives, one for all masked ones
                mask, vector = (drawn.mask, self.mask_vector) if objective.masked else (None, None)
                student = self.compiled or self.student
                seen[objective.masked] = student(drawn.heard, drawn.batch.lengths, mask=mask, mask_vector=vector)
            teacher = targets.get(objective.masked_teacher)
            losses[name] = objective(seen[objective.masked], teacher, objective.frames(drawn.valid, drawn.mask), drawn.batch)
        return losses
