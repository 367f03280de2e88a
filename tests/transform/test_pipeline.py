"""The phases together: what is fused, and the pipeline as plain TVM users call it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from torch.nn import functional
from tvm import relax, tirx

import wqtvm
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings, operator_name
from wqtvm.quantization import sqnr_db
from wqtvm.schedules.operators import operator_of
from wqtvm.target import lookup
from wqtvm.transform import pipeline
from wqtvm.transform.plan_convolutions import plan_convolutions


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(5, 24, 3, padding=1)
        self.a = nn.Conv2d(24, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.b = nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.head(x))
        return functional.silu(x + self.b(functional.leaky_relu(self.norm(self.a(x)), 0.1)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


def test_bias_residual_and_activations_fuse_into_the_operators(model: nn.Module) -> None:
    record = lookup("wq/x86-vnni")
    prepared = pipeline.prepare(from_torch(model, (torch.zeros(1, 5, 13, 11),)).module)
    plan = plan_convolutions(prepared, wqtvm.WinogradConfig())
    lowered = pipeline.quantize(prepared, plan, record, threads=2)
    with record.tvm_target():
        optimized = pipeline.optimize(lowered, record)
    functions = {
        name.name_hint: function
        for name, function in optimized.functions_items()
        if isinstance(function, tirx.PrimFunc)
    }
    assert all(function.attrs["tirx.is_scheduled"] for function in functions.values())
    calls = [
        binding.value.args[0].name_hint
        for binding in bindings(optimized["main"])
        if operator_name(binding.value) == "relax.call_tir"
    ]
    ours = [name for name in calls if "wq_winograd" in name]
    assert len(ours) == 3
    assert len(calls) - len(ours) <= 2  # nothing else but a permutation at either end
    assert not any("relu" in name or "add" in name for name in calls if name not in ours)


def test_an_epilogue_leaves_the_operator_one_block_that_writes_the_result() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.SiLU()).eval()
    record = lookup("wq/x86-vnni")
    prepared = pipeline.prepare(from_torch(model, (torch.zeros(1, 8, 9, 9),)).module)
    plan = plan_convolutions(prepared, wqtvm.WinogradConfig())
    with record.tvm_target():
        optimized = pipeline.optimize(pipeline.quantize(prepared, plan, record, 2), record)
    (function,) = (
        function
        for function in optimized.functions.values()
        if isinstance(function, tirx.PrimFunc) and operator_of(function)
    )
    names = {buffer.name for buffer in function.body.block.alloc_buffers}
    assert not {name for name in names if name.startswith(("T_add", "T_multiply", "compute"))}


@pytest.mark.parametrize("name", ["wq", "wq/x86-vnni", "wq/x86-avx2"])
def test_plain_tvm_users_get_it_by_name(model: nn.Module, name: str) -> None:
    x = torch.randn(1, 5, 13, 11, generator=torch.Generator().manual_seed(1))
    module = from_torch(model, (x,)).module
    target = tvm.target.Target(name)
    wqtvm_missing = [
        feature
        for feature in lookup(target).features
        if feature not in wqtvm.runtime.cpu.cpu_features()
    ]
    executable = relax.build(module, target=target, relax_pipeline="wq")
    if wqtvm_missing:
        pytest.skip(f"built, but this CPU lacks {wqtvm_missing}")
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x.numpy()))
    with torch.no_grad():
        expected = model(x).numpy()
    # One network of three Gaussian layers with F(4,3): each has 28.8 dB and more.
    assert sqnr_db(expected, result.numpy()) > 25
    assert not np.array_equal(expected, result.numpy())  # it was quantized


def test_a_target_of_tvms_own_is_refused_by_name(model: nn.Module) -> None:
    module = from_torch(model, (torch.zeros(1, 5, 13, 11),)).module
    with pytest.raises(wqtvm.errors.UnknownTargetError, match="is none of wqtvm's"):
        relax.build(module, target=tvm.target.Target("llvm"), relax_pipeline="wq")
