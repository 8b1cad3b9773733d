"""Learning from what a host says, and from what it should say: with the student inside, on tiny random hosts of every kind."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from sottovoce.core.registry import OBJECTIVES
from sottovoce.core.types import Batch, Labels, Outputs
from sottovoce.objectives.base import EncoderShape
from sottovoce.objectives.host_output import HostOutput
from sottovoce.objectives.posteriors import posteriors
from sottovoce.students.base import Joining
from sottovoce.train import api, calibration
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import HostChoice, Masking, ObjectiveChoice
from sottovoce.train.run import Stopped
from sottovoce.train.target_store import TargetStore
from sottovoce.train.targets import Teachers, joined_outputs, split_outputs
from sottovoce.train.teachers import TeacherSettings
from sottovoce.train.teachers.encoder import EncoderTeacher
from tests.unit import test_hosts as hosts
from tests.unit import test_recognisers as recognisers
from tests.unit.test_families import speech
from tests.unit.test_teachers import FAST
from tests.unit.test_teachers import losses as losses_of

CPU = torch.device("cpu")
SIZES = [16_000, 9_840, 12_400]
KINDS = ("ctc", "frame-classification", "sequence-classification", "80 mels", "half turned")
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6, "C": 7, "'": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny random host of a kind."""
    known: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in known:
            known[kind] = tmp_path_factory.mktemp(kind.replace(" ", "-"))
            if kind in recognisers.STYLES:
                recognisers.save(kind, known[kind], "ForConditionalGeneration")
            else:
                hosts.save(hosts.tiny("wav2vec2", kind, vocab_size=9, pad_token_id=0), known[kind])
            if kind == "ctc":
                (known[kind] / "vocab.json").write_text(json.dumps(VOCABULARY))
                settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "pad_token": "<pad>", "unk_token": "<unk>"}
                (known[kind] / "tokenizer_config.json").write_text(json.dumps(settings))
        return known[kind]

    return folder


def teachers(folder: Path, store: TargetStore | None = None) -> Teachers:
    teacher = EncoderTeacher(EncoderTeacher.Config(source=str(folder)), TeacherSettings(CPU))
    return Teachers({"teacher": teacher}, "teacher", store)


def learner(found: Teachers, objectives: dict[str, dict[str, Any]], **choices: Any) -> Learner:
    """A student that is a copy of the teacher, of recordings as long as they are."""
    assert found.origin is not None
    encoder: Any = found.origin.encoder
    student = Joining().fitted(copy.deepcopy(encoder)).requires_grad_(True)
    parts = {label: ObjectiveChoice(label, OBJECTIVES.get(label).Config(**fields)) for label, fields in objectives.items()}
    return Learner(student, parts, found, Masking(), host=HostChoice(**choices)).eval()


def losses(model: Learner, batch: Batch) -> dict[str, Any]:
    drawn = model.listen(model.draw(batch))
    return {"drawn": drawn, "count": model.denominators(drawn), **model(drawn, model.targets(drawn))}


@pytest.fixture
def batch() -> Batch:
    wave, sizes = speech(SIZES)
    return Batch(wave, sizes)


