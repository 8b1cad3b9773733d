"""Every shipped recipe parses, and trains three steps on a tiny teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sottovoce import recipes
from sottovoce.encoder import Encoder
from sottovoce.hosts.load import load_host
from sottovoce.hub.pretrained import load_pretrained, save_pretrained
from sottovoce.train import api
from sottovoce.train.recipe import load_recipe
from tests.conftest import tiny_shape
from tests.teacher_weights import WRITERS
from tests.unit import test_conformers as conformers
from tests.unit import test_families as families

SMALL = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32"]
RANDOM = ["student.dim=32", "student.heads=4", "student.depth=2", "student.ffn_dim=48", "student.position_groups=4"]
FBANK = [*RANDOM, "student.mels=20", "student.subsampler=16"]
LABELS = ["objectives.labels.clusters=20", "objectives.labels.fit_frames=1000"]
MASKED = [*RANDOM, "objectives.colld.layer_weights=[0.1,1.0]"]
NARROW = ["student.dim=16", "student.depth=2", "student.heads=2", "student.ffn_dim=32", "student.glu_dim=0"]
QUALITY = ["student.dim=32", "student.depth=2", "student.heads=4", "student.mels=20", "student.subsampler=8"]
CLIPS = ["stages.prune.clips=4"]
LOW_RANK = ["stages.factorise.multiple=1", "stages.factorise.clips=4"]
SPOKEN = ["data.text=speaker", "objectives.ctc.characters=s0123456789"]
SYNERGY = [*SPOKEN, "objectives.masked_prediction.clusters=20", "objectives.masked_prediction.fit_frames=1000"]
SUBNETS = ["pruning.space={dims: [16,32], depths: [2,3], heads: [2,4], ratios: [1.0,2.0]}"]
HOSTED = ("host",)  # recipes for encoders with a head
OWN = {
    "sotto": ["objectives.colld.layers=2"], "sotto-demo": ["objectives.colld.layers=2"],
    "colld": NARROW, "colld-demo": NARROW, "colld-xlsr": [*NARROW, "student.conv_dims=[8,8,8,8,8,8,8]"],
    "fithubert": [*RANDOM, "objectives.layer_to_layer.layers=[['1'],['2']]", "objectives.layer_to_layer.weights=[0.1,1.0]"],
    "pretrain-tiny": [*RANDOM, "student.conv_dims=[8,8,8,8,8,8,8]", "objectives.masked_prediction.fit_frames=1000"],
    "pretrain-tiny-second": [*RANDOM, "student.conv_dims=[8,8,8,8,8,8,8]", "objectives.masked_prediction.layer=2",
                             "objectives.masked_prediction.clusters=20", "objectives.masked_prediction.fit_frames=1000"],
    "pretrain-mini": [*RANDOM, "student.conv_dims=[8,8,8,8,8,8,8]", "objectives.masked_prediction.fit_frames=1000"],
    "pretrain-mini-second": [*RANDOM, "student.conv_dims=[8,8,8,8,8,8,8]", "objectives.masked_prediction.layer=2",
                             "objectives.masked_prediction.clusters=20", "objectives.masked_prediction.fit_frames=1000"],
    "pretrain-conformer": ["student.dim=32", "student.heads=4", "student.depth=2", "student.ffn_dim=48", "student.kernel=7",
                           "objectives.masked_prediction.clusters=20", "objectives.masked_prediction.fit_frames=1000"],
    "universal": [*RANDOM, "student.conv_dims=[8,8,8,8,8,8,8]", "data.speeds=[1.0]", "data.keep_targets=0"],
    "pretrain-voices": ["objectives.masked_prediction.clusters=20", "objectives.masked_prediction.fit_frames=1000"],
    "ensemble": ["teachers.second={teacher}"], "ensemble-averaged": ["teachers.all.others=[{teacher}]"],
    "ensemble-concatenated": ["teachers.all.others=[{teacher}]"],
    "full-layer-to-layer": [*RANDOM, "student.depth=3"], "interleaved-stacking": [*RANDOM, "student.depth=6"],
    "deep-narrow": [*RANDOM, "objectives.layer_to_layer.layers=[['1'],['2']]"], "shallow-wide": ["student.count=2"],
    "lighthubert": SUBNETS, "lighthubert-base": SUBNETS, "lighthubert-subnet": [*SUBNETS, "stages.subnet.candidates=2"],
    "star": RANDOM, "teacher-fed": ["student.count=1", "objectives.layer_to_layer.layers=[['0','1/1']]"],
    "maskhubert": MASKED, "armhubert": MASKED, "armhubert-s": MASKED,
    "robustdistiller": ["objectives.denoising.hidden=8"], "distilxlsr": ["student.count=3"],
    "dicehubert": [*RANDOM, "objectives.cluster_distribution.clusters=20", "objectives.cluster_distribution.fit_frames=1000"],
    "effective-deep": [*RANDOM, *LABELS, "objectives.layer_to_layer.layers=[['1'],['2']]"], "effective-wide": LABELS,
    "effective-deleted": [*LABELS, "student.count=2", "objectives.layer_to_layer.layers=[['1'],['2']]"],
    "effective-fbank": [*LABELS, "student.mels=20", "student.subsampler=16", "feature_masks.band_width=4"],
    "skill": ["objectives.layer_groups.groups=2"],
    "usad": [*FBANK, "teachers.audio={teacher}", "objectives.speech.layers=2", "objectives.audio.layers=2"],
    "usad2": [*FBANK, "teachers.audio={teacher}", "teachers.music={teacher}", "data.label=speaker",
              *(f"objectives.{label}.layers=2" for label in ("speech", "audio", "music"))],
    "minitron": CLIPS,
    "training-free": CLIPS, "training-free-magnitude": CLIPS, "training-free-taylor": CLIPS, "training-free-fisher": CLIPS,
    "training-free-clustering": CLIPS, "movement": ["stages.cut.clips=4"],
    "movement-l0": ["pruning.moved_since={teacher}", "objectives.layer_to_layer.layers=[['1/3','1/1']]"],
    "liteasr": LOW_RANK, "liteasr-repaired": LOW_RANK,
    "synergy-l0": SYNERGY, "synergy-l0-joint": SYNERGY, "hj-pruning": SPOKEN,
    "quality": QUALITY, "quality-pruned": ["teachers.larger={teacher}"],
    "synergy-low-rank": [*SYNERGY, *LOW_RANK], "synergy-low-rank-joint": [*SYNERGY, *LOW_RANK],
}  # fmt: skip
KEEP = {
    **dict.fromkeys(("liteasr", "liteasr-repaired"), 0.8),
    **dict.fromkeys(("synergy-low-rank", "synergy-low-rank-joint"), 0.9),
}  # low rank alone


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random teacher that knows what to see on masked frames."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("teacher")
    encoder = Encoder(tiny_shape()).reset_parameters()
    save_pretrained(folder, encoder, "hubert", normalize=False, mask_vector=torch.rand(encoder.config.dim))
    return folder


@pytest.fixture(scope="session")
def speakers(speech_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the recordings, with a speaker for each."""
    rows = [f"{file}\ts{i % 3}" for i, file in enumerate(sorted(speech_folder.glob("*.wav")))]
    path = tmp_path_factory.mktemp("speakers") / "speech.tsv"
    path.write_text("\n".join(["path\tspeaker", *rows]) + "\n")
    return path


