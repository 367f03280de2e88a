"""The pass over a module: what it schedules, what it leaves alone, what it says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tvm
from float_functions import functions, fused, random
from tvm import relax, tirx
from tvm.script import tirx as T

from wqtvm.errors import UnscheduledOperatorError
from wqtvm.schedules import cpu_generic
from wqtvm.schedules.cpu_generic import RULES, Rule, schedule_function
from wqtvm.schedules.cpu_generic.access import NotAnalysableError
from wqtvm.target import lookup
from wqtvm.transform.schedule_generic_cpu import (
    SCHEDULED,
    UnscheduledOperatorWarning,
    schedule_generic_cpu,
    unscheduled,
)

TARGET = lookup("wq/x86-avx2").tvm_target()
R, N = relax.op, relax.op.nn


@T.prim_func(private=True, s_tir=True)
def running_sum(
    a: T.Buffer((T.int64(100),), "float32"), b: T.Buffer((T.int64(100),), "float32")
) -> None:
    with T.sblock("root"):
        for i in T.serial(T.int64(100)):
            with T.sblock("scan"):
                vi = T.axis.scan(T.int64(100), i)
                b[vi] = T.if_then_else(vi == T.int64(0), T.float32(0), b[vi - T.int64(1)]) + a[vi]


@T.prim_func(private=True, s_tir=True)
def operator_of_ours(
    a: T.Buffer((T.int64(64),), "float32"), b: T.Buffer((T.int64(64),), "float32")
) -> None:
    with T.sblock("root"):
        for i in T.serial(T.int64(64)):
            with T.sblock("output"):
                vi = T.axis.spatial(T.int64(64), i)
                T.sblock_attr({"wq.operator": "wq.winograd_conv2d"})
                b[vi] = a[vi] + T.float32(1)


def scheduled(module: tvm.ir.IRModule) -> tvm.ir.IRModule:
    with TARGET, warnings.catch_warnings():
        warnings.simplefilter("error")
        return schedule_generic_cpu(module)


def network() -> tvm.ir.IRModule:
    inputs = [random(1, 33, 33, 8), random(3, 3, 8, 16), random(16, seed=1), random(16, seed=2)]

    def build(x, w, scale, shift):
        y = N.conv2d(x, w, 1, 1, data_layout="NHWC", kernel_layout="HWIO")
        y = N.silu(N.group_norm(y, scale, shift, 4, 3, [1, 2]))
        return N.softmax(R.mean(N.max_pool2d(y, (2, 2), 2, layout="NHWC"), [1, 2]), -1)

    return fused(build, inputs)


def kinds(function: tirx.PrimFunc) -> set[str]:
    found = set()
    text = function.script()
    for kind in ("parallel", "vectorized", "unroll"):
        if f"T.{kind}(" in text:
            found.add(kind)
    return found


def test_every_function_of_a_network_is_scheduled() -> None:
    module = scheduled(network())
    assert unscheduled(module) == []
    assert len(functions(module)) >= 4
    for name, function in functions(module).items():
        assert function.attrs[SCHEDULED], name
    (convolution,) = (f for name, f in functions(module).items() if "conv2d" in name)
    assert kinds(convolution) == {"parallel", "vectorized", "unroll"}


def test_scheduling_twice_changes_nothing() -> None:
    once = scheduled(network())
    tvm.ir.assert_structural_equal(scheduled(once), once)


@pytest.mark.parametrize("attribute", ["tirx.is_scheduled", "wq.is_scheduled"])
def test_what_is_scheduled_is_left_alone(attribute: str) -> None:
    module = network()
    for name, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            module.update_func(name, function.with_attr(attribute, True))
    for name, function in functions(scheduled(module)).items():
        tvm.ir.assert_structural_equal(function, functions(module)[name])


def test_operators_of_ours_are_left_alone() -> None:
    module = tvm.IRModule({"operator": operator_of_ours})
    (function,) = functions(scheduled(module)).values()
    tvm.ir.assert_structural_equal(function, operator_of_ours)


def test_what_no_rule_fits_is_named_and_still_runs() -> None:
    module = tvm.IRModule({"running_sum": running_sum})
    with (
        TARGET,
        pytest.warns(UnscheduledOperatorWarning, match=r"running_sum .*scan has to run in order"),
    ):
        result = schedule_generic_cpu(module)
    (remark,) = unscheduled(result)
    assert "running_sum" in remark
    (function,) = functions(result).values()
    tvm.ir.assert_structural_equal(function, running_sum)

    main = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    x, y = np.ones(100, "float32"), tvm.runtime.tensor(np.zeros(100, "float32"))
    tvm.compile(main, target=tvm.target.Target({"kind": "llvm"}))["main"](tvm.runtime.tensor(x), y)
    np.testing.assert_array_equal(y.numpy(), x.cumsum())


def test_error_says_why_for_each_rule() -> None:
    with pytest.raises(UnscheduledOperatorError, match=r"stages: stage scan has to run in order"):
        schedule_function(running_sum, TARGET, "running_sum")


def test_a_slower_rule_than_the_first_that_fits_is_remarked(monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise NotAnalysableError("too clever")

    monkeypatch.setattr(cpu_generic, "RULES", (Rule("quick", fail), *RULES))
    with TARGET, pytest.warns(UnscheduledOperatorWarning, match="quick: too clever"):
        module = schedule_generic_cpu(network())
    assert all("is left to the rule" in remark for remark in unscheduled(module))
    assert len(unscheduled(module)) == len(functions(module))
