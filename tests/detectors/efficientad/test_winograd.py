"""Winograd convolution: values and gradients are torch's."""

from __future__ import annotations

import pytest

from blemish.detectors.efficientad import winograd
from blemish.runtime.winograd import transforms
from tests.lazy import torch


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch):
    """Without rounding, in which a unit of a ReLU could fall on the other side."""
    matrices = {taps: tuple(torch.tensor(matrix) for matrix in transforms(taps)) for taps in (3, 4)}
    monkeypatch.setattr(winograd, "_matrices", matrices.__getitem__)


@pytest.mark.parametrize("hw", [(4, 5), (9, 16), (13, 8)])
@pytest.mark.parametrize(("taps", "channels", "padding"), [(4, 6, 0), (3, 6, 1), (4, 3, 0), (4, 3, 3), (1, 6, 0)])
def test_values_and_gradients_are_torchs(hw: tuple[int, int], taps: int, channels: int, padding: int):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias = drawn(2, channels, *hw), drawn(5, channels, taps, taps), drawn(5)
    results = []
    for function in (winograd.conv2d, torch.nn.functional.conv2d):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        output = function(*inputs, padding=padding)
        output.backward(torch.sin(torch.arange(output.numel(), dtype=torch.float64)).view(output.shape))
        results.append([output, *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_images_need_no_gradient():
    x = torch.ones(1, 6, 9, 9, dtype=torch.float64)
    weight, bias = torch.ones(2, 6, 4, 4, dtype=torch.float64, requires_grad=True), torch.zeros(2, dtype=torch.float64)
    winograd.conv2d(x, weight, bias).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 36.0))
    with torch.inference_mode():
        torch.testing.assert_close(winograd.conv2d(x, weight, bias), torch.full((1, 2, 6, 6), 96.0).double())
