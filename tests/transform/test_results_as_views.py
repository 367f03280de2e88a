"""Results that are a reshape of what was computed are not copied; those of inputs are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wqtvm


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Any:
        return self.function(self.linear(x))


def twice(y: Tensor) -> Any:
    return y.reshape(15, 32), y.reshape(30, 16)


def among(y: Tensor) -> Any:
    return y.reshape(15, 32), y.relu()


@pytest.mark.parametrize("function", [lambda y: y, lambda y: y.reshape(4, 120), twice, among])
def test_results_are_pytorchs_call_after_call(function: Callable[[Tensor], Any]) -> None:
    model, x = Calls(function), torch.randn(2, 30, 24)
    compiled = wqtvm.compile(model, (x,), config=wqtvm.WinogradConfig(algorithm="float"))
    first, second = compiled(x), compiled(2 * x)
    with torch.no_grad():
        expected = [model(x), model(2 * x)]
    for result, truth in zip((first, second), expected, strict=True):
        several = result if isinstance(result, tuple) else (result,)
        truths = truth if isinstance(truth, tuple) else (truth,)
        for each, true in zip(several, truths, strict=True):
            np.testing.assert_allclose(each, true, rtol=1e-5, atol=1e-6)


def test_a_reshaped_input_is_copied() -> None:
    class Reshape(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 3, 4).reshape(4, 6)

    x = torch.zeros(2, 12)
    result = wqtvm.compile(Reshape(), (x,))(x)
    result += 1
    assert x.abs().max() == 0
