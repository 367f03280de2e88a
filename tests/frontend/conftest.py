from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from wqtvm.frontend import from_torch

Compare = Callable[[torch.nn.Module, Sequence[torch.Tensor]], None]


@pytest.fixture
def same_as_torch() -> Compare:
    """Import a model, run it by plain TVM, and compare every output with PyTorch's."""

    def compare(model: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        executable = tvm.compile(from_torch(model, inputs).module, tvm.target.Target("llvm"))
        machine = relax.VirtualMachine(executable, tvm.cpu())
        result = machine["main"](*[tvm.runtime.tensor(value.numpy()) for value in inputs])
        outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        with torch.no_grad():
            expected = model.eval()(*inputs)
        expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
        for actual, wanted in zip(outputs, expected, strict=True):
            assert tuple(actual.shape) == tuple(wanted.shape)
            # Operators on values of about 1: a few roundings of 6e-8 each, up to 100 in a sum.
            np.testing.assert_allclose(actual.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-5)

    return compare
