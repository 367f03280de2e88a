"""What nothing lowers is refused by name; what is lowered passes."""

from __future__ import annotations

import pytest
import torch
import tvm
from tvm import relax

import wqtvm
from wqtvm.errors import UnsupportedOperatorError
from wqtvm.transform.check_lowered import check_lowered


def module(lowered: bool) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.nn.softplus(x), "layer"))
    return relax.transform.LegalizeOps()(builder.get()) if lowered else builder.get()


def test_an_operator_that_is_left_is_named() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"operator nn\.softplus has no lowering"):
        check_lowered(module(lowered=False))


def test_a_lowered_module_is_left_alone() -> None:
    lowered = module(lowered=True)
    tvm.ir.assert_structural_equal(check_lowered(lowered), lowered)


class Scan(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cumsum(x, 1), torch.topk(x, 2, dim=-1).values


def test_scans_and_sorts_have_a_lowering() -> None:
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = Scan()(x)
    for result, wanted in zip(wqtvm.compile(Scan(), (x,))(x), expected, strict=True):
        # Sums of at most five values, perhaps in another order.
        torch.testing.assert_close(result, wanted, rtol=1e-6, atol=1e-6)
