from __future__ import annotations

import numpy as np
import tvm
from tvm.script import ir as I
from tvm.script import relax as R

from wqtvm.transform.fold_layout_constants import fold_layout_constants

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def constant(array: np.ndarray):
    return tvm.relax.const(np.ascontiguousarray(array), array.dtype.name)


matrix = constant(MATRIX)
cube = constant(MATRIX.reshape(1, 2, 3))
folded = constant(np.tile(MATRIX.T, (2, 1)).reshape(1, 6, 2))


def test_chain_of_reshapes_and_permutations():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 2), "float32")) -> R.Tensor((1, 6, 2), "float32"):
            with R.dataflow():
                turned = R.permute_dims(matrix)
                tiled = R.tile(turned, (2, 1))
                expanded = R.expand_dims(tiled, axis=0)
                y = R.add(x, expanded)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 2), "float32")) -> R.Tensor((1, 6, 2), "float32"):
            with R.dataflow():
                y = R.add(x, folded)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(fold_layout_constants(Before), Expected)


def test_output_that_is_a_constant():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1,), "float32")) -> R.Tensor((1, 2, 3), "float32"):
            with R.dataflow():
                y = R.reshape(matrix, (1, 2, 3))
                R.output(y)
            return y

    result = fold_layout_constants(Before)["main"]
    tvm.relax.analysis.well_formed(result)
    value = result.body.body
    for block in result.body.blocks:
        for binding in block.bindings:
            value = binding.value if value.same_as(binding.var) else value
    tvm.ir.assert_structural_equal(value, cube)


def test_variables_and_arithmetic_are_left_alone():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((2, 3), "float32")) -> R.Tensor((3, 2), "float32"):
            with R.dataflow():
                doubled = R.add(matrix, matrix)
                moved = R.permute_dims(R.add(x, doubled))
                R.output(moved)
            return moved

    tvm.ir.assert_structural_equal(fold_layout_constants(Module), Module)
