"""The invariant: a gated encoder in evaluation is the cut encoder, whatever is closed, and both mean what a dense mask means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sottovoce.core.types import Features
from sottovoce.encoder import Encoder
from sottovoce.encoder.modules import LayerNorm, WholeNorm
from sottovoce.pruning import (
    GatedEncoder,
    Gates,
    PruningPlan,
    cut,
    cut_like,
    encoder_cost,
    gather,
    make_plan,
    named_tensors,
    narrow,
    open_units,
    prepare,
    total,
)

from .test_pruning_styles import CASES, STYLES, all_units, make, waves


def draw(plan: PruningPlan, seed: int = 0, closed: float = 0.4) -> dict[str, Tensor]:
    """Soft values, a share of them zero and some exactly one; at least the minimum open."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for group in plan:
        value = torch.rand(group.size, generator=generator) * 0.9 + 0.1
        value[torch.rand(group.size, generator=generator) < 0.2] = 1
        share = torch.rand(group.size, generator=generator)
        value[share < closed] = 0
        if group.minimum and not value.any():
            value[0] = 0.5
        values[group.name] = value
    return values


def distance(a: Features, b: Features) -> float:
    """Largest difference between valid frames of any state, the feed-forward outputs included."""
    assert len(a.hidden) == len(b.hidden)
    valid = a.valid()
    pairs = [*zip(a.hidden, b.hidden, strict=True), *zip(a.ffn, b.ffn, strict=True), (a.last, b.last), (a.embedded, b.embedded)]
    return max((x[valid] - y[valid]).abs().max().item() for x, y in pairs)


def check(encoder: Encoder, units: tuple[str, ...], values: dict[str, Tensor] | None = None, seed: int = 0) -> Encoder:
    gated = GatedEncoder(encoder, units).eval()
    values = draw(gated.plan, seed) if values is None else values
    student = gated.cut(values)
    for padded in (False, True):
        wave, lengths = waves(padded)
        with torch.no_grad():
            a, b = gated(wave, lengths, values=values, taps=True), student(wave, lengths, taps=True)
        assert distance(a, b) < 1e-5
        assert all(state.isfinite().all() for state in a.hidden)
    kept = open_units(gated.plan, values)
    assert student.config == narrow(gated.encoder.config, gated.plan, kept)
    numel = sum(tensor.numel() for tensor in student.state_dict().values())
    assert total(encoder_cost(student.config)).params == numel
    # counted from the widths alone, before anything is cut
    widths = {name: len(units) for name, units in kept.items()}
    assert total(encoder_cost(gated.encoder.config, widths)) == total(encoder_cost(student.config))
    return student


@pytest.mark.parametrize(("style", "units"), CASES)
def test_gated_is_cut(style: str, units: tuple[str, ...]) -> None:
    check(make(style), units)


@pytest.mark.parametrize("style", STYLES)
def test_gates_in_evaluation_are_their_cut(style: str) -> None:
    gated = GatedEncoder(make(style), all_units(style)).eval()
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, std=2)
    wave, lengths = waves(True)
    with torch.no_grad():
        assert distance(gated(wave, lengths), gated.cut()(wave, lengths)) < 1e-5


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "closed",
    [
        *("layers.1.head", "layers.1.ffn", "layers.1.attention", "layers.1.feed_forward", "position", "all heads", "everything"),
        *("layers.1.ffn1", "layers.1.feed_forward1", "layers.1.glu"),  # of Conformer layers
    ],
)
def test_closed_for_good(style: str, closed: str) -> None:
    encoder, units = make(style), all_units(style)
    plan = make_plan(prepare(encoder, units).config, units)
    if closed not in ("all heads", "everything", *(group.name for group in plan)):
        pytest.skip("no such part, or a row of positional convolutions, which is not pruned")
    values = draw(plan, closed=0.2)
    for group in plan:
        if group.name == closed or (closed == "all heads" and group.kind == "head"):
            values[group.name].zero_()
        elif closed == "everything":
            values[group.name][group.minimum :] = 0
            values[group.name][: group.minimum] = 0.7
        elif group.kind in ("attention", "feed_forward"):
            values[group.name].fill_(0.8)
    student = check(encoder, units, values)
    layer = student.config.layers[1]
    if layer.kind == "conformer":
        assert (layer.ffn1_dim == 0) == (closed in ("layers.1.ffn1", "layers.1.feed_forward1", "everything"))
        assert layer.ffn1 == (closed not in ("layers.1.feed_forward1", "everything"))
        assert (layer.glu_dim == 0) == (closed in ("layers.1.glu", "everything"))
    assert (layer.num_heads == 0) == (closed in ("layers.1.head", "layers.1.attention", "all heads", "everything"))
    assert layer.attention == (closed not in ("layers.1.attention", "everything"))
    assert (layer.ffn_dim == 0) == (closed in ("layers.1.ffn", "layers.1.feed_forward", "everything"))
    assert layer.ffn == (closed not in ("layers.1.feed_forward", "everything"))
    if closed in ("position", "everything") and "position" in units:
        assert student.config.position is not None
        assert student.config.position.kept == ()


