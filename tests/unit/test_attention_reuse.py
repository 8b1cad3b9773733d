"""Layers that take the attention map of a layer below (ARMHuBERT): computed, costed, gated, cut, packed, exported, refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sottovoce.core.registry import STUDENTS
from sottovoce.encoder import Encoder, EncoderConfig, LayerConfig
from sottovoce.exporting.graph import Graph
from sottovoce.hub.student import load, save_student
from sottovoce.inference.packed import can_pack, pack
from sottovoce.pruning import GatedEncoder, encoder_cost, total
from sottovoce.pruning.factors import with_factors
from tests.conftest import one_teacher, tiny_shape


def shape(depth: int = 4) -> EncoderConfig:
    layer = LayerConfig(4, 8, 64)
    return dataclasses.replace(
        tiny_shape(), layers=tuple(dataclasses.replace(layer, reuse=i % 4 in (1, 2)) for i in range(depth))
    )


def encoder(config: EncoderConfig | None = None) -> Encoder:
    made = Encoder(config or shape()).reset_parameters().eval()
    for name, parameter in made.named_parameters():  # peaked maps, so that a wrong one shows
        if "q_proj" in name or "k_proj" in name:
            parameter.data *= 20
    return made


def test_a_taken_map_is_worth_a_computed_one() -> None:
    """Queries and keys are constant here, made of biases alone, so that all maps are equal, taken or computed."""
    reused, plain = encoder(shape(2)), Encoder(dataclasses.replace(shape(2), layers=tiny_shape(2).layers)).eval()
    plain.load_state_dict(reused.state_dict(), strict=False)
    for attention in (plain.layers[0].attention, plain.layers[1].attention, reused.layers[0].attention):
        for part in (attention.q_proj, attention.k_proj):
            part.weight.data.zero_()
            part.bias.data.fill_(0.3)
    wave, lengths = torch.randn(2, 8_000), torch.tensor([8_000, 5_000])
    ours, theirs = reused(wave, lengths), plain(wave, lengths)
    for x, y in zip(ours.hidden, theirs.hidden, strict=True):
        torch.testing.assert_close(x[0], y[0])
        torch.testing.assert_close(x[1, :15], y[1, :15])


def test_the_map_is_that_of_the_layer_below() -> None:
    made = encoder()
    assert not hasattr(made.layers[1].attention, "q_proj")
    assert hasattr(made.layers[3].attention, "q_proj")
    assert made.config.map_takers(0) == [1, 2]
    assert made.config.map_takers(3) == []
    x = torch.randn(1, 20, 32)
    maps = type("Map", (), {})()
    made.layers[0].attention(x, None, None, maps)
    taken = made.layers[1].attention(x, None, None, maps)
    v = made.layers[1].attention.v_proj(x).view(1, 20, 4, 8).transpose(1, 2)
    expected = made.layers[1].attention.out_proj((maps.shares @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(taken, expected)


def test_padding_changes_nothing() -> None:
    made, wave = encoder(), torch.randn(2, 8_000)
    both, alone = made(wave, torch.tensor([8_000, 5_000])), made(wave[1:, :5_000])
    torch.testing.assert_close(both.last[1:, : alone.last.shape[1]], alone.last, atol=1e-5, rtol=1e-4)


def test_costs_are_what_is_computed() -> None:
    made = encoder()
    cost = total(encoder_cost(made.config, seconds=1.0))
    assert cost.params == sum(x.numel() for x in made.state_dict().values())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        made(torch.randn(1, 16_000))
    assert float(cost.macs) == pytest.approx(counter.get_total_flops() / 2, rel=1e-6)
    plain = dataclasses.replace(shape(), layers=tiny_shape(4).layers)
    assert cost.macs < total(encoder_cost(plain, seconds=1.0)).macs


@pytest.mark.parametrize("units", [("head",), ("head", "attention", "ffn"), ("head", "low_rank")])
def test_gated_is_cut_and_heads_go_together(units: tuple[str, ...]) -> None:
    gated = GatedEncoder(encoder(), units).eval()
    values = {group.name: torch.ones(group.size) for group in gated.plan}
    values["layers.0.head"] = torch.tensor([1.0, 0.0, 0.5, 0.0])
    if "attention" in units:
        assert "layers.0.attention" not in values  # others take its map
        values["layers.2.attention"] = torch.zeros(1)
    cut = gated.cut(values)
    assert [layer.num_heads for layer in cut.config.layers] == [2, 2, 0 if "attention" in units else 2, 4]
    wave = torch.randn(1, 8_000)
    torch.testing.assert_close(cut(wave).last, gated(wave, values=values).last, atol=1e-5, rtol=1e-4)
    assert total(encoder_cost(cut.config)).params == sum(x.numel() for x in cut.state_dict().values())
    widths = {name: float(value.ne(0).sum()) for name, value in values.items()}
    expected = total(encoder_cost(gated.encoder.config, widths)).params
    if "attention" not in units and "low_rank" not in units:
        assert expected == total(encoder_cost(cut.config)).params


def test_all_heads_may_go() -> None:
    gated = GatedEncoder(encoder(), ("head",)).eval()
    values = {"layers.0.head": torch.zeros(4)}
    wave = torch.randn(1, 8_000)
    torch.testing.assert_close(gated.cut(values)(wave).last, gated(wave, values=values).last)


def test_factors_are_of_what_is_there() -> None:
    made = Encoder(with_factors(shape(), {"layers.1.attention.v_proj": 4}))
    assert total(encoder_cost(made.config)).params == sum(x.numel() for x in made.state_dict().values())


def test_saved_and_packed(tmp_path: Path) -> None:
    made, wave = encoder(), torch.randn(1, 8_000)
    if can_pack():
        torch.testing.assert_close(pack(made)(wave).last, made(wave).last, atol=1e-4, rtol=1e-3)
    save_student(tmp_path / "student", made, normalize=False, teacher="x")
    loaded = load(tmp_path / "student")
    assert torch.equal(loaded(wave).last, made(wave).last)


def test_the_exported_graph_gives_the_same() -> None:
    made, wave = encoder(), torch.randn(1, 8_000)
    given = wave, torch.tensor([8_000])
    program = torch.export.export(Graph(made, normalize=False, layer="last"), given).module()
    torch.testing.assert_close(program(*given)[0], made(wave).last, atol=1e-5, rtol=1e-4)


def test_impossible_maps_are_refused() -> None:
    layer = LayerConfig(4, 8, 64)
    for layers in (
        (dataclasses.replace(layer, reuse=True),),
        (layer, dataclasses.replace(layer, num_heads=2, reuse=True)),
        (dataclasses.replace(layer, attention=False, num_heads=0), dataclasses.replace(layer, reuse=True)),
    ):
        with pytest.raises(ValueError, match="none there has as many heads"):
            dataclasses.replace(tiny_shape(), layers=layers)


def test_random_students_share_maps() -> None:
    cls = STUDENTS.get("random")
    config = cls.Config(dim=32, depth=4, heads=4, ffn_dim=48, position_groups=4, conv_dims=(8,) * 7, share_maps=2)
    made = cls(config).build(None)
    assert [layer.reuse for layer in made.config.layers] == [False, True, False, True]
    assert EncoderConfig.from_dict(made.config.to_dict()) == made.config
    assert "reuse" not in tiny_shape().layers[0].to_dict()


@pytest.mark.parametrize("start", ["random", "cut"])
def test_narrow_students_share_maps(start: str) -> None:
    teacher = one_teacher().origin
    assert teacher is not None
    cls = STUDENTS.get("narrow")
    made = cls(cls.Config(start=start, share_maps=2)).build(teacher)
    assert [layer.reuse for layer in made.config.layers] == [i % 2 > 0 for i in range(len(made.config.layers))]
    taken, given = made.state_dict(), teacher.encoder.state_dict()
    assert not any(name.startswith("layers.1.attention.q_proj") for name in taken)
    assert all(torch.equal(taken[name], given[name]) for name in taken) == (start == "cut")
    with pytest.raises(ValueError, match="share_maps is 0"):
        cls(cls.Config(start=start, share_maps=0)).build(teacher)
