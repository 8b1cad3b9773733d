"""Several teachers in one run: other frame rates and widths, vectors per recording, targets that are kept, recipes of both forms."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from sottovoce.core.config import plain
from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.core.types import Batch, Features, Vectors, resampled
from sottovoce.data.config import DataConfig, bytes_in
from sottovoce.encoder import ConvConfig, Encoder, EncoderConfig, FrontendConfig, LayerConfig, PositionConfig
from sottovoce.hub.pretrained import save_pretrained
from sottovoce.objectives import EncoderShape
from sottovoce.train import api, targets
from sottovoce.train.answers import mask_for
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, ObjectiveChoice, Recipe, build_recipe, load_recipe, present_form
from sottovoce.train.run import Stopped
from sottovoce.train.target_store import TargetStore, digest, size_of
from sottovoce.train.targets import Teachers
from sottovoce.train.teachers import Teacher, TeacherSettings
from sottovoce.train.teachers.encoder import EncoderTeacher
from tests.conftest import one_teacher, tiny_shape

FAST = [
    "data.seconds_per_batch=4",
    "data.min_seconds=0.5",
    "data.max_seconds=2",
    "data.workers=0",
    "precision=fp32",
    "log_every=1",
]


@pytest.fixture(scope="module")
def slow_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 wide, a frame every 480 samples: two thirds of the others' rate."""
    sizes = zip((10, 3, 3, 3, 3, 2), (5, 2, 2, 2, 2, 6), strict=True)
    shape = EncoderConfig(
        frontend=FrontendConfig(tuple(ConvConfig(12, kernel, stride) for kernel, stride in sizes), norm="layer"),
        dim=24,
        position=PositionConfig(kernel=16, groups=4),
        layers=(LayerConfig(4, 6, 32),) * 2,
    )
    assert shape.frontend.stride == 480
    folder = tmp_path_factory.mktemp("slow")
    torch.manual_seed(5)
    save_pretrained(folder, Encoder(shape).reset_parameters(), "wav2vec2", normalize=True)
    return folder


