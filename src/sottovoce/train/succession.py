"""What is kept of all that is trained when a student of another depth or width takes the place of the present one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

STUDENT = "student."  # in the names of the student's own tensors in a learner


def beside_student(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is trained beside the student: objectives, mask vector, the way into the host."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(STUDENT)}


def inherited(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], dims: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Values for the tensors `new`, taken from `old` in their order, and new name -> old name.

    dims: the dimensions that the student has of its former width; ``None``: all. ValueError if their number or their shapes differ, as
    with a map for each layer.
    """
    if len(old) == len(new):
        names = dict(zip(new, old, strict=True))
        values = {name: old[names[name]] if dims is None else narrowed(old[names[name]], new[name], dims) for name in new}
        if all(values[name].shape == new[name].shape for name in new):
            return values, names
    raise ValueError(
        "objectives have other maps in a student of another depth; name layers by shares of the depth, such as 1/3, not one by one"
    )


def former(name: str, layers: Sequence[int]) -> str:
    """The name of a tensor of an encoder, whose layer i was layer ``layers[i]``, before that."""
    if not name.startswith("layers."):
        return name
    _, number, rest = name.split(".", 2)
    return f"layers.{layers[int(number)]}.{rest}"


def narrowed(tensor: Tensor, like: Tensor, dims: Tensor) -> Tensor:
    """`tensor` with `dims` alone of each axis that is longer than that of `like`."""
    for axis, (size, wanted) in enumerate(zip(tensor.shape, like.shape, strict=True)):
        if size != wanted == len(dims):
            tensor = tensor.index_select(axis, dims.to(tensor.device))
    return tensor