@pytest.mark.parametrize("style", STYLES)
def test_a_student_can_be_cut_again(style: str) -> None:
    units = all_units(style)
    once = check(make(style), units, seed=3)
    twice = check(once, units, seed=4)
    plan = make_plan(twice.config, units)
    assert len(plan) <= len(make_plan(once.config, units))
    check(twice, units, {group.name: torch.ones(group.size) for group in plan})
    bare = check(
        twice, units, {group.name: torch.zeros(group.size).index_fill(0, torch.arange(group.minimum), 1.0) for group in plan}
    )
    left = {"conv", "attention"} if style.endswith("shared-maps") else {"conv"}  # whose map was taken until now
    assert {group.kind for group in make_plan(bare.config, units)} <= left


def dense(encoder: Encoder, plan: PruningPlan, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The usual mask: nothing is taken out, the consumers' columns are multiplied by gate values, zeros included."""
    tensors = {name: tensor for name, tensor in named_tensors(encoder).items() if tensor.is_floating_point()}
    for group in plan:
        for part in group.slices:
            if part.scale:
                shape = [1] * tensors[part.name].dim()
                shape[part.dim] = -1
                value, width = values[group.name], tensors[part.name].shape[part.dim]
                each = value.repeat(width // len(value)) if part.inside else value.repeat_interleave(width // len(value))
                factor = each.view(shape)
                tensors[part.name] = tensors[part.name] * factor
    return tensors


@pytest.mark.parametrize("style", STYLES)
def test_means_what_a_dense_mask_means(style: str) -> None:
    # channels are left out where a layer norm runs over them: there the gated norm sees the kept channels only
    normed = {"conv"} if style != "no-projection-norm" else set()
    normed |= {"glu"} if STYLES[style].convolution.norm == "layer" else set()
    units = tuple(unit for unit in all_units(style) if unit not in normed)
    encoder = prepare(make(style), units)
    plan = make_plan(encoder.config, units)
    values = draw(plan)
    wave, lengths = waves(True)
    with torch.no_grad():
        masked = torch.func.functional_call(encoder, dense(encoder, plan, values), (wave, lengths))
        assert distance(cut(encoder, plan, values)(wave, lengths), masked) < 2e-5


@pytest.mark.parametrize("style", ["w2v-bert", "w2v-bert-no-distance"])
def test_glu_means_a_mask_with_a_norm_over_kept_channels(style: str) -> None:
    """The definition, written out at full width: closed channels are computed, left out of the norm, and multiplied by 0."""
    encoder = make(style)
    plan = make_plan(encoder.config, ("glu",))
    values = draw(plan)
    part, value = encoder.layers[1].convolution, values["layers.1.glu"]
    x = torch.randn(2, 9, 48)
    with torch.no_grad():
        gated = torch.nn.functional.glu(torch.cat([x @ part.in_proj.weight[0::2].T, x @ part.in_proj.weight[1::2].T], -1), -1)
        padded = torch.nn.functional.pad(gated.transpose(1, 2), (part.before, part.after))
        y = torch.nn.functional.conv1d(padded, part.depthwise.weight, groups=30).transpose(1, 2)
        y = torch.nn.functional.silu(normed(y, part.norm, value != 0)) * value
        made = cut(encoder, plan, values).layers[1].convolution(x, None)
        torch.testing.assert_close(made, y @ part.out_proj.weight.T, rtol=0, atol=1e-5)


def normed(x: Tensor, norm: LayerNorm, kept: Tensor) -> Tensor:
    """(B, T, C) -> the same, layer norm whose mean and variance are those of the kept channels."""
    mean, variance = x[..., kept].mean(-1, keepdim=True), x[..., kept].var(-1, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


@pytest.mark.parametrize("style", [style for style, config in STYLES.items() if config.frontend.convs and not config.window])
def test_convolutions_mean_a_mask_with_norms_over_kept_channels(style: str) -> None:
    """The definition, written out at full width: closed channels are computed, left out of the norms, and multiplied by 0."""
    encoder = make(style)
    plan = make_plan(encoder.config, ("conv",))
    values = draw(plan)
    wave, _ = waves(False)
    with torch.no_grad():
        front = encoder.frontend
        x = wave[:, None] if front.features is None else front.features(wave, None).transpose(1, 2)
        for block, group in zip(encoder.frontend.convs, plan, strict=True):
            x = block.conv(torch.nn.functional.pad(x, (block.padding, block.padding)))
            if isinstance(block.norm, WholeNorm):
                x, kept = block.act(x), values[group.name] != 0
                x = (x - x[:, kept].mean((1, 2), keepdim=True)) / torch.sqrt(
                    x[:, kept].var((1, 2), correction=0, keepdim=True) + block.norm.eps
                )
                x = (x * block.norm.weight[:, None] + block.norm.bias[:, None]) * values[group.name][:, None]
                continue
            if isinstance(block.norm, LayerNorm):
                x = normed(x.transpose(1, 2), block.norm, values[group.name] != 0).transpose(1, 2)
            elif block.norm is not None:
                x = block.norm(x)
            x = block.act(x)
            if group is not plan.groups[-1]:
                x = x * values[group.name][:, None]
        x = x.transpose(1, 2)
        if isinstance(encoder.frontend.norm, LayerNorm):
            x = normed(x, encoder.frontend.norm, values[group.name] != 0)
        x, join = x * values[group.name], encoder.config.frontend.join
        x = torch.stack([x[:, i : x.shape[1] // join * join : join] for i in range(join)], dim=-1).flatten(2)
        if encoder.config.frontend.projection is None:
            x = encoder.frontend.projection(x)
        else:
            padding = (encoder.config.frontend.projection.padding,) * 2
            x = front.act(front.projection(torch.nn.functional.pad(x.transpose(1, 2), padding))).transpose(1, 2)
        torch.testing.assert_close(cut(encoder, plan, values)(wave).hidden[0], x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("style", ["hubert-base", "hubert-large", "wavlm-base"])
def test_gradients_are_those_of_a_dense_mask(style: str) -> None:
    gated = GatedEncoder(make(style), ("head", "ffn"))
    values = {name: value.requires_grad_() for name, value in draw(gated.plan).items()}
    values["layers.2.head"] = torch.zeros(4, requires_grad=True)
    wave, lengths = waves(True)

    def gradients(tensors: dict[str, Tensor]) -> list[Tensor]:
        features = torch.func.functional_call(gated.encoder, tensors, (wave, lengths))
        loss = sum((state * torch.arange(48.0).cos()).mean() for state in [*features.hidden, features.last])
        inputs = [*gated.encoder.parameters(), *values.values()]
        return list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))

    ours, theirs = gradients(gated.materialise(values)), gradients(dense(gated.encoder, gated.plan, values))
    open_units_only = [value.detach() != 0 for value in values.values()]  # a closed gate has no gradient: its clamp stops it
    count = len(list(gated.encoder.parameters()))
    for a, b in zip(ours[:count], theirs[:count], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b, mask in zip(ours[count:], theirs[count:], open_units_only, strict=True):
        torch.testing.assert_close(a[mask], b[mask], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("style", ["wavlm-base", "w2v-bert", "conformer"])
def test_closed_parts_get_zero_gradients_not_none(style: str) -> None:
    gated = GatedEncoder(make(style), all_units(style)).train()
    values = {group.name: torch.zeros(group.size) for group in gated.plan}
    for group in gated.plan:
        values[group.name][: max(group.minimum, int(group.name.startswith("layers.0")))] = 1
    gated(*waves(True), values=values).last.sum().backward()
    missing = {name for name, parameter in gated.encoder.named_parameters() if parameter.grad is None}
    # what a layer's heads share is not gathered, so nothing ties it; see GatedEncoder.materialise
    shared = {f"attention.{name}" for name in ("gate.weight", "gate.bias", "distance.weight")}
    if style != "wavlm-base":  # nor the norms of branches that are gone, in layers that norm the branch and not the sum
        shared |= {f"{part}_norm.{name}" for part in ("ffn1", "attention", "convolution", "ffn") for name in ("weight", "bias")}
    assert missing <= {f"layers.{i}.{name}" for i in (1, 2) for name in shared}


def test_gathers_only_what_changes() -> None:
    encoder = make("hubert-base")
    plan = make_plan(encoder.config, ("head",))
    values = {"layers.0.head": torch.tensor([1.0, 0.0, 0.5, 0.0])}
    made = gather(named_tensors(encoder), plan, values)
    assert all(name.startswith("layers.0.attention.") for name in made)
    assert made["layers.0.attention.q_proj.weight"].shape == (24, 48)
    assert made["layers.0.attention.out_proj.weight"].shape == (48, 24)
    opened = gather(named_tensors(encoder), plan, {"layers.0.head": torch.full((4,), 0.5)})
    assert list(opened) == ["layers.0.attention.out_proj.weight"]


def test_refuses_values_it_cannot_use() -> None:
    encoder = make("hubert-base")
    plan = make_plan(encoder.config, ("conv",))
    with pytest.raises(ValueError, match=r"frontend\.convs\.0.*needs 1"):
        gather(named_tensors(encoder), plan, {"frontend.convs.0": torch.zeros(12)})
    with pytest.raises(ValueError, match="no such group"):
        gather(named_tensors(encoder), plan, {"frontend.convs.9": torch.zeros(12)})


def test_plan_names_the_known_kinds() -> None:
    config = STYLES["hubert-base"]
    with pytest.raises(ValueError, match=r"did you mean 'head'.*attention"):
        make_plan(config, ("heads",))
    with pytest.raises(ValueError, match="prepare"):
        make_plan(config, ("position",))
    with pytest.raises(ValueError, match="5 convolutions"):
        make_plan(STYLES["data2vec"], ("position",))
    names = [group.name for group in make_plan(config, ("ffn", "head", "conv"))]
    assert names[:2] == ["frontend.convs.0", "frontend.convs.1"]
    assert names[-2:] == ["layers.2.head", "layers.2.ffn"]


def test_preparing_changes_nothing() -> None:
    encoder = make("hubert-base")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    prepared = prepare(encoder, ("position",))
    assert torch.equal(before, torch.random.get_rng_state())
    assert prepare(encoder, ("head",)) is encoder
    assert prepare(prepared, ("position",)) is prepared
    with torch.no_grad():
        assert distance(encoder(*waves(True)), prepared(*waves(True))) < 1e-5


def test_live_cutting_goes_on_as_if_nothing_happened() -> None:
    """Cutting closed units out of weights, gates and moments in mid-training, with the gates that stay still soft."""
    units = all_units("wavlm-base")
    gated = GatedEncoder(make("wavlm-base"), units).eval()
    for parameter in gated.gates.parameters():
        torch.nn.init.normal_(parameter, mean=1, std=3)
    values = gated.gates.evaluate()
    kept = open_units(gated.plan, values)
    smaller = GatedEncoder(
        cut(gated.encoder, gated.plan, {name: (value != 0).float() for name, value in values.items()}), units
    ).eval()
    smaller.gates = gated.gates.select(smaller.plan, kept)
    inside = {group.name: values[group.name][kept[group.name]] for group in smaller.plan}
    with torch.no_grad():
        assert distance(gated(*waves(True), values=values), smaller(*waves(True), values=inside)) < 1e-5
    for group in smaller.plan:
        torch.testing.assert_close(
            smaller.gates.log_alpha[Gates.key(group)], gated.gates.log_alpha[Gates.key(group)][kept[group.name]]
        )
    moments = cut_like({name: parameter.detach() for name, parameter in gated.encoder.named_parameters()}, gated.plan, kept)
    for name, parameter in smaller.encoder.named_parameters():  # cut with ones, so a moment equal to the weight stays equal to it
        assert torch.equal(moments[name], parameter), name


def test_cut_keeps_mode_type_and_frozen_parameters() -> None:
    encoder = make("hubert-base").double().train()
    encoder.frontend.requires_grad_(False)
    plan = make_plan(encoder.config, ("ffn",))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    student = cut(encoder, plan, draw(plan))
    assert torch.equal(before, torch.random.get_rng_state())
    assert student.training
    assert student.frontend.projection.weight.dtype == torch.float64
    assert not student.frontend.projection.weight.requires_grad
    assert student.layers[0].ffn.down_proj.weight.requires_grad