@pytest.fixture(scope="module")
def few(speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine of the recordings, so that an epoch is short."""
    folder = tmp_path_factory.mktemp("few")
    for path in sorted(speech_folder.iterdir())[:9]:
        shutil.copy(path, folder)
    return folder


def several(teacher_folder: Path, slow_teacher: Path) -> dict[str, Any]:
    """A recipe in which a student learns from two encoders, from the first in two ways, and from an utterance teacher."""
    return {
        "teachers": {
            "near": str(teacher_folder),
            "far": {"source": str(slow_teacher)},
            "voice": {"kind": "utterance", "source": str(slow_teacher), "layer": "1"},
        },
        "student": {"name": "copy", "teacher": "near"},
        "objectives": {
            "layer_to_layer": {"layers": [["0"], ["3"]]},
            "middle": {"name": "layer_to_layer", "layers": [["2"]], "weight": 0.5},
            "distant": {"name": "layer_to_layer", "teacher": "far", "layers": [["1/1"]], "weight": 0.5},
            "colld": {"teacher": "far", "layers": 2, "hidden": "distance"},
            "utterance_regression": {"teacher": "voice", "mse": 1.0},
        },
        "stages": {"distill": {"kind": "train", "steps": 12, "warmup": 1, "lr": 1e-3}},
    }


def write(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def fill(store: TargetStore, asked: str, entries: int) -> None:
    """About 1,080 bytes each."""
    for i in range(entries):
        store.rows(asked, [f"{i:04d}"], lambda: [{"vector": torch.ones(500).half()}])


def losses(out: Path) -> list[dict[str, float]]:
    """The logged rows of a run, without its speed."""
    rows = [json.loads(line) for line in (out / "run/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "audio_per_s"} for row in rows]


def train(recipe: Path, data: Path, out: Path, extra: list[str] | None = None, teacher: str = "") -> api.Result:
    return api.compress(teacher, recipe=recipe, data=data, out=out, device="cpu", overrides=[*FAST, *(extra or [])])


def test_one_student_learns_from_several_teachers(
    teacher_folder: Path, slow_teacher: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two frame rates and widths, two treatments of the wave, one objective twice, a vector per recording; stopped and resumed exactly."""
    recipe = write(tmp_path / "several.yaml", several(teacher_folder, slow_teacher))
    result = train(recipe, few, tmp_path / "whole")
    rows = [row for row in losses(tmp_path / "whole") if "loss" in row]
    assert len(rows) == 12
    for part in ("layer_to_layer/l1", "middle/l1", "distant/l1", "colld/l1", "utterance_regression/mse"):
        assert all(part in row for row in rows)
    assert rows[-1]["utterance_regression/mse"] < rows[0]["utterance_regression/mse"]

    assert set(result.record["teachers"]) == {"near", "far", "voice"}
    assert result.record["teachers"]["voice"]["kind"] == "utterance"
    assert result.record["teacher"] == result.record["teachers"]["near"]
    card = (tmp_path / "whole/README.md").read_text(encoding="utf-8")
    assert card.count(f"`{slow_teacher.name}`") == 2
    assert f"The weights derive from `{teacher_folder.name}`; their licences" in card
    kept = load_file(tmp_path / "whole/model.safetensors")
    assert {tuple(kept[name].shape) for name in kept if name.startswith("projections.") and name.endswith("weight")} == {(32, 32)}

    asked = targets.Teachers.clean

    def stop(self: Teachers, *given: Any, **options: Any) -> Any:
        stop.calls += 1  # type: ignore[attr-defined]
        if stop.calls == 14:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(self, *given, **options)

    stop.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(targets.Teachers, "clean", stop)
    with pytest.raises(Stopped):
        train(recipe, few, tmp_path / "parts")
    monkeypatch.undo()
    train(recipe, few, tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "run/distill.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class TestFrames:
    def test_resampled_lies_at_the_centres_of_frames(self) -> None:
        """A value that grows evenly with time is read at the same times, whatever the rate; rows end where their audio ends."""
        theirs = ((torch.arange(30.0) + 0.5) * 480).view(1, 30, 1)
        ours = resampled(theirs, 45, 320 / 480)
        expected = ((torch.arange(45.0) + 0.5) * 320).clamp(240, 29.5 * 480)
        torch.testing.assert_close(ours[0, :, 0], expected)
        short = resampled(theirs.expand(2, -1, -1), 45, 320 / 480, torch.tensor([30, 10]))
        assert torch.equal(short[0], ours[0])
        assert float(short[1].max()) == 9.5 * 480

    def test_equal_and_whole_rates_are_not_resampled(self) -> None:
        student = EncoderShape(8, 2, stride=640)
        assert EncoderShape(8, 2, stride=640).for_student(student) == EncoderShape(8, 2, stride=640)
        assert EncoderShape(8, 2, stride=320).for_student(student) == EncoderShape(16, 2, stride=320, join=2)
        assert EncoderShape(8, 2, stride=480).for_student(student) == EncoderShape(8, 2, stride=480, rate=640 / 480)
        assert EncoderShape(8, 2, stride=1280).for_student(student).rate == 0.5
        x = torch.randn(1, 9, 4)
        features = Features([x], None, x, x)
        assert features.on_frames(9) is features

    def test_a_teacher_of_another_length_is_refused(self) -> None:
        x = torch.zeros(1, 30, 4)
        with pytest.raises(ValueError, match="frame rates differ"):
            Features([x], None, x, x).on_frames(100, rate=2 / 3)

    def test_masks_are_put_on_the_teachers_frames(self, slow_teacher: Path) -> None:
        teacher = EncoderTeacher(EncoderTeacher.Config(source=str(slow_teacher)), TeacherSettings(torch.device("cpu")))
        part = load_recipe("colld").objectives["colld"]
        assert part.config.mask
        learner = Learner(Encoder(tiny_shape()), {"colld": part}, Teachers({"far": teacher}, "far"), Masking())
        mask = torch.zeros(1, 30, dtype=torch.bool)
        mask[0, 6:12] = True  # samples 1,920 to 3,840: frames 4 to 7 of 480
        assert mask_for(learner.shapes["far"], mask)[0].nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_what_a_later_stage_cannot_learn_is_said_before_the_first_one_trains(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path
) -> None:
    stage = {"kind": "train", "steps": 2, "lr": 1e-3}
    recipe = {
        "teachers": {"voice": {"kind": "utterance", "source": str(teacher_folder)}},
        "objectives": {"utterance_regression": {}, "layer_to_layer": {"layers": [["3"]]}},
        "stages": {
            "first": {**stage, "objectives": ["utterance_regression"]},
            "second": {**stage, "objectives": ["layer_to_layer"]},
        },
    }
    with pytest.raises(ValueError, match=r"objectives\.layer_to_layer learns from a teacher of kind frames, and 'voice'"):
        train(write(tmp_path / "r.yaml", recipe), speech_folder, tmp_path / "out")
    assert not (tmp_path / "out/run/metrics.jsonl").exists()


def test_a_teacher_that_pads_all_audio_gives_frames_of_the_audio_alone(tmp_path: Path) -> None:
    """Whisper's encoder reads log-mel features of 30 s through its own extractor, and has a frame every 320 samples."""
    import transformers

    torch.manual_seed(0)
    shape = {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1}
    shape |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 64, "vocab_size": 32, "num_mel_bins": 20}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    transformers.WhisperModel(transformers.WhisperConfig(**shape, **ids)).save_pretrained(tmp_path)
    transformers.WhisperFeatureExtractor(feature_size=20).save_pretrained(tmp_path)
    teacher = EncoderTeacher(EncoderTeacher.Config(source=str(tmp_path)), TeacherSettings(torch.device("cpu")))
    assert teacher.shape == EncoderShape(48, 2, 320)
    parts = load_recipe("dphubert", ["objectives.layer_to_layer.layers=[['1/1']]"]).objectives
    learner = Learner(Encoder(tiny_shape()).reset_parameters(), parts, Teachers({"w": teacher}, "w"), Masking()).eval()
    drawn = learner.draw(Batch(torch.randn(2, 16_000), torch.tensor([16_000, 9_000])))
    found = learner.targets(drawn)["w", "clean"]
    assert isinstance(found, Features)
    assert found.last.shape == (2, 49, 48)
    assert torch.isfinite(learner(drawn, {("w", "clean"): found})["layer_to_layer"].total)


def test_a_kind_of_teacher_is_one_class(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score per recording, from outside the package, without any other edit: named in a recipe, learned, recorded."""

    class Loudness(Teacher):
        """The level of each recording in dB."""

        name = "loudness"
        answers = "utterance"
        Config = Teacher.Config
        shape = EncoderShape(1, 0)

        def answer(self, batch: Batch, mask: torch.Tensor | None = None, taps: bool = False) -> Vectors:
            return Vectors(batch.wave.square().mean(1, keepdim=True).log10())

    monkeypatch.setitem(TEACHER_KINDS._items, "loudness", Loudness)
    learned = {"teacher": "level", "cosine": 0, "mse": 1.0, "layer": "1"}
    path = write(
        tmp_path / "r.yaml",
        {
            "teachers": {"near": str(teacher_folder), "level": {"kind": "loudness", "source": "none"}},
            "objectives": {"layer_to_layer": {"layers": [["3"]]}, "utterance_regression": learned},
            "stages": {"distill": {"kind": "train", "steps": 3, "lr": 1e-3}},
        },
    )
    result = train(path, speech_folder, tmp_path / "out")
    assert result.record["teachers"]["level"] == {"name": "none", "kind": "loudness", "family": "loudness"}
    assert all("utterance_regression/mse" in row for row in losses(tmp_path / "out") if "loss" in row)
    with pytest.raises(ValueError, match="has no cosine; set cosine: 0"):
        train(path, speech_folder, tmp_path / "no", ["objectives.utterance_regression.cosine=1"])


def test_denominators_are_frames_or_rows_and_gathered_apart(slow_teacher: Path) -> None:
    voice = TEACHER_KINDS.get("utterance")
    teachers = Teachers(
        {
            "teacher": one_teacher()["teacher"],
            "voice": voice(voice.Config(source=str(slow_teacher)), TeacherSettings(torch.device("cpu"))),
        },
        "teacher",
    )
    parts = load_recipe("dphubert", ["objectives.layer_to_layer.layers=[['3']]"]).objectives
    config = load_recipe("dphubert", ["objectives.utterance_regression.teacher=teacher", "teachers.teacher.kind=utterance",
                                      "teachers.teacher.source=x"]).objectives["utterance_regression"].config  # fmt: skip
    learner = Learner(
        Encoder(tiny_shape()).reset_parameters(),
        {**parts, "voice": ObjectiveChoice("utterance_regression", config, "voice", 3.0)},
        teachers,
        Masking(),
    ).eval()
    drawn = learner.draw(Batch(torch.randn(2, 16_000), torch.tensor([16_000, 8_000])))
    counts = learner.denominators(drawn)
    assert counts.tolist() == [49 + 24, 2]
    found = learner(drawn, learner.targets(drawn))
    expected = found["layer_to_layer"].total / 73 + 3 * found["voice"].total / 2
    torch.testing.assert_close(learner.total(found, counts), expected)


class TestRecipes:
    def test_one_string_is_one_teacher(self) -> None:
        recipe = load_recipe("dphubert", fixed={"teacher": "some/where"})
        assert recipe.main == "teacher"
        assert recipe.teacher == "some/where"
        assert recipe.teacher_for("layer_to_layer") == "teacher"

    def test_the_command_lines_teacher_is_the_main_one(self, tmp_path: Path) -> None:
        path = write(tmp_path / "r.yaml", {"include": "dphubert.yaml", "teachers": {"big": {}, "other": "there"}})
        recipe = load_recipe(path, fixed={"teacher": "here"})
        assert {label: part.config.source for label, part in recipe.teachers.items()} == {"big": "here", "other": "there"}
        with pytest.raises(ValueError, match="big has no source"):
            load_recipe(path)
        other = load_recipe(path, ["student.teacher=other", "teachers.big=there"], fixed={"teacher": "here"})
        assert (other.main, other.teacher) == ("other", "here")

    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("objectives.layer_to_layer.teacher=nead", "did you mean 'near'"),
            ("student.teacher=fat", "did you mean 'far'"),
            ("teachers.near.kind=utterances", "did you mean 'utterance'"),
            ("teachers.near.sorce=x", "did you mean 'source'"),
            ("objectives.layer_to_layer.wieght=2", "did you mean 'weight'"),
            ("objectives.layer_to_layer.teacher=voice", r"gives a vector for each recording; name another .*\(such as near"),
            ("objectives.utterance_regression.l1=0", r"'near' gives frames; name another .*\(such as voice"),
            ("objectives.train={name: colld}", "'train' cannot be a label"),
            ("stages.prune.objectives=[layer]", "did you mean 'layer_to_layer'"),
        ],
    )
    def test_mistakes_are_named(self, override: str, says: str, tmp_path: Path) -> None:
        teachers = {"near": "a", "far": "b", "voice": {"kind": "utterance", "source": "c"}}
        path = write(tmp_path / "r.yaml", {"include": "dphubert.yaml", "teachers": teachers})
        with pytest.raises(ValueError, match=says):
            load_recipe(path, [override])

    def test_an_objective_without_its_teacher_is_refused(self) -> None:
        parts = load_recipe("dphubert", ["objectives.layer_to_layer.layers=[['3']]"]).objectives
        with pytest.raises(ValueError, match=r"objectives\.layer_to_layer needs a teacher and there is none"):
            Learner(Encoder(tiny_shape()), parts, Teachers({}), Masking())

    def test_former_weights_are_read(self, tmp_path: Path) -> None:
        """In files that include each other, on the command line, and beside the present form."""
        path = write(tmp_path / "old.yaml", {"include": "sotto.yaml", "objective_weights": {"colld": 0.5}})
        assert load_recipe("sotto").objectives["colld"].weight == 0.2
        assert load_recipe(path).objectives["colld"].weight == 0.5
        assert load_recipe(path, ["objectives.colld.weight=0.7"]).objectives["colld"].weight == 0.7
        assert load_recipe("sotto", ["objective_weights.colld=0.3"]).objectives["colld"].weight == 0.3
        assert load_recipe("sotto", ["objective_weights.layer_to_layer=2"]).objectives["layer_to_layer"].weight == 2

    def test_what_a_run_writes_is_read_back(self, tmp_path: Path) -> None:
        teachers = {"near": "a", "voice": {"kind": "utterance", "source": "c", "layer": "1/2"}}
        recipe = load_recipe("sotto", [f"teachers={json.dumps(teachers)}"])
        assert build_recipe(present_form(plain(recipe))) == recipe
        assert isinstance(recipe, Recipe)

    def test_a_former_recipe_gives_the_same_losses(self, teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
        shared = {"include": "layer-to-layer-random.yaml", "student": {"name": "copy"}}
        colld = {"layers": 2, "distractors": 5}
        old = {**shared, "objectives": {"colld": colld}, "objective_weights": {"colld": 0.3, "layer_to_layer": 2.0}}
        new = {**shared, "objectives": {"colld": {**colld, "weight": 0.3}, "layer_to_layer": {"weight": 2.0}}}
        for name, recipe in (("old", old), ("new", new)):
            path = write(tmp_path / f"{name}.yaml", recipe)
            train(
                path, speech_folder, tmp_path / name, ["stages.distill.steps=3", "stages.distill.warmup=1"], str(teacher_folder)
            )
        assert losses(tmp_path / "old") == losses(tmp_path / "new")


class TestKeptTargets:
    @pytest.fixture(autouse=True)
    def _cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))

    KEPT = ("data.crop=none", "data.keep_targets=50MB", "stages.distill.steps=11", "stages.distill.warmup=1")

    def test_later_epochs_ask_no_teacher(
        self, teacher_folder: Path, slow_teacher: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And losses are those without the store, to half precision; a second run of the same teachers asks nobody at all."""
        shape = {
            "dim": 24,
            "heads": 4,
            "depth": 3,
            "ffn_dim": 32,
            "position_kernel": 16,
            "position_groups": 4,
            "conv_dims": [8] * 7,
        }
        settings = several(teacher_folder, slow_teacher) | {"student": {"name": "random", **shape}}
        recipe = write(tmp_path / "several.yaml", settings)
        asked: list[int] = []
        ask = EncoderTeacher.features

        def counted(self: EncoderTeacher, batch: Batch, *rest: Any) -> Features:
            asked.append(len(batch.wave))
            return ask(self, batch, *rest)

        monkeypatch.setattr(EncoderTeacher, "features", counted)
        train(recipe, few, tmp_path / "kept", list(self.KEPT))
        assert sum(asked) == 3 * 15  # three teachers, each utterance once, the held-out one included
        asked.clear()
        train(recipe, few, tmp_path / "again", list(self.KEPT))
        assert not asked
        assert losses(tmp_path / "again") == losses(tmp_path / "kept")
        train(recipe, few, tmp_path / "plain", [*self.KEPT, "data.keep_targets=0"])
        assert sum(asked) > 3 * 15  # the second epoch asks again
        for ours, theirs in zip(losses(tmp_path / "kept"), losses(tmp_path / "plain"), strict=True):
            assert ours.pop("stage") == theirs.pop("stage")
            assert ours == pytest.approx(theirs, rel=5e-3, abs=5e-3)

    def test_damaged_entries_are_asked_for_again(self, tmp_path: Path) -> None:
        store, asked = TargetStore(tmp_path / "targets", 1e6), list[int]()

        def answer() -> list[dict[str, Tensor]]:
            asked.append(1)
            return [{"vector": torch.ones(4).half()}]

        store.rows("a teacher", ["abcd"], answer)
        (path,) = tmp_path.rglob("abcd")
        for broken in (path.read_bytes()[:-1], path.read_bytes()[:-1] + b"?", b""):
            path.write_bytes(broken)
            asked.clear()
            for _ in range(2):
                (found,) = store.rows("a teacher", ["abcd"], answer)
                assert torch.equal(found["vector"], torch.ones(4).half())
            assert len(asked) == 1

    def test_the_bound_holds_and_is_said_once(self, tmp_path: Path) -> None:
        said: list[str] = []
        store = TargetStore(tmp_path / "targets", 5_000, said.append)
        fill(store, "a teacher", 20)
        assert size_of(tmp_path / "targets") <= 5_000
        assert len(said) == 1
        assert "data.keep_targets" in said[0]
        store.rows("a teacher", ["0000"], lambda: pytest.fail("it is kept"))
        assert TargetStore(tmp_path / "targets", 5_000).room < 2_000

    def test_targets_of_earlier_runs_make_room(self, tmp_path: Path) -> None:
        """The oldest first, and none that a run beside this one may be using."""
        said: list[str] = []
        for asked, minutes in (("yesterday's", 60 * 24), ("this morning's", 60 * 3), ("another run's", 1)):
            fill(TargetStore(tmp_path, 1e6), asked, 1)
            os.utime(tmp_path / digest(asked), (time.time() - 60 * minutes,) * 2)
        store = TargetStore(tmp_path, 5_000, said.append)
        fill(store, "today's", 2)
        assert {path.name for path in tmp_path.iterdir()} == {
            digest(asked) for asked in ("this morning's", "another run's", "today's")
        }
        assert len(said) == 1
        assert "deleted" in said[0]
        fill(store, "today's", 20)
        assert {path.name for path in tmp_path.iterdir()} == {digest(asked) for asked in ("another run's", "today's")}
        assert size_of(tmp_path) <= 5_000
        assert len(said) == 2
        assert "data.keep_targets" in said[1]

    def test_what_is_read_counts_as_used(self, tmp_path: Path) -> None:
        fill(TargetStore(tmp_path, 1e6), "old", 1)
        os.utime(tmp_path / digest("old"), (0, 0))
        TargetStore(tmp_path, 1e6).rows("old", ["0000"], lambda: pytest.fail("it is kept"))
        fill(TargetStore(tmp_path, 3_000), "new", 5)
        assert (tmp_path / digest("old")).is_dir()

    def test_a_folder_that_cannot_be_touched_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(TargetStore(tmp_path, 1e6), "a teacher", 1)

        def denied(*_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "utime", denied)
        TargetStore(tmp_path, 1e6).rows("a teacher", ["0000"], lambda: pytest.fail("it is kept"))

    def test_a_full_disk_ends_the_keeping_not_the_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said: list[str] = []
        teachers = Teachers({"teacher": one_teacher()["teacher"]}, "teacher", TargetStore(tmp_path / "t", 1e9, said.append))
        batch = Batch(torch.randn(3, 8_000))

        def full(self: Path, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        found = teachers.clean("teacher", batch, teachers.row_keys(batch), [3])
        assert isinstance(found, Features)
        assert found.hidden[3].shape == (3, 24, 32)
        assert len(said) == 1
        assert "No space left" in said[0]
        assert not [path for path in (tmp_path / "t").rglob("*") if path.is_file()]

    def test_rows_come_back_as_they_went_in_whatever_is_beside_them(self, tmp_path: Path) -> None:
        teachers = Teachers({"teacher": one_teacher()["teacher"]}, "teacher", TargetStore(tmp_path / "t", 1e9))
        wave = torch.randn(2, 16_000)
        wave[1, 9_000:] = 0
        both, alone = Batch(wave, torch.tensor([16_000, 9_000])), Batch(wave[1:, :9_000])
        first = teachers.clean("teacher", both, teachers.row_keys(both), [1, 3], [2])
        again = teachers.clean("teacher", both, teachers.row_keys(both), [1, 3], [2])
        single = teachers.clean("teacher", alone, teachers.row_keys(alone), [1, 3], [2])
        for each in (first, again, single):
            assert isinstance(each, Features)
        assert isinstance(first, Features)
        assert isinstance(again, Features)
        assert isinstance(single, Features)
        for ours, theirs in zip([*first.hidden, *first.ffn], [*again.hidden, *again.ffn], strict=True):
            assert torch.equal(ours, theirs)
        assert first.lengths is not None
        assert torch.equal(single.hidden[3][0], first.hidden[3][1, : int(first.lengths[1])])
        straight = teachers["teacher"].answer(both)
        assert isinstance(straight, Features)
        torch.testing.assert_close(first.hidden[3][0], straight.hidden[3][0], rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("target", ["block", "ffn"])
    def test_masked_audio_is_asked_about_each_time(self, target: str, tmp_path: Path) -> None:
        """Visible frames come from the teacher on masked audio, hidden ones from what is kept; that this is not kept is said once."""
        teacher, said = one_teacher()["teacher"], list[str]()
        assert isinstance(teacher, EncoderTeacher)
        teacher.pretrained = dataclasses.replace(teacher.pretrained, mask_vector=torch.randn(32))
        store = TargetStore(tmp_path / "t", 1e9, said.append)
        fields = ["masked_teacher=true", "visible=distance", f"target={target}", "layers=2"]
        parts = load_recipe("colld", [f"objectives.colld.{field}" for field in fields]).objectives
        torch.manual_seed(1)
        plain, kept = (
            Learner(Encoder(tiny_shape()), parts, Teachers({"teacher": teacher}, "teacher", each), Masking()).eval()
            for each in (None, store)
        )
        drawn = kept.draw(Batch(torch.randn(2, 16_000)))
        expected, found = (learner.targets(drawn)["teacher", "masked"] for learner in (plain, kept))
        assert isinstance(found, Features)
        assert isinstance(expected, Features)
        states = (found.ffn[2], expected.ffn[2]) if target == "ffn" else (found.hidden[3], expected.hidden[3])
        torch.testing.assert_close(*states, rtol=1e-3, atol=1e-3)
        kept.targets(drawn)
        assert len(said) == 1
        assert "masked audio are not kept" in said[0]

    def test_numbers_too_large_for_half_precision_are_kept_roughly(self) -> None:
        big = Vectors(torch.tensor([[1e6, -3.0]]))
        found = targets.joined(targets.split(big, []), 0, torch.device("cpu"))
        assert isinstance(found, Vectors)
        torch.testing.assert_close(found.vectors, big.vectors, rtol=1e-2, atol=0)

    def test_where_nothing_could_be_used_again_is_said(self) -> None:
        with pytest.raises(ValueError, match="needs crop: none"):
            DataConfig(keep_targets="1GB")
        assert [bytes_in(size) for size in ("2GB", "1.5 mb", "17", "0")] == [2_000_000_000, 1_500_000, 17, 0]
        with pytest.raises(ValueError, match="'much' is not a size"):
            DataConfig(crop="none", keep_targets="much")
