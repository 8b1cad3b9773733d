"""The student goes back into the host that its teacher's encoder lives in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sottovoce.encoder import EncoderConfig
from sottovoce.hub.teacher_space import TeacherSpace
from sottovoce.objectives.ctc import Ctc
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Recipe
from sottovoce.train.run import Run
from sottovoce.train.stages.train import Train
from sottovoce.train.teachers.encoder import EncoderTeacher
from sottovoce.train.work import Work

if TYPE_CHECKING:  # imports transformers, which takes seconds
    from sottovoce.hosts.base import Host


def announcement(run: Run, student: EncoderConfig) -> str:
    """What becomes of the head or decoder that the teacher has, or of one that learns characters; "" where there is neither."""
    teacher, recipe = run.teachers.origin, run.recipe
    kept = recipe.host.keep and recipe.format == "sottovoce"
    own = "a recogniser of the characters that it learns, which AutoModelForCTC opens" if kept and _recognises(recipe) else ""
    if teacher is None or (not teacher.left_out and not teacher.hf_config.get("host")):
        return own and f"the student will be {own}"
    from sottovoce.hosts.base import host_config
    from sottovoce.hosts.load import kind_of

    hf = host_config(teacher.hf_config)
    kind, name = kind_of(hf), next(iter(hf.get("architectures") or ()), "its model")
    if kind is None:
        becomes = own or "an encoder alone"
        return f"left out, because no host of this kind is known: {', '.join(teacher.left_out)}; the student will be {becomes}"
    if not kept:
        return f"the student will be an encoder alone, and not a {name} as its teacher"
    if reason := kind.objection(teacher.shape, student):
        return f"the student will be an encoder alone, and not a {name} as its teacher: {reason}"
    return f"the student will be put back into its {name}, which {kind.auto_class} opens; host.keep=false would leave it alone"


def put_back(run: Run, work: Work, learner: Learner) -> Host | None:
    """The main teacher's host with the student in it; without one, a recogniser of the student and of the head that the objective `ctc`
    trained; ``None`` where there is neither, or none is wanted. Where it cannot be kept it says why: a trained student is written in any
    case."""
    if not run.recipe.host.keep:
        return None
    main, host = run.teachers.each.get(run.teachers.main), None
    try:
        if isinstance(main, EncoderTeacher):
            from sottovoce.hosts.load import load_host

            host = load_host(main.config.source)  # anew, because the one that taught may be rounded or prepared for inference
        if host is None:
            return _own_recogniser(run, work, learner)
        if learner.shapes[run.teachers.main].rate:
            raise ValueError("a frame of the student is not as long as a whole number of the host's")
        maps, layers = learner.projections()
        space = None
        if maps and learner.join == 1:
            space = TeacherSpace(layers, work.encoder.config.dim, host.pretrained.dim)
            for name, linear in maps.items():
                space[name] = linear
        host.put(work.encoder, host.way(learner.way_out(), learner.join), space)
        if learner.hosted is not None:
            with torch.no_grad():
                for name, tensor in learner.hosted.trained().items():
                    host.rest.get_parameter(name).copy_(tensor)
    except ValueError as problem:
        run.say(f"the host is not kept, and the student is an encoder alone: {problem}")
        return None
    host.cpu()
    return host


def _own_recogniser(run: Run, work: Work, learner: Learner) -> Host | None:
    """The student with the head of an objective `ctc` that the last stage with updates has trained; ``None`` without one. ValueError if a
    recogniser cannot be made of it."""
    label = _recognises(run.recipe)
    if not label:
        return None
    objective = learner.objectives[label]
    assert isinstance(objective, Ctc)
    if objective.layer != objective.depth:
        raise ValueError("the head of ctc reads a layer below the last, and a recogniser's reads the last")
    from sottovoce.hosts.own import recogniser

    characters, source = objective.config.characters, run.recipe.teacher or run.recipe.name
    host = recogniser(work.encoder, objective.head, characters, normalize=run.teachers.normalize, source=source)
    return host.cpu()


def _recognises(recipe: Recipe) -> str:
    """The label of the objective `ctc` that the last stage that trains has; "" without one."""
    last = [stage for stage in recipe.build_stages() if isinstance(stage, Train)][-1:]
    chosen = [each for stage in last for each in recipe.objectives_of(stage.label, stage.config.objectives).items()]
    return next((label for label, choice in chosen if choice.cls is Ctc), "")


def about_host(host: Host) -> dict[str, Any]:
    """The host in a run's record. params: of all of it, the student included."""
    parts = (host.encoder, host.bridge, host.rest)
    return {
        "kind": host.name,
        "class": host.hf["architectures"][0],
        "auto_class": host.auto_class,
        "params": sum(parameter.numel() for part in parts for parameter in part.parameters()),
    }
