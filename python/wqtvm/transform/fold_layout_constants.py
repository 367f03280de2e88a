"""Evaluate reshapes, permutations and repetitions of constants.

The importer leaves ``reshape(bias)`` and ``permute_dims(weight)`` in the graph, and ConvertLayout
adds a permutation per weight. TVM's FoldConstant compiles a function for each of these shapes;
here numpy does it.

Ordering: before `fold_batch_norm`, which looks for constant biases, and (again) after
ConvertLayout; `channels_last` runs it itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.transform import function_pass

from ..frontend.names import operator_name
from .constants import Array, array_of, is_tensor_constant, shape_of


def _permute(array: Array, call: relax.Call) -> Array:
    axes = call.attrs.axes
    return np.transpose(array, None if axes is None else [int(axis) for axis in axes])


def _reshape(array: Array, call: relax.Call) -> Array:
    return array.reshape(shape_of(call))


def _broadcast(array: Array, call: relax.Call) -> Array:
    return np.broadcast_to(array, shape_of(call))


def _tile(array: Array, call: relax.Call) -> Array:
    return np.tile(array, [int(count) for count in call.attrs.repeats])


_EVALUATE: dict[str, Callable[[Array, relax.Call], Array]] = {
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.expand_dims": _reshape,
    "relax.squeeze": _reshape,
    "relax.broadcast_to": _broadcast,
    "relax.tile": _tile,
}


@function_pass(opt_level=0, name="FoldLayoutConstants")
def fold_layout_constants(
    function: relax.Function, module: ir.IRModule, context: ir.transform.PassContext
) -> relax.Function:
    """Replace constants that are reshaped, permuted or repeated by constants."""
    return _Fold(module).visit_expr(function)


@mutator
class _Fold(PyExprMutator):
    def __init__(self, module: ir.IRModule) -> None:
        super().__init__(module)
        self.folded: dict[relax.Var, ir.GenericConst] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        value = binding.value
        evaluate = _EVALUATE.get(operator_name(value) or "")
        if evaluate is not None:
            data = self.folded.get(value.args[0], value.args[0])
            if is_tensor_constant(data):
                array = np.ascontiguousarray(evaluate(array_of(data), value))
                self.folded[binding.var] = relax.const(array, array.dtype.name)
                if not isinstance(binding.var, relax.DataflowVar):
                    super().visit_var_binding_(
                        relax.VarBinding(binding.var, self.folded[binding.var])
                    )
                return
        super().visit_var_binding_(binding)

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        if var in self.folded:
            return self.folded[var]
        return super().visit_dataflow_var_(var)
