"""The way from the student's layers into the teacher's space: the projections that distillation trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class TeacherSpace(nn.ModuleDict):
    """Named linear maps of student width -> teacher width. `layers`: name -> the student layers that were distilled through it.

    join: frames of the teacher for each of the student's, which all come out of the one map (time reduction).

    A layer that was not distilled itself goes through the projection of the nearest distilled layer above it, and one above them
    all through the highest one's. Layer 0 (the front end) has another space than the layers: its projection serves nobody else,
    unless the same one was trained for other layers too.
    """

    def __init__(self, layers: Mapping[str, Sequence[int]], dim: int, teacher_dim: int, join: int = 1) -> None:
        super().__init__({name: nn.Linear(dim, teacher_dim * join) for name in layers})
        self.join = join
        self.owner = {index: name for name, indexes in layers.items() for index in indexes}

    def name_of(self, layer: int) -> str:
        """The projection that layer `layer` goes through."""
        if layer in self.owner:
            return self.owner[layer]
        others = sorted(index for index in self.owner if index > 0)
        above = [index for index in others if index > layer] or others[-1:]
        if not above:
            raise ValueError(
                f"this student has no projection into the teacher's space that suits layer {layer}; use space='student'"
            )
        return self.owner[above[0]]

    def forward(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """`Features.hidden`, each (B, T, student width) -> the same layers, each (B, join T, teacher width)."""
        said = [self[self.name_of(index)](x) for index, x in enumerate(hidden)]
        return [x.unflatten(2, (self.join, -1)).flatten(1, 2) for x in said] if self.join > 1 else said


def no_projections(what: str) -> ValueError:
    return ValueError(f"{what} was saved without projections into its teacher's space; use space='student'")


def check_space(space: str) -> None:
    if space not in ("student", "teacher"):
        raise ValueError(f"space='{space}' is not one of student, teacher")
