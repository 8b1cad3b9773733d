"""Student, objectives and mask vector in one module: all that is trained, and how it is run on a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Labels, Loss, Outputs, Posteriors
from sottovoce.data.augment import Augment, FeatureMasks
from sottovoce.encoder import Encoder
from sottovoce.encoder.context import Chunks
from sottovoce.encoder.encoder import Between
from sottovoce.objectives import EncoderShape, Needs, Objective
from sottovoce.train.between import fed, scaled_gradients
from sottovoce.train.domains import Domains
from sottovoce.train.hosted import HostedStudent, labels_of
from sottovoce.train.recipe import HostChoice, Masking, ObjectiveChoice
from sottovoce.train.targets import Teachers
from sottovoce.train.teachers import prepared

FEATURES = ("clean", "masked")  # targets that are a teacher's hidden states or vectors
FITTED = "fitted"  # in the names of a map that was solved for when all training was done (stage `fit_map`)
BRIDGE = "bridge"  # in the names of what is trained: the way into the host, whichever module it is
Targets = Mapping[tuple[str, str], Answer]  # by label of the teacher, on the student's frames


@dataclass(frozen=True)
class Drawn:
    """A batch on the student's device, with the random choices for it: augmentation, mask and context.

    raw: the decoded batch, which each teacher prepares in its own way. batch: the batch as the student reads it. keys: names of the rows'
    targets on disk. student_wave: (B, S), the student's audio, augmented in training. valid, mask: (B, T) bool, frames of the student;
    mask is ``None`` if no objective masks. chunks: the context of this batch; ``None``: the student's own. said: by label of the objective,
    what the host says, or should say (`Learner.listen`).
    """

    raw: Batch
    batch: Batch
    keys: tuple[str, ...]
    student_wave: Tensor
    valid: Tensor
    mask: Tensor | None
    chunks: Chunks | None = None
    said: Mapping[str, Posteriors | Labels] = field(default_factory=dict)


def shape_of(encoder: Encoder) -> EncoderShape:
    """The size of a student, as objectives see it."""
    return EncoderShape(encoder.config.dim, len(encoder.config.layers), encoder.config.frontend.stride)


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


class Learner(nn.Module):
    """``learner(drawn, learner.targets(drawn))`` returns a `Loss` per objective, by label. drawn: ``learner.listen(learner.draw(batch))``.

    Training minimises ``learner.total(losses, denominators)``, with `denominators` summed over all micro-batches and processes.
    student: an `Encoder`, or a stage's wrapper around it, which is called in the same way and has it as ``encoder``. weights: of the
    objectives, by label. hosted: the main teacher's host with the student inside; ``None`` if no objective reads what it says.
    scale_gradients: see `between.scaled_gradients`. fed: student layer -> label of the teacher and its layer, which the next student
    layer reads in its place; empty unless `feed` was called.
    """

    scale_gradients = False

    def __init__(
        self,
        encoder: Encoder,
        objectives: Mapping[str, ObjectiveChoice],
        teachers: Teachers,
        masking: Masking,
        augment: Augment | None = None,
        feature_masks: FeatureMasks | None = None,
        host: HostChoice | None = None,
    ) -> None:
        super().__init__()
        shape = shape_of(encoder)
        self.choices = objectives
        self.student: nn.Module = encoder
        self.teachers = teachers
        self.shapes = {label: teacher.shape.for_student(shape) for label, teacher in teachers.items()}
        first = next(iter(teachers), "")
        self.teacher_of = {label: part.teacher or first for label, part in objectives.items()}
        self.weights = {label: part.weight for label, part in objectives.items()}
        self.objectives = nn.ModuleDict({label: self._build(label, part, shape) for label, part in objectives.items()})
        self.needs: dict[str, Needs] = {label: objective.needs() for label, objective in self._objectives()}
        self.domains = Domains(objectives)
        self.masking, self.augment, self.feature_masks = masking, augment or Augment(), feature_masks or FeatureMasks()
        self._check()
        self.hosted: HostedStudent | None = None
        self.unlearned: dict[str, int] = {}  # by objective: rows whose text or label the host cannot say
        self.fitted: nn.Linear | None = None  # the map into the main teacher's last layer, if a stage solved for it
        self.host_choice = host or HostChoice()
        self.hosted = self._host(shape, self.host_choice.train)
        self.fed: dict[int, tuple[str, int]] = {}
        self.compiled: Callable[..., Features] | None = None  # the student by torch.compile, where it is to be run so
        masks = any(needs.masked_input for needs in self.needs.values())
        self.mask_vector = nn.Parameter(torch.empty(shape.dim).uniform_()) if masks else None

    def _build(self, label: str, part: ObjectiveChoice, student: EncoderShape) -> Objective:
        """An objective for the student and its teacher; for the student alone where it has no teacher of its kind (`_check`)."""
        cls, teacher = OBJECTIVES.get(part.name), self.teacher_of[label]
        fits = teacher and self.teachers[teacher].answers == ("frames" if cls.reads == "outputs" else cls.reads)
        try:
            objective: Objective = cls(part.config, student, self.shapes[teacher] if fits else student)
        except ValueError as problem:
            raise ValueError(f"objectives.{label}: {problem}") from None
        return objective

    def _check(self) -> None:
        """ValueError if the teacher of an objective is missing, or gives the wrong kind of answers."""
        if self.feature_masks and self.encoder.frontend.features is None:
            raise ValueError("feature_masks masks a filter bank, and this student reads the waveform; leave them out")
        for label, objective in self._objectives():
            needs, teacher = self.needs[label], self.teacher_of[label]
            if needs.compares_rows and self.domains.of.get(label):
                raise ValueError(f"objectives.{label} compares recordings with each other, so it can have no domain")
            if objective.reads == "outputs" and self.domains.of.get(label):
                raise ValueError(f"objectives.{label} learns from a host, so it can have no domain")
            if needs.targets == "none":
                continue
            if not teacher:
                raise ValueError(f"objectives.{label} needs a teacher and there is none; name one as TEACHER or in teachers")
            if objective.reads == "outputs":
                if teacher != self.teachers.main:
                    raise ValueError(
                        f"objectives.{label} learns from the host of the teacher that the student starts from, '{self.teachers.main}', not "
                        f"from '{teacher}'"
                    )
                if self.teachers.host is None:
                    raise ValueError(
                        f"objectives.{label} learns from what a recogniser or classifier says, and the teacher is an encoder alone; name a "
                        "checkpoint with its head or decoder, or leave the objective out"
                    )
            elif self.teachers[teacher].answers != objective.reads:
                raise ValueError(
                    f"objectives.{label} learns from a teacher of kind {objective.reads}, and '{teacher}' is one of kind "
                    f"{self.teachers[teacher].answers}; name another in objectives.{label}.teacher"
                )
            elif needs.maps and not (self.teachers[teacher].gives_maps and not self.encoder.config.window):
                raise ValueError(
                    f"objectives.{label} compares attention maps, which ensembles, models inside transformers and encoders with a window "
                    "(Whisper) do not give; leave the attention loss out"
                )

    def _host(self, student: EncoderShape, train: str) -> HostedStudent | None:
        """The teacher's host with the student inside, with an objective's projection of the last layer if there is one."""
        host = self.teachers.host if any(objective.reads == "outputs" for _, objective in self._objectives()) else None
        if host is None:
            return None
        shared = self._last_map(student.depth)
        return HostedStudent(host, student, self.shapes[self.teachers.main], shared, train)

    def _last_map(self, depth: int) -> nn.Linear | None:
        """The trained map from the student's last layer into the main teacher's space, if an objective has one."""
        maps, layers = self.projections()
        return next((maps[name] for name, serves in layers.items() if depth in serves), None)

    def way_out(self) -> nn.Linear | None:
        """The trained map through which the main teacher's host reads the student's last layer; ``None`` if nothing trained one."""
        return self._last_map(len(self.encoder.config.layers)) if self.hosted is None else self.hosted.projection

    def put(self, encoder: Encoder, layers: Sequence[int], dims: Tensor | None = None) -> dict[str, str]:
        """Puts an encoder of another depth or width in the student's place. Objectives are built again for it and keep what they have
        learned, tensor by tensor in their order. Returns new name -> old name of all that is trained.

        layers: the number, from 0, of the former layer that each of its layers comes from. dims: the dimensions that it has of the former
        width; ``None``: all. ValueError if an objective has another number of tensors at this depth, as with a map for each layer.
        """
        old = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("student.")}
        self.student, self.hosted, shape = encoder, None, shape_of(encoder)
        self.objectives = nn.ModuleDict({label: self._build(label, part, shape) for label, part in self.choices.items()})
        self.needs = {label: objective.needs() for label, objective in self._objectives()}
        self.hosted = self._host(shape, self.host_choice.train)
        if self.mask_vector is not None:
            self.mask_vector = nn.Parameter(torch.empty(shape.dim))
        if self.fed:
            self.feed()
        self.to(self._device).train(self.training)
        new = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("student.")}
        if len(old) == len(new) and dims is not None:
            old = {name: narrowed(tensor, like, dims) for (name, tensor), like in zip(old.items(), new.values(), strict=True)}
        if [tensor.shape for tensor in old.values()] != [tensor.shape for tensor in new.values()]:
            raise ValueError(
                "objectives have other maps in a student of another depth; name layers by shares of the depth, such as 1/3, not one by one"
            )
        names = dict(zip(new, old, strict=True))
        self.load_state_dict(
            {name: old[names[name]] for name in new} | {f"student.{k}": v for k, v in encoder.state_dict().items()}
        )
        return names | {f"student.{name}": f"student.{former(name, layers)}" for name, _ in encoder.named_parameters()}

    def feed(self) -> None:
        """Makes every layer behind one that an objective compares without a map read the teacher's layer in place of the student's.

        The student's blocks between such layers then learn apart from each other. ValueError if there are none.
        """
        config = self.encoder.config
        if config.window:
            raise ValueError("blocks cannot be fed by the teacher in a student with a window; set student.length=any")
        for label, objective in self._objectives():
            for layer, source in objective.meetings().items():
                if layer < len(config.layers) and self.needs[label].targets == "clean":
                    self.fed[layer] = self.teacher_of[label], source
        if not self.fed:
            raise ValueError(
                "teacher_fed needs an objective that compares layers below the last without a map, such as layer_to_layer with map: none"
            )

    def _between(self, targets: Targets) -> Between | None:
        if self.scale_gradients:
            return scaled_gradients(len(self.encoder.config.layers))
        inputs = {}
        for layer, (teacher, source) in self.fed.items():
            answer = targets[teacher, "clean"]
            assert isinstance(answer, Features)
            inputs[layer] = answer.hidden[source]
        return fed(inputs) if inputs else None

    @property
    def columns(self) -> dict[str, str]:
        """By label of the objective, the kind of column that it learns from: "text" or "label"."""
        columns: dict[str, str] = {label: needs.column for label, needs in self.needs.items() if needs.column}
        labelled = [label for label, needs in self.needs.items() if needs.targets == "labels"]
        if self.hosted is not None:
            columns |= dict.fromkeys(labelled, "label" if self.hosted.host.answers == "classes" else "text")
        return columns

    @property
    def encoder(self) -> Encoder:
        """The student's encoder, without a stage's wrapper."""
        encoder = self.student if isinstance(self.student, Encoder) else self.student.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def join(self) -> int:
        """Frames of the main teacher per student frame, in the outputs of projections."""
        return self.shapes[self.teachers.main].join if self.teachers.main else 1

    def fit(self, batches: Callable[[], Iterable[Batch]], trained: Mapping[str, Tensor]) -> None:
        """Calls `fit` of each objective before training, except of those with tensors from earlier stages in `trained`.

        batches: gives a pass over the decoded training data, from its start.
        """
        for label, objective in self._objectives():
            if not any(key.startswith(f"objectives.{label}.") for key in trained):
                objective.fit(self._with_targets(label, batch) for batch in batches())

    def _with_targets(self, label: str, batch: Batch) -> tuple[Batch, Answer | None]:
        raw, keys = batch.to(self._device), self.teachers.row_keys(batch)
        own = prepared(raw, self.teachers.normalize)
        if self.needs[label].targets not in ("clean", "masked"):
            return own, None
        return own, self._clean(self.teacher_of[label], raw, keys)

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def draw(self, batch: Batch) -> Drawn:
        """Adds valid frames, augmented audio and, if they are drawn, a new mask and a context to a decoded batch."""
        keys, raw = self.teachers.row_keys(batch), batch.to(self._device)
        batch = prepared(raw, self.teachers.normalize)
        frontend = self.encoder.config.frontend
        frames, device = int(frontend.frames(batch.wave.shape[1])), batch.wave.device
        valid = torch.ones(len(batch.wave), frames, dtype=torch.bool, device=device)
        if batch.lengths is not None:
            valid = torch.arange(frames, device=device) < frontend.frames(batch.lengths)[:, None]
        student_wave = self.augment(batch.wave, batch.lengths) if self.training else batch.wave
        context = self.encoder.config.context
        chunks = context.draw() if self.training and context is not None and context.drawn else None
        if self.mask_vector is None:
            return Drawn(raw, batch, keys, student_wave, valid, None, chunks)
        starts = torch.rand(valid.shape, device=device) < self.masking.share / self.masking.span
        ends = nn.functional.pad(starts.cumsum(1), (self.masking.span, 0))[:, :frames]
        return Drawn(raw, batch, keys, student_wave, valid, (starts.cumsum(1) > ends) & valid, chunks)

    def denominators(self, drawn: Drawn) -> Tensor:
        """(objectives,) the denominator of each objective's loss on this batch: the frames or rows that count."""
        counts = [objective.denominator(self._frames(label, drawn), drawn.batch) for label, objective in self._objectives()]
        return torch.stack(counts)

    def _frames(self, label: str, drawn: Drawn) -> Tensor:
        """(B, N) bool: the frames that count for an objective; of a host, the outputs or labels that do."""
        if label in drawn.said:
            return drawn.said[label].valid
        objective = cast(Objective, self.objectives[label])
        return objective.frames(drawn.valid, drawn.mask)

    def listen(self, drawn: Drawn) -> Drawn:
        """Adds what the host says, or by the data's labels should say, for the objectives that read it."""
        said: dict[str, Posteriors | Labels] = {}
        for label, needs in self.needs.items():
            if needs.targets == "outputs":
                said[label] = self.teachers.outputs(drawn.raw, drawn.keys, needs.classes, needs.temperature)
            elif needs.targets == "labels":
                assert self.hosted is not None
                labels = labels_of(self.hosted.host, drawn.raw, self.host_choice)
                known = [bool(text) for text in (drawn.raw.labels if labels.kind == "classes" else drawn.raw.texts)]
                self.unlearned[label] = self.unlearned.get(label, 0) + sum(known) - int(labels.valid.any(1).sum())
                said[label] = labels
        return replace(drawn, said=said) if said else drawn

    def total(self, losses: Mapping[str, Loss], denominators: Tensor) -> Tensor:
        """The weighted sum of the objectives' losses, each divided by its denominator."""
        parts = [self.weights[label] * loss.total / denominators[i] for i, (label, loss) in enumerate(losses.items())]
        return torch.stack(parts).sum()

    def trained(self) -> dict[str, Tensor]:
        """All that is trained beside the student, and the way into its host, by names that later stages know."""
        tensors = {key: value for key, value in self.state_dict().items() if not key.startswith("student.")}
        if self.hosted is not None:
            tensors |= {f"{BRIDGE}.{name}": tensor.clone() for name, tensor in self.hosted.projection.state_dict().items()}
        return tensors

    def recall(self, trained: Mapping[str, Tensor]) -> None:
        """Loads the tensors of earlier stages, or of the student that the run starts from, that this learner has, too, in the same shape.
        The way into the host goes on from where it was, whether or not it was then shared with an objective."""
        own = self.state_dict()
        known = {key: value for key, value in trained.items() if key in own and own[key].shape == value.shape}
        self.load_state_dict({**own, **known})
        if self.hosted is not None and f"{BRIDGE}.weight" in trained:
            self.hosted.projection.load_state_dict({name: trained[f"{BRIDGE}.{name}"] for name in ("weight", "bias")})
        if f"{FITTED}.weight" in trained:
            weight = trained[f"{FITTED}.weight"]
            self.fitted = nn.Linear(weight.shape[1], weight.shape[0])
            self.fitted.load_state_dict({"weight": weight, "bias": trained[f"{FITTED}.bias"]})

    def projections(self) -> tuple[dict[str, nn.Linear], dict[str, list[int]]]:
        """The linear maps to the main teacher's width, and the student layers of each. A layer with several maps keeps the first; the last
        layer one that was solved for when training was done."""
        maps: dict[str, nn.Linear] = {}
        layers: dict[str, list[int]] = {}
        if self.fitted is not None:
            maps[FITTED], layers[FITTED] = self.fitted, [len(self.encoder.config.layers)]
        for label, objective in self._objectives():
            if self.teacher_of[label] != self.teachers.main:
                continue
            projections, serves = objective.projections()
            for name, linear in projections.items():
                new = [layer for layer in serves[name] if not any(layer in known for known in layers.values())]
                if new:
                    key = name if name not in maps else f"{label}-{name}"
                    maps[key], layers[key] = linear, new
        if self.hosted is not None and self.hosted.own is not None:
            maps["host"], layers["host"] = self.hosted.own, [len(self.encoder.config.layers)]
        return maps, layers

    def _objectives(self) -> list[tuple[str, Objective]]:
        return [(label, cast(Objective, objective)) for label, objective in self.objectives.items()]

    def _clean(self, teacher: str, raw: Batch, keys: tuple[str, ...]) -> Answer:
        """A teacher's answer for the clean audio, on the student's frames: the layers that objectives read."""
        wanted = [needs for label, needs in self.needs.items() if self.teacher_of[label] == teacher and needs.targets in FEATURES]
        every = any(needs.layers is None for needs in wanted)
        layers = None if every else sorted({layer for needs in wanted for layer in needs.layers or ()})
        taps, maps = sorted({layer for needs in wanted for layer in needs.taps}), any(needs.maps for needs in wanted)
        return self._placed(teacher, self.teachers.clean(teacher, raw, keys, layers, taps, maps), raw)

    def _placed(self, teacher: str, answer: Answer, raw: Batch) -> Answer:
        """The answer, resampled to the student's frames."""
        shape, frames = self.shapes[teacher], int(self.encoder.config.frontend.frames(raw.wave.shape[1]))
        return answer.on_frames(frames, shape.join, shape.rate) if isinstance(answer, Features) else answer

    def targets(self, drawn: Drawn) -> Targets:
        """The teachers' answers for the batch, as far as objectives need them.

        "clean": answers for the clean audio. "masked": at masked frames the clean answer, at the others the answer for the masked audio.
        """
        answers: dict[tuple[str, str], Answer] = {}
        for label, needs in self.needs.items():
            teacher = self.teacher_of[label]
            if needs.targets in FEATURES and (teacher, "clean") not in answers:
                answers[teacher, "clean"] = self._clean(teacher, drawn.raw, drawn.keys)
        for label, needs in self.needs.items():
            teacher = self.teacher_of[label]
            if needs.targets == "masked" and (teacher, "masked") not in answers:
                answers[teacher, "masked"] = self._masked(teacher, drawn, answers[teacher, "clean"])
        return answers

    def _masked(self, teacher: str, drawn: Drawn, clean: Answer) -> Features:
        assert drawn.mask is not None
        assert isinstance(clean, Features)
        hidden, over = drawn.mask[..., None], self._on_teacher(teacher, drawn.mask)
        taps = any(needs.taps for label, needs in self.needs.items() if self.teacher_of[label] == teacher)
        masked = self._placed(teacher, self.teachers.masked(teacher, drawn.raw, over, taps), drawn.raw)
        assert isinstance(masked, Features)

        def mix(of_clean: list[Tensor], of_masked: list[Tensor]) -> list[Tensor]:
            pairs = zip(of_clean, of_masked, strict=True)
            return [
                torch.where(hidden, x, y) if x.shape == y.shape else x for x, y in pairs
            ]  # layers that no objective reads are empty

        embedded, last = mix([clean.embedded, clean.last], [masked.embedded, masked.last])
        return Features(mix(clean.hidden, masked.hidden), clean.lengths, embedded, last, mix(clean.ffn, masked.ffn))

    def _on_teacher(self, teacher: str, mask: Tensor) -> Tensor:
        """The student's mask, (B, T), on the teacher's frames: each teacher frame takes the mask of the student frame at its centre."""
        shape = self.shapes[teacher]
        if shape.rate:
            at = ((torch.arange(int(mask.shape[1] * shape.rate), device=mask.device) + 0.5) / shape.rate).long()
            return mask[:, at.clamp(max=mask.shape[1] - 1)]
        return mask if shape.join == 1 else mask.repeat_interleave(shape.join, 1)

    def forward(self, drawn: Drawn, targets: Targets) -> dict[str, Loss]:
        losses: dict[str, Loss] = {}
        batch = replace(drawn.batch, heard=drawn.student_wave)
        outputs: dict[bool, Features] = {}
        said: dict[str, Outputs] = {}
        between = self._between(targets)
        more: dict[str, Any] = {} if between is None else {"between": between}
        if any(needs.maps for needs in self.needs.values()):
            more["maps"] = True
        for label, objective in self._objectives():
            needs = self.needs[label]
            if needs.masked_input not in outputs:  # one student pass for all clean objectives, one for all masked ones
                mask, vector = (drawn.mask, self.mask_vector) if needs.masked_input else (None, None)
                student = self.compiled or self.student
                with self._masked_features():
                    outputs[needs.masked_input] = student(
                        drawn.student_wave, drawn.batch.lengths, mask=mask, mask_vector=vector, chunks=drawn.chunks, **more
                    )
            frames = self._frames(label, drawn)
            if objective.reads == "outputs":
                answer = drawn.said[label]
                losses[label] = objective(self._say(outputs[False], drawn, answer, said), answer, frames, batch)
                continue
            teacher = targets[self.teacher_of[label], needs.targets] if needs.targets in FEATURES else None
            losses[label] = self.domains.loss(label, objective, outputs[needs.masked_input], teacher, frames, batch)
        return losses

    def _say(self, features: Features, drawn: Drawn, answer: Posteriors | Labels, said: dict[str, Outputs]) -> Outputs:
        """What the host says with the student inside, along the tokens of `answer`. said: what it has said of this batch, by kind of
        tokens."""
        assert self.hosted is not None
        if isinstance(answer, Posteriors):
            kind, tokens = "transcript", answer.tokens
        else:
            kind, tokens = "labels", answer.ids if answer.kind == "tokens" else None
        key = "" if tokens is None else kind  # frames and classes do not depend on tokens
        if key not in said:
            said[key] = self.hosted(features, drawn.batch, tokens)
        return said[key]

    def _masked_features(self) -> AbstractContextManager[None]:
        """Masks the student's filter bank while it lasts, in training and if the recipe asks for it."""
        features, shape = self.encoder.frontend.features, self.encoder.config.frontend.fbank
        if not (self.training and self.feature_masks) or features is None:
            return contextlib.nullcontext()
        return self.feature_masks.on(features, 1 if shape is None else shape.stack)
