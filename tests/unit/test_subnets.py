"""Once for all: subnets of one encoder, their training, and taking one out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sottovoce
from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder
from sottovoce.objectives.colld import Colld
from sottovoce.pruning import encoder_cost, total
from sottovoce.pruning.subnet import Space, Subnets, Supernet, extract, layers_left
from sottovoce.train import api
from sottovoce.train.learner import Learner
from sottovoce.train.recipe import Masking, ObjectiveChoice, load_recipe
from sottovoce.train.stages.subnet import filled, smallest
from sottovoce.train.work import Work
from tests.conftest import one_teacher, tiny_shape
from tests.interruption import ends_the_same
from tests.unit.test_pruning_styles import CONFORMER, WAVLM, WHISPER

TINY = Space((16, 24, 32), (2, 3), (2, 3, 4), (1.0, 1.5, 2.0))
SPACE = ["pruning.space={dims: [16,24,32], depths: [2,3], heads: [2,3,4], ratios: [1.0,1.5,2.0]}"]
FAST = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=2", "data.workers=0", "precision=fp32"]
MASKED = Colld.Config(layers=1, target="block", hidden="distance", l1=1.0, cosine=0.0)


def encoder(depth: int = 3) -> Encoder:
    made = Encoder(tiny_shape(depth)).reset_parameters().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # biases and norms count, too
    return made


def test_the_spaces_are_as_large_as_published() -> None:
    assert f"{Space().count:.1e}" == "9.5e+11"
    base = load_recipe("lighthubert-base", fixed={"teacher": "x"}).pruning.space
    assert f"{base.count:.1e}" == "6.5e+09"


def test_sizes_of_subnets_are_as_published() -> None:
    """11M to 44M; the default subnet has 27.0M."""
    shape = dataclasses.replace(
        tiny_shape(12),
        dim=768,
        layers=(dataclasses.replace(tiny_shape().layers[0], num_heads=12, head_dim=64, ffn_dim=3072),) * 12,
    )
    convs = tuple(dataclasses.replace(conv, dim=512) for conv in shape.frontend.convs)
    shape = dataclasses.replace(
        shape,
        frontend=dataclasses.replace(shape.frontend, convs=convs),
        position=dataclasses.replace(shape.position, kernel=128, groups=16),
    )
    subnets, space = Subnets(shape), Space()

    def millions(subnet: Any) -> float:
        return float(total(encoder_cost(subnets.shape(subnet))).params) / 1e6

    sizes = [
        millions(subnet) for subnet in (smallest(space, 12), space.subnet(12, 384, (6,) * 12, (4.0,) * 12), space.largest(12))
    ]
    assert sizes == pytest.approx([11.0, 27.0, 44.0], abs=0.5)


def test_layers_go_as_in_the_papers_code() -> None:
    left = {count: layers_left(12, count) for count in (12, 11, 10, 8, 6)}
    assert left[12] == tuple(range(12))
    assert set(range(12)) - set(left[11]) == {11}
    assert set(range(12)) - set(left[10]) == {7, 11}
    assert left[8] == (0, 1, 2, 4, 5, 6, 8, 9)
    assert left[6] == (0, 1, 4, 5, 8, 9)
    assert [layers_left(2, count) for count in (1, 2)] == [(0,), (0, 1)]


def test_feed_forward_units_are_the_first_of_each_block() -> None:
    subnets = Subnets(tiny_shape())  # 32 dimensions, 64 units
    assert subnets.units(16, 24) == [*range(16), *range(32, 40)]
    assert subnets.units(32, 64) == list(range(64))


@pytest.mark.parametrize("seed", range(4))
def test_a_subnet_taken_out_is_the_one_inside(seed: int) -> None:
    whole, supernet = encoder(), Supernet(encoder(), TINY)
    supernet.encoder.load_state_dict(whole.state_dict())
    subnet = TINY.draw(3, torch.Generator().manual_seed(seed))
    supernet.eval().chosen = subnet
    wave, lengths = torch.randn(2, 8_000), torch.tensor([8_000, 6_000])
    mask, vector = torch.rand(2, 24) > 0.5, torch.randn(32)
    taken, kept = extract(whole, subnet), supernet.subnets.kept(subnet.dim)
    inside = supernet(wave, lengths, mask=mask, mask_vector=vector)
    alone = taken(wave, lengths, mask=mask, mask_vector=vector[kept])
    assert (taken.config.dim, len(taken.layers)) == (subnet.dim, len(subnet.layers))
    for i, state in enumerate(inside.hidden):
        own = alone.hidden[sum(layer < i for layer in subnet.layers)]
        assert torch.equal(state[..., kept], own)
        assert int((state != 0).any(0).any(0).sum()) <= subnet.dim
    assert torch.equal(inside.last[..., kept], alone.last)
    assert sum(x.numel() for x in taken.state_dict().values()) == total(encoder_cost(taken.config)).params
    largest = extract(whole, TINY.largest(3))
    assert torch.equal(extract(largest, subnet)(wave, lengths).last, extract(whole, subnet)(wave, lengths).last)


def test_a_subnet_of_whisper_has_its_positions() -> None:
    shape = dataclasses.replace(WHISPER, window=0)
    layer = shape.layers[0]
    space = Space((shape.dim // 2,), (len(shape.layers),), (layer.num_heads,), (0.5,))
    whole = Encoder(shape).reset_parameters().eval()
    student = extract(whole, space.largest(len(shape.layers)))
    assert student.positions.shape == (shape.positions, shape.dim // 2)
    assert torch.isfinite(student(torch.randn(1, 8_000)).last).all()


def test_every_batch_trains_another_subnet_and_nothing_outside() -> None:
    learner = Learner(encoder(), {"colld": ObjectiveChoice("colld", MASKED)}, one_teacher(), Masking())
    supernet = Supernet(learner.encoder, TINY)
    learner.student = supernet
    drawn = learner.draw(Batch(torch.randn(2, 8_000)))
    seen = set()
    for _ in range(6):
        learner.zero_grad()
        learner(drawn, learner.targets(drawn))["colld"].total.backward()
        subnet = supernet.last
        seen.add(subnet)
        grad = supernet.encoder.layers[0].ffn.up_proj.weight.grad
        outside = torch.ones_like(grad, dtype=torch.bool)
        rows = torch.tensor(supernet.subnets.units(subnet.dim, subnet.ffn[0]))
        outside[rows[:, None], supernet.subnets.kept(subnet.dim)] = False
        assert grad[~outside].abs().max() > 0
        assert not grad[outside].any()
        mask_grad, head_grad = learner.mask_vector.grad, learner.objectives["colld"].heads[0].weight.grad
        for each in (mask_grad, head_grad):
            assert int(each.reshape(-1, 32).any(0).sum()) == subnet.dim
    assert len(seen) > 3
    learner.eval()
    learner(drawn, learner.targets(drawn))
    assert supernet.last == TINY.largest(3)


def test_objectives_go_with_the_subnet() -> None:
    whole = encoder()
    learner = Learner(whole, {"colld": ObjectiveChoice("colld", MASKED)}, one_teacher(), Masking()).eval()
    supernet, subnet = Supernet(whole, TINY), TINY.draw(3, torch.Generator().manual_seed(1))
    supernet.eval().chosen = subnet
    learner.student = supernet
    torch.manual_seed(0)
    drawn = learner.draw(Batch(torch.randn(2, 8_000)))
    inside = learner(drawn, learner.targets(drawn))["colld"].total
    learner.put(extract(whole, subnet), subnet.layers, supernet.subnets.kept(subnet.dim))
    alone = learner(drawn, learner.targets(drawn))["colld"].total
    assert learner.mask_vector.shape == (subnet.dim,)
    torch.testing.assert_close(inside, alone)


def test_candidates_use_the_budget_and_no_more() -> None:
    subnets, space = Subnets(tiny_shape()), TINY
    whole = float(total(encoder_cost(subnets.config)).params)

    def share(subnet: Any) -> float:
        return float(total(encoder_cost(subnets.shape(subnet))).params) / whole

    generator = torch.Generator().manual_seed(0)
    found = [filled(space, space.draw(3, generator), 0.5, share, generator) for _ in range(10)]
    for subnet in found:
        if subnet is None:
            continue
        assert share(subnet) <= 0.5
        assert all(share(more) > 0.5 for more in space.neighbours(subnet, 1))
    assert any(found)
    assert filled(space, space.largest(3), 0.1, share, generator) is None


def test_what_cannot_be_a_supernet_is_refused() -> None:
    for shape in (CONFORMER, WAVLM, dataclasses.replace(tiny_shape(), factored=(("layers.0.ffn.up_proj", 4),))):
        with pytest.raises(ValueError, match="equal Transformer layers"):
            TINY.check(shape)
    with pytest.raises(ValueError, match=r"space\.ratios goes up to 4, and the encoder has 2"):
        Space((16,), (2,), (2,), (4.0,)).check(tiny_shape())
    with pytest.raises(ValueError, match="multiple of the 4 groups"):
        Space((18,), (2,), (2,), (1.0,)).check(tiny_shape())
    with pytest.raises(ValueError, match="ascending"):
        Space(dims=(512, 256))
    with pytest.raises(ValueError, match="must be of kind subnet"):
        load_recipe("lighthubert", ["stages.largest=false"], fixed={"teacher": "x"})
    with pytest.raises(ValueError, match="subnets have others"):
        load_recipe("lighthubert", ["stages.subnets.teacher_fed=true"], fixed={"teacher": "x"})
    stage = load_recipe("lighthubert-subnet", [*SPACE, "pruning.budget.keep=0.05"], fixed={"teacher": "x"}).build_stages()[0]
    with pytest.raises(ValueError, match="the smallest subnet"):
        stage.prepare(Work(encoder()), one_teacher())


def test_one_run_gives_students_of_several_sizes(teacher_folder: Path, speech_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": speech_folder, "device": "cpu"}
    steps = [f"stages.{label}.{field}" for label in ("first", "subnets") for field in ("steps=2", "warmup=0", "accumulate=1")]
    once = api.compress(
        teacher_folder, recipe="lighthubert", out=tmp_path / "once", overrides=[*FAST, *SPACE, *steps], larger=True, **options
    )
    assert once.record["stages"][2]["subnet"]["dim"] == 32
    small = api.compress(
        once.out,
        recipe="lighthubert-subnet",
        out=tmp_path / "small",
        keep=0.6,
        overrides=[*FAST, *SPACE, "stages.subnet.candidates=3"],
        **options,
    )
    assert small.met
    assert small.record["budget"]["after"] <= 0.6
    whole, part = (load_file(each.out / "model.safetensors") for each in (once, small))
    subnet = small.record["stages"][0]["subnet"]
    kept = Subnets(tiny_shape()).kept(subnet["dim"])
    name = next(name for name in part if name.endswith("norm.weight") and "layers" not in name and len(part[name]) == len(kept))
    assert torch.equal(part[name], whole[name][kept])
    assert sottovoce.load(small.out)(torch.randn(1, 8_000)).last.shape[-1] == subnet["dim"]


def test_a_run_ends_the_same_when_it_was_interrupted_between_subnets(
    teacher_folder: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [
        *FAST,
        *SPACE,
        "stages.first=false",
        "save_minutes=0",
        *(f"stages.subnets.{field}" for field in ("steps=6", "warmup=1", "accumulate=2")),
    ]

    def run(out: str) -> api.Result:
        return api.compress(
            teacher_folder,
            recipe="lighthubert",
            data=speech_folder,
            out=tmp_path / out,
            device="cpu",
            overrides=overrides,
            larger=True,
        )

    ends_the_same(run, monkeypatch, after=3)
