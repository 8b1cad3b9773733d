"""Linear layers and convolutions computed by oneDNN are linear layers and convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sottovoce.encoder import product
from sottovoce.encoder.product import Conv1d, Linear, has_onednn

pytestmark = pytest.mark.skipif(not has_onednn(), reason="needs oneDNN")


@pytest.fixture(autouse=True, params=["onednn", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whichever is chosen."""
    monkeypatch.setenv("SOTTOVOCE_KERNELS", request.param)
    return str(request.param)


def pair(bias: bool = True) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours, theirs = Linear(24, 17, bias), nn.Linear(24, 17, bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24), (24,), (1, 1, 1, 24)])
def test_same_values_and_gradients(shape: tuple[int, ...], bias: bool) -> None:
    ours, theirs = pair(bias)
    x = torch.randn(shape)
    grads = []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_()
        layer(given).square().sum().backward()
        grads.append([given.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_views_and_frozen_weights() -> None:
    ours, theirs = pair()
    ours.requires_grad_(False)
    x = torch.randn(24, 5, 2).transpose(0, 2).requires_grad_()
    ours(x).sum().backward()
    torch.testing.assert_close(x.grad, theirs.weight.detach().sum(0).expand_as(x), atol=1e-5, rtol=1e-5)
    assert ours.weight.grad is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (1, 1), (3, 1), (10, 5), (2, 3), (5, 2)])
def test_convolutions(kernel: int, stride: int, bias: bool) -> None:
    """Values and gradients, of inputs however they lie in memory, alone and in a row."""
    torch.manual_seed(0)
    ours = nn.Sequential(Conv1d(6, 8, kernel, stride, bias=bias), nn.GELU(), Conv1d(8, 5, kernel, stride, bias=bias))
    theirs = nn.Sequential(*(nn.Conv1d(*size, kernel, stride, bias=bias) if size else nn.GELU() for size in ((6, 8), (), (8, 5))))
    theirs.load_state_dict(ours.state_dict())
    for x in (torch.randn(3, 6, 60), torch.randn(3, 60, 6).transpose(1, 2), torch.randn(6, 3, 61).transpose(0, 1)):
        grads = []
        for layers in (ours, theirs):
            given = x.clone(memory_format=torch.preserve_format).requires_grad_()
            layers.zero_grad()
            layers(given).square().sum().backward()
            grads.append([given.grad, *(p.grad.clone() for p in layers.parameters())])
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(10, 5), (127, 64)])
def test_convolutions_of_a_waveform(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    ours, theirs = Conv1d(1, 8, kernel, stride), nn.Conv1d(1, 8, kernel, stride)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 1, 1000)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-3, rtol=1e-4)


def test_a_convolution_of_too_little_is_refused_as_ever() -> None:
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        Conv1d(6, 8, 3, 2)(torch.randn(1, 6, 2))


def test_empty_batch() -> None:
    assert pair()[0](torch.zeros(0, 24)).shape == (0, 17)


def test_steps_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something else decides: other types, autocast, compilation, tensors that stand for something."""

    def never(*given: object) -> None:
        raise AssertionError("not to be used here")

    monkeypatch.setattr(product._Linear, "apply", never)
    ours = pair()[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(torch.randn(3, 24)).dtype == torch.bfloat16
    assert ours.double()(torch.randn(3, 24).double()).dtype == torch.float64
    exported = torch.export.export(pair()[0], (torch.randn(3, 24),))
    assert "mkldnn" not in str(exported)


@pytest.mark.parametrize("trained", [False, True])
def test_the_chosen_library_computes(library: str, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = product.product
    monkeypatch.setattr(product, "product", lambda *given: calls.append(1) or original(*given))
    x, steps = torch.randn(3, 24), torch.randn(2, 24, 9)
    convolution = Conv1d(24, 5, 3, 2)
    with torch.set_grad_enabled(trained):
        for y in (pair()[0](x), convolution(steps)):
            if trained:
                y.sum().backward()
    assert bool(calls) == (library == "onednn")


def test_flops_are_counted() -> None:
    ours, theirs = pair()
    counts = []
    for layer in (ours, theirs):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(3, 24))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 3 * 24 * 17