@pytest.fixture(scope="session")
def host_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CTC recogniser."""
    folder = tmp_path_factory.mktemp("host")
    families.tiny("hubert", head="ForCTC", vocab_size=9, pad_token_id=0).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true, "sampling_rate": 16000}')
    return folder


@pytest.mark.parametrize("name", recipes.recipes())
def test_trains_three_steps(
    name: str, teacher: Path, host_folder: Path, speakers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    if name in HOSTED:
        teacher = host_folder
    own = [each.replace("{teacher}", str(teacher)) for each in OWN.get(name, [])]
    recipe = load_recipe(name, [each for each in own if each.startswith("teachers.")])
    stages = [stage.label for stage in recipe.build_stages() if stage.updates]
    options = {"recipe": name, "data": speakers, "out": tmp_path / "out", "device": "cpu"}
    options["overrides"] = [*SMALL, *own, "pruning.ramp=2"]
    options["overrides"] += [
        f"teachers.{label}.source={WRITERS[part.name](tmp_path)}"
        for label, part in recipe.teachers.items()
        if part.name in WRITERS
    ]
    options["overrides"] += [f"stages.{stage}.{key}" for stage in stages for key in ("steps=3", "warmup=1")]
    if name.startswith("pretrain") or name == "quality":
        result = api.pretrain(teacher=teacher if name.endswith(("second", "voices")) else "", **options)
    else:
        keep = KEEP.get(name, 0.6) if any(stage.meets_budget for stage in recipe.build_stages()) else None
        result = api.compress(teacher, keep=keep, larger=True, **options)
    assert (result.out / "model.safetensors").exists()
    assert result.met


CHUNKED = ["context.chunk=[0.08,0.16]", "context.left=[0.2,0.4]"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("synergy-l0", ["stages.shrink.objectives=[masked_prediction]", *CHUNKED]),
        ("synergy-l0-joint", ["stages.shrink.objectives=[ctc]", "pruning.units=[low_rank]"]),
        ("synergy-low-rank-joint", ["stages.recover.objectives=[ctc]", *CHUNKED]),
    ],
)
def test_the_grid_of_synergy_runs_on_a_conformer(name: str, options: list[str], speakers: Path, tmp_path: Path) -> None:
    conformers.tiny("wav2vec2_conformer", "relative").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "preprocessor_config.json").write_text('{"do_normalize": true, "sampling_rate": 16000}')
    stages = [stage.label for stage in load_recipe(name).build_stages() if stage.updates]
    steps = [f"stages.{stage}.{key}" for stage in stages for key in ("steps=2", "warmup=1")]
    result = api.compress(
        tmp_path / "teacher", recipe=name, data=speakers, out=tmp_path / "out", device="cpu", keep=0.9,
        overrides=[*SMALL, *OWN[name], *steps, *options, "pruning.ramp=2"],
    )  # fmt: skip
    assert result.met
    context = load_pretrained(str(result.out)).shape.context
    assert (context is not None) == ("context.chunk" in " ".join(options))
    host = load_host(result.out)  # the head that learned characters is part of the folder
    assert host is not None
    assert host.name == result.record["host"]["kind"] == "ctc"
    assert set("".join(host.transcribe(torch.randn(2, 16_000)))) <= set("s0123456789")
