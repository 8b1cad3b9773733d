"""Refuses objectives that their teachers cannot teach."""

from __future__ import annotations

from collections.abc import Mapping

from sottovoce.encoder import EncoderConfig
from sottovoce.objectives import Objective
from sottovoce.train.domains import Domains
from sottovoce.train.targets import Teachers


def check_objectives(
    objectives: Mapping[str, Objective],
    teacher_of: Mapping[str, str],
    teachers: Teachers,
    domains: Domains,
    student: EncoderConfig,
) -> None:
    """ValueError if the teacher of an objective is missing, or answers in another kind. teacher_of: labels of teachers, by objective."""
    for label, objective in objectives.items():
        needs, teacher = objective.needs(), teacher_of[label]
        if label in domains.of:
            if needs.compares_rows:
                raise ValueError(f"objectives.{label} compares recordings with each other, so it can have no domain")
            if objective.reads == "outputs":
                raise ValueError(f"objectives.{label} learns from a host, so it can have no domain")
        if needs.targets == "none":
            continue
        if not teacher:
            raise ValueError(f"objectives.{label} needs a teacher and there is none; name one as TEACHER or in teachers")
        if objective.reads == "outputs":
            _check_host(label, teacher, teachers)
        elif teachers[teacher].answers != objective.reads:
            raise ValueError(
                f"objectives.{label} learns from a teacher of kind {objective.reads}, and '{teacher}' is one of kind "
                f"{teachers[teacher].answers}; name another in objectives.{label}.teacher"
            )
        elif needs.maps and (student.window or not teachers[teacher].gives_maps):
            raise ValueError(
                f"objectives.{label} compares attention maps, which ensembles, models inside transformers and encoders with a window "
                "(Whisper) do not give; leave the attention loss out"
            )


def _check_host(label: str, teacher: str, teachers: Teachers) -> None:
    """ValueError if the teacher is not the one whose host the student gets, or has none."""
    if teacher != teachers.main:
        raise ValueError(
            f"objectives.{label} learns from the host of the teacher that the student starts from, '{teachers.main}', not from '{teacher}'"
        )
    if teachers.host is None:
        raise ValueError(
            f"objectives.{label} learns from what a recogniser or classifier says, and the teacher is an encoder alone; name a checkpoint "
            "with its head or decoder, or leave the objective out"
        )
