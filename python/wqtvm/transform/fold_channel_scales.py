"""Fold multiplications by positive constants of channels into the convolution before them.

multiply(relu(conv(x, w) + b), s) is relu(conv(x, w s) + b s): the factors go up through what gives
s f(x) for s x (ReLU, leaky ReLU, PReLU, pooling) into weights and biases, and cost nothing more. A
multiplication behind anything else, or behind a value with another user, is left alone.

Ordering: after `channels_last` (channels are the last axis, weights HWIO) and `balance_channels`,
which makes such multiplications; before `lower_convolutions`, which wants the weights that will
run.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.transform import function_pass

from ..frontend.names import bindings, operator_name
from .constants import array_of, channel_vector, is_tensor_constant, shape_of
from .uses import count_uses

_Float64 = npt.NDArray[np.float64]

_HOMOGENEOUS = frozenset(
    {
        "relax.nn.relu",
        "relax.nn.leakyrelu",
        "relax.nn.prelu",
        "relax.nn.max_pool2d",
        "relax.nn.avg_pool2d",
    }
)
"""Operators that give s f(x) for s x, for positive s of channels."""


@function_pass(opt_level=0, name="FoldChannelScales")
def fold_channel_scales(
    function: relax.Function, module: ir.IRModule, context: ir.transform.PassContext
) -> relax.Function:
    """Fold multiplications by constants of channels into convolutions."""
    values = {binding.var: binding.value for binding in bindings(function)}
    uses = count_uses(function)
    constants: dict[relax.Var, _Float64] = {}
    removed: set[relax.Var] = set()
    for var, value in values.items():
        factors = _factors(value)
        if factors is None:
            continue
        path = _path(value.args[0], len(factors), values, uses)
        if path:
            removed.add(var)
            for scaled in path:
                constants[scaled] = constants.get(scaled, np.float64(1.0)) * factors
    return _Rewrite(module, constants, removed).visit_expr(function) if removed else function


def _factors(value: relax.Expr) -> _Float64 | None:
    """Positive constants of the last of four axes by which a call multiplies a value."""
    if operator_name(value) != "relax.multiply" or is_tensor_constant(value.args[0]):
        return None
    factors = channel_vector(value.args[1], value)
    return factors if factors is not None and (factors > 0).all() else None


def _path(
    var: relax.Var,
    channels: int,
    values: dict[relax.Var, relax.Expr],
    uses: Counter[relax.Var],
) -> list[relax.Var]:
    """Variables whose constants take the factors in, up to a convolution; empty without one."""
    path: list[relax.Var] = []
    while uses[var] == 1 and var in values:
        value = values[var]
        name = operator_name(value)
        if name == "relax.nn.conv2d":
            attrs = value.attrs
            layouts = (str(attrs.out_layout or attrs.data_layout), str(attrs.kernel_layout))
            fits = layouts == ("NHWC", "HWIO") and is_tensor_constant(value.args[1])
            return [*path, var] if fits else []
        if name == "relax.add" and channel_vector(value.args[1], value) is not None:
            path.append(var)
        elif name not in _HOMOGENEOUS or shape_of(value)[-1] != channels:
            return []
        var = value.args[0]
    return []


@mutator
class _Rewrite(PyExprMutator):
    def __init__(
        self, module: ir.IRModule, constants: dict[relax.Var, _Float64], removed: set[relax.Var]
    ) -> None:
        super().__init__(module)
        self.constants = constants
        self.removed = removed

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        var, value = binding.var, binding.value
        if var in self.removed:
            self.set_var_remap(var, self.visit_expr(value.args[0]))
            return
        if var in self.constants:
            # Biases end in channels, and so do weights HWIO.
            constant = array_of(value.args[1])
            scaled = (constant.astype(np.float64) * self.constants[var]).astype(constant.dtype)
            arguments = [value.args[0], relax.const(scaled, constant.dtype.name)]
            value = relax.Call(value.op, arguments, value.attrs, value.ty_args)
        super().visit_var_binding_(relax.VarBinding(var, value))
