"""Gates, expected size and pruned states against the public DPHuBERT code's own numbers (see data/README.md).

Three known differences in what is counted, each checked here: the reference has an extra vector of last-convolution channels
(dummy_weight) and the weight norm's magnitudes of the positional convolution, and its formula leaves WavLM's table and gates out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sottovoce.encoder import Encoder
from sottovoce.hub.pretrained import load_pretrained
from sottovoce.pruning import GatedEncoder, Gates, Lagrangian, encoder_cost, total

DATA = Path(__file__).parent / "data"
pytestmark = pytest.mark.filterwarnings("ignore:.*preprocessor_config")


def group_of(module: str) -> str:
    """The reference's name of a gate -> ours."""
    numbers = re.findall(r"\d+", module)
    if module.startswith("feature_extractor"):
        return f"frontend.convs.{numbers[0]}"
    return f"layers.{numbers[0]}.{'head' if 'for_heads' in module else 'ffn'}"


@dataclass
class Case:
    gated: GatedEncoder
    numbers: dict[str, Tensor]
    scalars: dict[str, float]

    def by_group(self, prefix: str) -> dict[str, Tensor]:
        found = {name.removeprefix(prefix): tensor for name, tensor in self.numbers.items() if name.startswith(prefix)}
        return {group_of(name.removesuffix(".log_alpha")): tensor for name, tensor in found.items()}


@pytest.fixture(params=["hubert-base", "wavlm-base"])
def case(request: pytest.FixtureRequest) -> Case:
    folder = DATA / request.param
    numbers = load_file(folder / "golden.safetensors")
    encoder = load_pretrained(folder).encoder
    assert isinstance(encoder, Encoder)
    made = Case(GatedEncoder(encoder, ("conv", "head", "ffn")).eval(), numbers, json.loads((folder / "golden.json").read_text()))
    with torch.no_grad():
        for name, log_alpha in made.by_group("log_alpha/").items():
            made.gated.gates.log_alpha[Gates.key(made.gated.plan[name])].copy_(log_alpha)
    return made


def test_evaluation_masks_are_the_reference_s(case: Case) -> None:
    masks = case.by_group("eval_mask/")
    values = case.gated.gates.evaluate()
    assert masks.keys() == values.keys()
    for name, mask in masks.items():
        assert torch.equal(values[name] == 0, mask == 0), name
        torch.testing.assert_close(values[name], mask, rtol=0, atol=1e-6)


def test_states_gated_at_heads_and_ffn(case: Case) -> None:
    masks = {name: mask for name, mask in case.by_group("eval_mask/").items() if "layers" in name}
    with torch.no_grad():
        gated = case.gated(case.numbers["wave"], values=masks)
        cut = case.gated.cut(masks)(case.numbers["wave"])
    for i, (a, b) in enumerate(zip(gated.hidden, cut.hidden, strict=True)):
        torch.testing.assert_close(a, case.numbers[f"hidden_gated_heads_ffn_{i}"], rtol=0, atol=1e-4)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def constants(case: Case, last: Tensor | int, heads: list[Tensor] | list[int]) -> tuple[Tensor | int, Tensor | int]:
    """(what only the reference counts, what only we count), for so many last-convolution channels and heads per layer."""
    config = case.gated.encoder.config
    theirs = last + config.position.kernel  # dummy_weight; weight_g, one per kernel position
    ours: Tensor | int = 0
    if config.relative is not None:
        shared = 8 * (config.layers[0].head_dim + 1)
        ours = config.relative.buckets * config.relative.heads
        for width in heads:
            ours = ours + width + shared * (width.clamp(max=1) if isinstance(width, Tensor) else min(width, 1))
    return theirs, ours


def test_size_of_the_teacher(case: Case) -> None:
    config = case.gated.encoder.config
    theirs, ours = constants(case, config.frontend.convs[-1].dim, [layer.num_heads for layer in config.layers])
    params = total(encoder_cost(config)).params
    # the reference does count WavLM's tensors here, in its teacher; only its formula leaves them out
    assert params + theirs == case.numbers["original_params"].item()
    assert ours == (0 if config.relative is None else 128 + 4 * (4 + 8 * 13))


def test_expected_size_and_its_gradient(case: Case) -> None:
    gates, config = case.gated.gates, case.gated.encoder.config
    widths = gates.expected()
    theirs, ours = constants(case, widths["frontend.convs.6"], [widths[f"layers.{i}.head"] for i in range(len(config.layers))])
    size = total(encoder_cost(config, widths)).params + theirs - ours
    assert isinstance(size, Tensor)
    torch.testing.assert_close(size.detach().reshape(1), case.numbers["expected_params"].reshape(1).float(), rtol=1e-6, atol=0)
    size.backward()
    for name, gradient in case.by_group("dsize_dlog_alpha/").items():
        ours_grad = gates.log_alpha[Gates.key(case.gated.plan[name])].grad
        torch.testing.assert_close(ours_grad, gradient, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    sparsity = 1 - size.item() / case.numbers["original_params"].item()
    assert sparsity == pytest.approx(case.scalars["sparsity"], abs=1e-6)


def test_lagrangian(case: Case) -> None:
    lagrangian = Lagrangian()
    with torch.no_grad():
        lagrangian.lambda1.fill_(case.scalars["lambda1"])
        lagrangian.lambda2.fill_(case.scalars["lambda2"])
    value = lagrangian(torch.tensor(case.scalars["sparsity"]), case.scalars["target"])
    assert value.item() == pytest.approx(case.numbers["lagrangian"].item(), abs=1e-6)
