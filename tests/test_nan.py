"""A NaN stays one on its way through a compiled network, whatever comes behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wqtvm

ACTIVATIONS = (
    nn.ReLU(), nn.ReLU6(), nn.Hardtanh(), nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.SELU(),
    nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Hardswish(),
    nn.Hardsigmoid(), nn.Mish(), nn.AvgPool2d(2), nn.Softmax(1), nn.Upsample(scale_factor=2),
)  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: type(layer).__name__)
def test_as_in_pytorch(activation):
    x = torch.linspace(-4, 4, 2 * 3 * 10 * 14).reshape(2, 3, 10, 14)
    x[1, 2, 3, 4] = torch.nan
    wanted = activation.eval()(x)
    assert wanted.isnan().any()
    result = wqtvm.compile(activation, x)(x)
    # Exponentials and their kin have an error of some 1e-7, which a subtraction may enlarge.
    torch.testing.assert_close(result, wanted, rtol=2e-6, atol=2e-6, equal_nan=True)