def full(kind: str) -> Batch:
    """Recordings of different lengths; of Whisper, as long as its window, because frames after the end are another matter there."""
    wave, sizes = speech([48_000] * 2 if kind == "80 mels" else SIZES)
    return Batch(wave, None if kind == "80 mels" else sizes, labels=("LABEL_1", "", "LABEL_3")[: len(wave)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_the_teacher_has_no_loss_and_another_has(kind: str, folders: Callable[[str], Path]) -> None:
    """The gradient reaches the student and the way into the host, and not the host; a step makes the loss smaller."""
    found, batch = teachers(folders(kind)), full(kind)
    model = learner(found, {"host_output": {}})
    first = losses(model, batch)
    count, loss = float(first["count"]), first["host_output"]
    assert abs(float(loss.total.detach())) / count < 1e-5
    assert float(loss.logs["agreement"]) == count == int(first["drawn"].said["host_output"].valid.sum())
    assert found.host is not None
    before = {name: tensor.clone() for name, tensor in found.host.rest.state_dict().items()}
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.001)
    course = []
    for _ in range(4):
        loss = losses(model, batch)["host_output"].total / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(float(loss.detach()))
    assert course[0] > 1e-3
    assert course[-1] < course[0]
    assert all(
        p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "hosted" in name or "layers.1." in name
    )
    assert not any(p.requires_grad or p.grad is not None for p in found.host.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in found.host.rest.state_dict().items())
    assert set(model.state_dict()) == {
        *(f"student.{name}" for name in model.encoder.state_dict()),
        "hosted.own.weight",
        "hosted.own.bias",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    """The loss of a padded batch is the sum of its rows' losses, also with targets from disk, there within half precision."""
    wave, sizes = speech(SIZES)
    folder = folders(kind)  # before the seed, because it may be made now, from random numbers
    for store in (None, TargetStore(tmp_path, 1e9)):
        torch.manual_seed(0)
        model = learner(teachers(folder, store), {"host_output": {"temperature": 2.0, "classes": 3}})
        with torch.no_grad():
            for parameter in model.student.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
            together = losses(model, Batch(wave, sizes))
            alone = [losses(model, Batch(row[None, :size])) for row, size in zip(wave, SIZES, strict=True)]
            total = sum(each["host_output"].total for each in alone)
            torch.testing.assert_close(together["host_output"].total, total, rtol=1e-3, atol=1e-4)
            assert float(together["count"]) == sum(float(each["count"]) for each in alone)
            again = losses(model, Batch(wave, sizes))
        assert torch.equal(again["host_output"].total, together["host_output"].total)
        if store is None:
            exact = together["host_output"].total
    torch.testing.assert_close(together["host_output"].total, exact, rtol=0.02, atol=1e-3)


def test_targets_on_disk_need_no_teacher(folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, (wave, sizes) = teachers(folders("half turned"), TargetStore(tmp_path, 1e9)), speech(SIZES)
    model = learner(found, {"host_output": {}, "layer_to_layer": {"layers": (("3",),)}})
    first = losses(model, Batch(wave, sizes))
    host = found.host
    monkeypatch.setattr(host, "greedy", None)
    monkeypatch.setattr(host, "listen", None)
    monkeypatch.setattr(found["teacher"], "answer", None)
    second = losses(model, Batch(wave[[1], : SIZES[1]]))
    row = first["drawn"].said["host_output"]
    end = int(row.valid[1].nonzero().max()) + 1
    assert torch.equal(second["drawn"].said["host_output"].log_probs[0], row.log_probs[1, :end])
    assert torch.equal(second["drawn"].said["host_output"].tokens[0], row.tokens[1, : end + 1])


def test_one_pass_of_the_teacher_for_layers_and_outputs(folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wave, sizes = speech(SIZES)
    for kind in ("80 mels", "half turned", "ctc"):
        found = teachers(folders(kind))
        alone = learner(found, {"layer_to_layer": {}})
        both = learner(found, {"layer_to_layer": {}, "host_output": {}})
        wanted = losses(alone, Batch(wave, sizes))["layer_to_layer"].total
        monkeypatch.setattr(found["teacher"], "answer", None)
        torch.testing.assert_close(losses(both, Batch(wave, sizes))["layer_to_layer"].total, wanted, rtol=1e-4, atol=1e-4)
        maps, layers = both.projections()
        assert both.hosted is not None
        assert both.hosted.own is None
        assert both.hosted.projection is maps[next(name for name, serves in layers.items() if 3 in serves)]


def test_the_way_into_the_host_goes_on_where_it_was(folders: Callable[[str], Path]) -> None:
    found = teachers(folders("ctc"))
    both, alone = (learner(found, parts) for parts in ({"layer_to_layer": {}, "host_output": {}}, {"host_output": {}}))
    assert both.hosted is not None
    assert alone.hosted is not None
    nn.init.normal_(both.hosted.projection.weight)
    alone.recall(both.trained())
    assert torch.equal(alone.hosted.projection.weight, both.hosted.projection.weight)
    nn.init.normal_(alone.hosted.projection.bias)
    both.recall({**both.trained(), **alone.trained()})
    assert torch.equal(alone.hosted.projection.bias, both.hosted.projection.bias)
    assert list(alone.projections()[1].values()) == [[3]]


def test_other_classes_count_as_one() -> None:
    torch.manual_seed(0)
    theirs, ours = 2 * torch.randn(2, 2, 5, 40)
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 3:] = False
    full, shape = {}, EncoderShape(8, 2)
    for classes in (0, 40, 10, 1):
        objective = HostOutput(HostOutput.Config(temperature=1.5, classes=classes), shape, shape)
        target = posteriors(Outputs(theirs, valid), classes, 1.5)
        assert target.log_probs.exp().sum(-1).sub(1).abs().max() < 1e-5
        full[classes] = objective(Outputs(ours, valid), target, valid, Batch(torch.zeros(2, 1))).total
        assert objective(Outputs(theirs, valid), target, valid, Batch(torch.zeros(2, 1))).total.abs() < 1e-5
        rows = split_outputs(target)
        assert [len(row["valid"]) for row in rows] == [5, 3]
        again = joined_outputs(rows, CPU)
        assert torch.equal(again.valid, valid)
        assert (again.log_probs - target.log_probs)[valid].abs().max() < 0.01
    p, q = (x / 1.5 for x in (theirs, ours))
    kl = nn.functional.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(full[0], 1.5**2 * kl[valid].sum())
    assert full[0] == full[40] > full[10] > full[1] > 0


class Letters:
    """A tokenizer of single letters: a is 3, b is 4 and so on."""

    prefix_tokens = (1,)

    def set_prefix_tokens(self, **options: Any) -> None:
        assert options == {"language": None, "predict_timestamps": False}

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return SimpleNamespace(input_ids=[ord(letter) - ord("a") + 3 for letter in text.strip()])


def labelled(kind: str) -> Batch:
    batch = full(kind)
    return dataclasses.replace(batch, texts=("a Ca'b", "", "bb?")[: len(batch.wave)])


@pytest.mark.parametrize("kind", ["ctc", "half turned", "80 mels", "sequence-classification"])
def test_labels_are_learned_through_the_host(kind: str, folders: Callable[[str], Path]) -> None:
    found, batch = teachers(folders(kind)), labelled(kind)
    assert found.host is not None
    if found.host.answers == "tokens":
        found.host._tokenizer = Letters()
        batch = dataclasses.replace(batch, texts=("abc", "", "dd")[: len(batch.wave)])
    model = learner(found, {"task_loss": {}, "host_output": {}}).train()
    optimizer, course = torch.optim.Adam(model.encoder.parameters(), 0.002), []
    for _ in range(5):
        told = losses(model, batch)
        labels = told["drawn"].said["task_loss"]
        loss = told["task_loss"].total / told["count"][0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(float(loss.detach()))
    assert course[-1] < course[0]
    assert isinstance(labels, Labels)
    rows = [0] if kind == "80 mels" else [0, 2]
    assert torch.where(labels.valid.any(1))[0].tolist() == rows
    if kind == "ctc":  # in the capitals that the tokenizer knows, without the mark that it does not
        assert [labels.ids[i][labels.valid[i]].tolist() for i in rows] == [[5, 4, 7, 5, 8, 6], [6, 6]]
        assert model.columns == {"task_loss": "text"}
    elif kind == "sequence-classification":
        assert labels.ids.flatten().tolist() == [1, 0, 3]
        assert model.columns == {"task_loss": "label"}
    else:
        assert labels.ids[0].tolist() == [1, 3, 4, 5, 2]
        assert labels.valid.sum(1).tolist() == [4, 0, 3][: len(labels.valid)]
    assert int(told["count"][0]) == int(labels.valid.sum())


def test_what_cannot_be_learned_is_counted_or_refused(folders: Callable[[str], Path]) -> None:
    batch = full("ctc")
    model = learner(teachers(folders("ctc")), {"task_loss": {}})
    drawn = model.listen(model.draw(dataclasses.replace(batch, texts=("ab", "xyz", "a" * 400))))
    assert drawn.said["task_loss"].valid.any(1).tolist() == [True, False, False]
    assert model.unlearned == {"task_loss": 2}
    assert float(losses(model, dataclasses.replace(batch, texts=("", "", "")))["task_loss"].total.detach()) == 0
    model = learner(teachers(folders("sequence-classification")), {"task_loss": {}})
    with pytest.raises(ValueError, match="no class 'LABEL_9'; did you mean"):
        losses(model, dataclasses.replace(batch, labels=("LABEL_9", "", "")))
    model = learner(teachers(folders("frame-classification")), {"task_loss": {}})
    with pytest.raises(ValueError, match="labels of frames"):
        losses(model, batch)


def test_what_does_not_fit_is_refused(folders: Callable[[str], Path], teacher_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"objectives\.host_output learns from what a recogniser or classifier says, and the teacher is"
    ):
        learner(teachers(teacher_folder), {"host_output": {}})
    with pytest.raises(ValueError, match=r"host\.train: a host of kind ctc has no decoder to train; choose head or none"):
        learner(teachers(folders("ctc")), {"host_output": {}}, train="decoder")
    summed = hosts.save(hosts.tiny("wavlm", "sequence-classification", use_weighted_layer_sum=True), tmp_path)
    with pytest.raises(ValueError, match="weighted sum"):
        learner(teachers(summed), {"host_output": {}})
    found = teachers(folders("ctc"))
    two = Teachers({**found, "other": found["teacher"]}, "other")
    with pytest.raises(ValueError, match="the teacher that the student starts from, 'other', not from 'teacher'"):
        learner(two, {"host_output": {}})


PLAIN = [*FAST, "data.crop=none", "pruning.units=[ffn]", "pruning.ramp=2", "pruning.budget.keep=0.9", "data.valid_share=0.1"]
STAGES = {
    "prune": {"kind": "prune", "steps": 3, "lr": 1e-3},
    "cut": {"kind": "cut"},
    "distill": {"kind": "train", "steps": 3, "lr": 1e-3},
}


def run(folder: Path, data: Path, out: Path, objectives: dict[str, Any], *extra: str, **fields: Any) -> api.Result:
    recipe = out.with_suffix(".yaml")
    recipe.write_text(
        yaml.safe_dump({"student": {"name": "copy"}, "objectives": objectives, "stages": STAGES, **fields}, sort_keys=False)
    )
    return api.compress(folder, recipe=recipe, data=data, out=out, device="cpu", overrides=[*PLAIN, *extra])


@pytest.mark.parametrize("kind", ["half turned"])
def test_a_run_prunes_and_distils_and_goes_on_exactly(
    kind: str, folders: Callable[[str], Path], speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the host is trained too; checkpoints hold that part, and not the rest."""
    parts = {"layer_to_layer": {"layers": [["0"]]}, "host_output": {"weight": 0.5}}
    out = tmp_path / "whole"
    run(folders(kind), speech_folder, out, parts, host={"train": "head"})
    rows = [row for row in losses_of(out) if "host_output/kl" in row]
    assert len(rows) == 6
    weights = load_file(out / "run/distill.safetensors")
    trained = {name: tensor for name, tensor in weights.items() if "hosted.rest" in name}
    found = teachers(folders(kind))
    assert found.host is not None
    names = {name.replace(".", "/") for name in found.host.parts()["head"]}
    assert {name.removeprefix("objectives.hosted.rest.") for name in trained} == names
    before = dict(found.host.rest.named_parameters())
    for name, tensor in trained.items():
        assert not torch.equal(tensor, before[name.removeprefix("objectives.hosted.rest.").replace("/", ".")])

    written = hosts.loaded(out)  # the folder holds what was trained, and the rest as it was
    for name, tensor in written.rest.named_parameters():
        key = f"objectives.hosted.rest.{name.replace('.', '/')}"
        assert torch.equal(tensor, trained.get(key, before[name]))

    asked, calls = Teachers.outputs, []

    def stop(self: Teachers, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(self, *given)

    monkeypatch.setattr(Teachers, "outputs", stop)
    with pytest.raises(Stopped):
        run(folders(kind), speech_folder, tmp_path / "parts", parts, host={"train": "head"})
    monkeypatch.undo()
    saved = torch.load(next((tmp_path / "parts/run").glob("checkpoint-*.pt")), weights_only=True)
    kept = {name for name in saved["learner"] if name.startswith("hosted.rest")}
    assert kept == {f"hosted.rest.{name}" for name in names}
    run(folders(kind), speech_folder, tmp_path / "parts", parts, host={"train": "head"})
    assert losses_of(tmp_path / "parts") == losses_of(out)
    ours = load_file(tmp_path / "parts/run/distill.safetensors")
    assert all(torch.equal(ours[name], weights[name]) for name in weights)


def test_units_are_scored_by_what_the_host_says(
    folders: Callable[[str], Path], speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of `host_output` needs the host's outputs beside the teacher's layers."""
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))  # scores are computed, not read

    def scores(name: str, *overrides: str) -> dict[str, torch.Tensor]:
        given = [*FAST, "stages.prune.clips=2", *overrides]
        api.compress(
            folders("half turned"),
            recipe="training-free-taylor",
            data=speech_folder,
            out=tmp_path / name,
            device="cpu",
            keep=0.8,
            overrides=given,
        )
        return load_file(tmp_path / name / "run" / "prune-scores.safetensors")

    alone, beside = scores("alone"), scores("beside", "objectives.host_output.weight=1")
    assert alone.keys() == beside.keys()
    assert all(not torch.equal(alone[name], beside[name]) for name in alone)


def test_calibration_keeps_the_transcripts(batch: Batch) -> None:
    texts = tuple(f"text {i}" for i in range(len(batch.wave)))
    run: Any = SimpleNamespace(stream=lambda label: iter([dataclasses.replace(batch, texts=texts)] * 2))
    found = [text for each in calibration.batches(run, "prune", len(texts) + 1) for text in each.texts]
    assert found == [*texts, texts[0]]
