"""What a run will need, said before it begins: memory on each device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sottovoce.core.types import SAMPLE_RATE, Batch, Features
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning import encoder_cost, total
from sottovoce.train.recipe import Recipe
from sottovoce.train.teachers import Teacher

if TYPE_CHECKING:
    from sottovoce.hosts.base import Host

GIB = 2**30
ADAM = 16  # bytes per trained number: weight, gradient, two moments
HALF = 0.6  # of the activations are left under autocast, which keeps norms in full precision
LOADING = 10  # bytes per number of a teacher: the file in half precision, twice in full, on their way into the encoder
WORKING = 1.3  # times what is kept for the backward pass: gradients, objectives, temporary buffers, the allocator
BASE = 0.4 * GIB  # torch, libraries, what evaluation and report take at the end
SPOKEN = 5  # tokens that a decoder says in a second of speech
LOGITS = 4  # copies of a host's outputs: logits, two for their probabilities, a gradient
WORKER = 0.03 * GIB  # what a process that decodes has for itself


@dataclass(frozen=True)
class Memory:
    """Bytes. teachers: their weights, and their hidden states of one batch. student: weights, gradients, Adam's moments.
    activations: what one batch leaves for the backward pass. seconds: of audio in that batch. loading: the most that it takes to read the
    teachers in, before that. workers: of the processes that decode. host: what the teacher's host takes beside its encoder."""

    teachers: float
    student: float
    activations: float
    seconds: float = 0.0
    loading: float = 0.0
    workers: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        return BASE + self.workers + max(self.teachers + self.student + self.host + WORKING * self.activations, self.loading)

    def text(self) -> str:
        """One line for people."""
        batch = f"a batch of {self.seconds:.0f} s"
        parts = {"teacher": self.teachers, "student and optimiser": self.student, batch: WORKING * self.activations}
        parts |= {"host": self.host} if self.host else {}
        named = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts.items())
        return f"memory: about {self.total / GIB:.1f} GiB ({named})"

    def warning(self, free: float | None) -> str:
        """What to do when it will not fit; nothing when it will."""
        if free is None or self.total <= free:
            return ""
        return (
            f"only {free / GIB:.1f} GiB are free; if it does not fit, take a smaller data.seconds_per_batch (with stages.*.accumulate "
            "for the same updates), precision=bf16 or teacher_precision=bf16"
        )


def estimate(
    recipe: Recipe, student: Encoder, teachers: Iterable[Teacher], largest: tuple[int, int], host: Host | None = None
) -> Memory:
    """What training `student` by `recipe` takes, with these teachers. Those of unknown shape count nothing.

    largest: rows and samples of the largest batch. host: what an objective learns from. Activations are counted, not guessed: a forward
    pass of shapes without numbers.
    """
    rows, samples = largest
    copies = max(stage.copies for stage in recipe.build_stages())
    weights = sum(weight.numel() for weight in student.parameters())
    theirs = loaded = loading = 0.0
    for teacher in (model for each in teachers for model in each.models):
        config = None if teacher.pretrained is None else teacher.pretrained.config
        if config is None:
            continue
        numbers = float(total(encoder_cost(config)).params)
        loading = max(loading, loaded + numbers * LOADING)
        loaded += 4 * numbers
        states = rows * int(config.frontend.frames(samples)) * config.dim * (len(config.layers) + 1)
        theirs += (numbers * (1 + teacher.packed) + states) * (2 if teacher.precision == "bf16" else 4)
    activations = saved_bytes(student.config, rows, samples) * (HALF if recipe.precision == "bf16" else 1.0)
    seconds, workers = rows * samples / SAMPLE_RATE, recipe.data.workers * WORKER
    memory = Memory(theirs, weights * (ADAM + 4 * copies), activations, seconds, loading, workers)
    return memory if host is None else replace(memory, host=host_bytes(host, recipe.host.train, rows, samples))


def host_bytes(host: Host, train: str, rows: int, samples: int) -> float:
    """Bytes of a host's rest, of the copy of it that is trained, and of what it keeps for the backward pass of (rows, samples)."""
    sizes = {name: 4.0 * weight.numel() for name, weight in host.rest.named_parameters()}
    trained = sum(sizes[name] for name in host.parts()[train]) if train != "none" else 0.0
    weights = sum(sizes.values()) * (2 if trained else 1) + trained * (ADAM / 4 - 1)
    shape, kept = host.pretrained.shape, dict[int, torch.UntypedStorage]()
    tokens = torch.zeros(rows, 2 + SPOKEN * samples // SAMPLE_RATE, dtype=torch.long)

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    def heard(rows: int, frames: int) -> Features:
        x = torch.zeros(rows, frames, shape.dim, requires_grad=True)
        return Features([x], None, x, x)

    device = next(host.rest.parameters()).device
    with torch.no_grad(), torch.device(device):
        host.states(heard(1, 1))  # with numbers, because it may keep some
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.device(device):
        own = {each.untyped_storage()._cdata: each for each in map(mode.from_tensor, host.rest.parameters())}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            features = heard(rows, int(shape.frontend.frames(samples)))
            logits = host.outputs(features, Batch(torch.zeros(rows, samples)), tokens.to(device)).logits
    activations = sum(storage.nbytes() for key, storage in kept.items() if key not in own) + 4.0 * LOGITS * logits.numel()
    return weights + WORKING * activations


def saved_bytes(config: EncoderConfig, rows: int, samples: int) -> float:
    """Bytes of the tensors that a forward pass of (rows, samples) keeps for the backward pass, each storage counted once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage()
        return x

    with FakeTensorMode():  # shapes and devices of tensors, without their numbers
        encoder = Encoder(config).train()
        weights = {weight.untyped_storage()._cdata for weight in encoder.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            encoder(torch.empty(rows, samples))
    return float(sum(storage.nbytes() for key, storage in kept.items() if key not in weights))


def free_memory(device: torch.device) -> float | None:
    """Free bytes on the device, where that can be known."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
