"""Planned convolutions become our operators; everything else is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax, tirx

from wqtvm.config import WinogradConfig
from wqtvm.errors import NotEligibleError
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings, layer_name, operator_name
from wqtvm.quantization.plan import Plan
from wqtvm.schedules.operators import operator_of
from wqtvm.target import lookup
from wqtvm.transform.lower_convolutions import lower_convolutions
from wqtvm.transform.pipeline import prepare
from wqtvm.transform.plan_convolutions import plan_convolutions

RECORD = lookup("wq/x86-vnni")


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 4, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.second(self.point(self.first(x))))


@pytest.fixture(scope="module")
def prepared() -> tvm.IRModule:
    torch.manual_seed(0)
    return prepare(from_torch(Mixed(), (torch.zeros(1, 8, 12, 12),)).module)


def lowered_calls(module: tvm.IRModule) -> dict[str, relax.Call]:
    return {
        layer_name(binding.var): binding.value
        for binding in bindings(module["main"])
        if operator_name(binding.value) == "relax.call_tir"
    }


def test_only_what_is_planned_is_replaced(prepared: tvm.IRModule) -> None:
    plan = plan_convolutions(prepared, WinogradConfig())
    lowered = lower_convolutions(prepared, plan, RECORD, threads=2)
    assert set(lowered_calls(lowered)) == {"first", "second"}
    left = [
        layer_name(binding.var)
        for binding in bindings(lowered["main"])
        if operator_name(binding.value) == "relax.nn.conv2d"
    ]
    assert left == ["point", "down"]
    before, after = (
        {layer_name(b.var): b.value for b in bindings(module["main"])}
        for module in (prepared, lowered)
    )
    for name in left:
        assert after[name].attrs.same_as(before[name].attrs)
        assert after[name].args[1].same_as(before[name].args[1])


def test_a_float_plan_leaves_the_module_alone(prepared: tvm.IRModule) -> None:
    plan = plan_convolutions(prepared, WinogradConfig(algorithm="float"))
    lowered = lower_convolutions(prepared, plan, RECORD, threads=2)
    tvm.ir.assert_structural_equal(lowered, prepared)


def test_layers_of_one_workload_share_a_function(prepared: tvm.IRModule) -> None:
    plan = plan_convolutions(prepared, WinogradConfig())
    lowered = lower_convolutions(prepared, plan, RECORD, threads=2)
    calls = lowered_calls(lowered)
    assert calls["first"].args[0].same_as(calls["second"].args[0])
    operators = [f for f in lowered.functions.values() if isinstance(f, tirx.PrimFunc)]
    assert len(operators) == 1
    assert operator_of(operators[0])


def test_weights_are_quantized_at_compile_time(prepared: tvm.IRModule) -> None:
    plan = plan_convolutions(prepared, WinogradConfig())
    calls = lowered_calls(lower_convolutions(prepared, plan, RECORD, threads=2))
    x, u, step, correction = calls["first"].args[1]
    assert isinstance(x, relax.Var)
    u, step, correction = (constant.value.numpy() for constant in (u, step, correction))
    assert (u.dtype, step.dtype, correction.dtype) == (np.int8, np.float32, np.int32)
    assert u.shape == (1, 6, 6, 1, 8, 16, 4)  # (vector, e, v, group, step, lane, channel)
    assert np.abs(u).max() == 127
    assert (step[..., 8:] == 0).all()  # channels that pad the vector
    assert (correction == -128 * u.astype(np.int32).sum(axis=(4, 6)).transpose(1, 2, 3, 0, 4)
            .reshape(correction.shape)).all()  # fmt: skip


def test_progress_counts_layers(prepared: tvm.IRModule) -> None:
    seen: list[tuple[str, int, int]] = []
    plan = plan_convolutions(prepared, WinogradConfig())
    lower_convolutions(prepared, plan, RECORD, 2, lambda *step: seen.append(step))
    assert seen == [("quantize", 1, 2), ("quantize", 2, 2)]


def test_a_plan_of_another_network_is_refused(prepared: tvm.IRModule) -> None:
    plan = plan_convolutions(prepared, WinogradConfig())
    layer = replace(plan.layer("first"), name="body.7")
    with pytest.raises(NotEligibleError, match=r"layer body\.7: planned as winograd"):
        lower_convolutions(prepared, replace(plan, layers=(layer,)), RECORD, 2)


def test_a_plan_that_does_not_fit_the_layer_is_refused(prepared: tvm.IRModule) -> None:
    plan = plan_convolutions(prepared, WinogradConfig())
    first = plan.layer("first")
    direct = replace(first, algorithm="direct", tile=None, points=None)
    for layer, problem in (
        (replace(first, name="down"), r"weights are \(4, 8, 3, 3\), the plan says \(8, 8, 3, 3\)"),
        (
            replace(first, name="down", weight_shape=(4, 8, 3, 3), padding=(0, 0)),
            r"strides are \(2, 2\), the plan says \(1, 1\)",
        ),
        (replace(direct, stride=(2, 2)), r"strides are \(1, 1\), the plan says \(2, 2\)"),
        (replace(first, padding=(0, 0)), r"padding are \(1, 1, 1, 1\), the plan says \(0, 0, 0, 0"),
    ):
        with pytest.raises(NotEligibleError, match=f"layer {layer.name}: {problem}"):
            lower_convolutions(prepared, replace(plan, layers=(layer,)), RECORD, 2)


@pytest.mark.parametrize(
    ("convolution", "problem"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), "grouped or dilated"),
        (nn.Conv2d(8, 8, 3, dilation=2), "grouped or dilated"),
        (nn.Conv2d(8, 8, 3, padding=(1, 0)), "unequal edges"),
        (nn.Conv2d(8, 8, (1, 3)), "unequal edges"),
    ],
)
def test_an_edited_plan_asks_for_nothing_that_int8_cannot_do(
    convolution: nn.Module, problem: str
) -> None:
    module = prepare(from_torch(nn.Sequential(convolution), (torch.zeros(1, 8, 9, 9),)).module)
    (layer,) = plan_convolutions(module, WinogradConfig()).layers
    edited = replace(
        layer, algorithm="direct", precision="hadamard", group_size=32, scales="correlated",
        steps="channel", weight_steps="tap",
    )  # fmt: skip
    with pytest.raises(NotEligibleError, match=f"layer 0: .*{problem}.*; plan it as float"):
        lower_convolutions(module, Plan((edited,)), RECORD, 2)


def test_others_are_replaced_where_they_are_to_be_direct(prepared: tvm.IRModule) -> None:
    plan = plan_convolutions(prepared, WinogradConfig(others="direct"))
    lowered = lower_convolutions(prepared, plan, RECORD, threads=2)
    assert list(lowered_calls(lowered)) == ["first", "point", "second", "down"]


def test_nchw_is_refused_by_name() -> None:
    module = from_torch(Mixed(), (torch.zeros(1, 8, 12, 12),)).module
    plan = plan_convolutions(module, WinogradConfig())
    with pytest.raises(NotEligibleError, match="layer first: layouts are NCHW, OIHW"):
        lower_convolutions(module, plan, RECORD, 2)
