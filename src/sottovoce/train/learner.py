"""Student, objectives and mask vector in one module: all that is trained, and how it is run on a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Answer, Batch, Features, Labels, Loss, Outputs, Posteriors
from sottovoce.data.augment import Augment, FeatureMasks
from sottovoce.encoder import Encoder
from sottovoce.encoder.encoder import Between
from sottovoce.objectives import EncoderShape, Needs, Objective
from sottovoce.train.answers import FEATURES, Answers, Targets
from sottovoce.train.between import fed, scaled_gradients
from sottovoce.train.domains import Domains
from sottovoce.train.drawing import Drawn, draw
from sottovoce.train.hosted import HostedStudent, labels_of
from sottovoce.train.objective_checks import check_objectives
from sottovoce.train.recipe import HostChoice, Masking, ObjectiveChoice
from sottovoce.train.succession import STUDENT, beside_student, former, inherited
from sottovoce.train.targets import Teachers
from sottovoce.train.teachers import prepared

FITTED = "fitted"  # in the names of a map that was solved for when all training was done (stage `fit_map`)
BRIDGE = "bridge"  # in the names of what is trained: the way into the host, whichever module it is


def shape_of(encoder: Encoder) -> EncoderShape:
    """The size of a student, as objectives see it."""
    return EncoderShape(encoder.config.dim, len(encoder.config.layers), encoder.config.frontend.stride)


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
        if self.feature_masks and encoder.frontend.features is None:
            raise ValueError("feature_masks masks a filter bank, and this student reads the waveform; leave them out")
        check_objectives(dict(self._objectives()), self.teacher_of, teachers, self.domains, encoder.config)
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
        """An objective for the student and its teacher; for the student alone where it has none of its kind (`check_objectives`)."""
        cls, teacher = OBJECTIVES.get(part.name), self.teacher_of[label]
        fits = teacher and self.teachers[teacher].answers == ("frames" if cls.reads == "outputs" else cls.reads)
        try:
            objective: Objective = cls(part.config, student, self.shapes[teacher] if fits else student)
        except ValueError as problem:
            raise ValueError(f"objectives.{label}: {problem}") from None
        return objective

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
        old = beside_student(self.state_dict())
        self.student, self.hosted, shape = encoder, None, shape_of(encoder)
        self.objectives = nn.ModuleDict({label: self._build(label, part, shape) for label, part in self.choices.items()})
        self.needs = {label: objective.needs() for label, objective in self._objectives()}
        self.hosted = self._host(shape, self.host_choice.train)
        if self.mask_vector is not None:
            self.mask_vector = nn.Parameter(torch.empty(shape.dim))
        if self.fed:
            self.feed()
        self.to(self._device).train(self.training)
        values, names = inherited(old, beside_student(self.state_dict()), dims)
        self.load_state_dict(values | {STUDENT + name: tensor for name, tensor in encoder.state_dict().items()})
        return names | {STUDENT + name: STUDENT + former(name, layers) for name, _ in encoder.named_parameters()}

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
        if self.needs[label].targets not in FEATURES:
            return own, None
        return own, self._answers.clean(self.teacher_of[label], raw, keys)

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def draw(self, batch: Batch) -> Drawn:
        """Adds valid frames, augmented audio and, if they are drawn, a new mask and a context to a decoded batch."""
        keys, raw = self.teachers.row_keys(batch), batch.to(self._device)
        batch = prepared(raw, self.teachers.normalize)
        augment, masking = self.augment if self.training else None, self.masking if self.mask_vector is not None else None
        return draw(raw, batch, keys, self.encoder.config, augment, masking)

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
        tensors = beside_student(self.state_dict())
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

    @property
    def _answers(self) -> Answers:
        return Answers(self.teachers, self.shapes, self.needs, self.teacher_of, self.encoder.config.frontend)

    def targets(self, drawn: Drawn) -> Targets:
        """The teachers' answers for the batch, as far as objectives need them (`Answers.targets`)."""
        return self._answers.targets(drawn.raw, drawn.keys, drawn.mask)

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
