from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from wqtvm.frontend import name_layers
from wqtvm.transform.externalize_constants import SMALL, externalize_constants

WEIGHT = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
BIAS = np.arange(6, dtype=np.float32)
TABLE = np.arange(20, dtype=np.int8)
weight, bias, table = (relax.const(a, a.dtype.name) for a in (WEIGHT, BIAS, TABLE))
weight_again = relax.const(WEIGHT.copy(), "float32")
small = relax.const(np.zeros(SMALL // 4, dtype=np.float32), "float32")


def test_constants_become_named_parameters():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6), "float32")) -> R.Tensor((1, 6, 6), "float32"):
            with R.dataflow():
                first = R.matmul(x, weight)
                lv = R.add(first, bias)
                second = R.matmul(lv, weight_again)
                lv1 = R.multiply(second, bias)
                lv2 = R.multiply(lv1, R.const(2.0))
                R.output(lv2)
            return lv2

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 6, 6), "float32"),
            weight: R.Tensor((1, 6, 6), "float32"),
            bias: R.Tensor((6,), "float32"),
        ) -> R.Tensor((1, 6, 6), "float32"):
            R.func_attr({"num_input": 1})
            with R.dataflow():
                first = R.matmul(x, weight)
                lv = R.add(first, bias)
                second = R.matmul(lv, weight)
                lv1 = R.multiply(second, bias)
                lv2 = R.multiply(lv1, R.const(2.0))
                R.output(lv2)
            return lv2

    named = name_layers(Before, {"first": "body.0", "second": "body.1"})
    after, parameters = externalize_constants(named)
    tvm.ir.assert_structural_equal(after, Expected)
    assert list(parameters) == ["body.0.weight", "body.0.bias"]
    np.testing.assert_array_equal(parameters["body.0.weight"], WEIGHT)
    np.testing.assert_array_equal(parameters["body.0.bias"], BIAS)
    assert [p.name for p in after["main"].params] == ["x", "body.0.weight", "body.0.bias"]


def test_buffers_name_the_constants_of_tir_calls():
    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def look_up(
            x: T.Buffer((20,), "int8"), entries: T.Buffer((20,), "int8"), y: T.Buffer((20,), "int8")
        ):
            for i in range(20):
                with T.sblock("y"):
                    v = T.axis.spatial(20, i)
                    y[v] = entries[v] + x[v]

        @R.function
        def main(x: R.Tensor((20,), "int8")) -> R.Tensor((20,), "int8"):
            cls = Module
            with R.dataflow():
                codebook = R.call_tir(cls.look_up, (x, table), out_ty=R.Tensor((20,), "int8"))
                R.output(codebook)
            return codebook

    after, parameters = externalize_constants(Module)
    assert list(parameters) == ["codebook.entries"]
    assert parameters["codebook.entries"].dtype == np.int8
    relax.analysis.well_formed(after)


def test_unnamed_constants_tuples_and_equal_values_of_another_type():
    integers = relax.const(BIAS.astype(np.int32), "int32")

    @I.ir_module
    class Module:
        @R.function
        def main(
            x: R.Tensor((6,), "float32"),
        ) -> R.Tuple(R.Tensor((12,), "float32"), R.Tensor((6,), "int32")):
            with R.dataflow():
                lv = R.concat((x, bias), axis=0)
                lv1 = (lv, integers)
                R.output(lv1)
            return lv1

    after, parameters = externalize_constants(Module)
    assert list(parameters) == ["constant", "constant#2"]
    assert [array.dtype for array in parameters.values()] == [np.float32, np.int32]
    relax.analysis.well_formed(after)


def test_small_constants_stay():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            with R.dataflow():
                lv = R.add(x, small)
                R.output(lv)
            return lv

    after, parameters = externalize_constants(Module)
    assert parameters == {}
    assert after.same_as(Module)


def test_runs_with_the_parameters_as_arguments():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 6, 6), "float32")) -> R.Tensor((1, 6, 6), "float32"):
            with R.dataflow():
                first = R.matmul(x, weight)
                lv = R.add(first, bias)
                R.output(lv)
            return lv

    after, parameters = externalize_constants(name_layers(Module, {"first": "0.conv#2"}))
    executable = tvm.compile(after, tvm.target.Target("llvm"))
    arguments = [WEIGHT, *parameters.values()]
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](
        *[tvm.runtime.tensor(a) for a in arguments]
    )
    # Integers below 2**24: float32 is exact.
    np.testing.assert_array_equal(result.numpy(), WEIGHT @ WEIGHT + BIAS)
