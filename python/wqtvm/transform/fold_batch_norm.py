"""Fold batch normalisation into the convolution before it.

y = gamma (conv(x, w) + b - mean) / sqrt(variance + epsilon) + beta is a convolution with the
weights w s and the bias (b - mean) s + beta, where s = gamma / sqrt(variance + epsilon), computed
in float64 and rounded once.

It is left alone, and becomes a multiplication and an addition with constants, where the
convolution has another user, where weights are computed at run time, and behind anything else
than a convolution. A batch normalisation whose statistics are used, or in training, is not
touched at all.

Ordering: after `fold_layout_constants` (biases must be constants, not reshapes of them), before
`channels_last` (only NCHW with OIHW, or IOHW if transposed, is understood) and before the plan,
which wants the weights that will run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.transform import function_pass

from ..errors import NonFiniteError
from ..frontend.names import bindings, layer_name, operator_name
from .constants import array_of, is_tensor_constant, shape_of
from .uses import count_parts, count_uses

_Float64 = npt.NDArray[np.float64]

_CHANNEL_AXIS = {
    ("relax.nn.conv2d", "NCHW", "OIHW"): 0,
    ("relax.nn.conv2d_transpose", "NCHW", "IOHW"): 1,
}
"""Axis of the output channels in the weights."""


@dataclass(frozen=True)
class _Fold:
    """A batch normalisation, and the convolution that takes it in (None: arithmetic instead)."""

    scale: _Float64
    shift: _Float64
    convolution: relax.Var | None
    source: relax.Expr


@function_pass(opt_level=0, name="FoldBatchNorm")
def fold_batch_norm(
    function: relax.Function, module: ir.IRModule, context: ir.transform.PassContext
) -> relax.Function:
    """Fold batch normalisation into convolutions, else turn it into a scale and a shift.

    Raises
    ------
    NonFiniteError
        The folded weights are not finite: the layer's variance is negative, or its numbers are
        out of float32's range.
    """
    folds = _find(function)
    return _Rewrite(module, folds).visit_expr(function) if folds else function


def _find(function: relax.Function) -> dict[relax.Var, _Fold]:
    """Map the variable of each batch normalisation to what is to be done with it."""
    values = {binding.var: binding.value for binding in bindings(function)}
    uses, parts = count_uses(function), count_parts(function)
    statistics = {
        value.tuple_value
        for value in values.values()
        if isinstance(value, relax.TupleGetItem) and value.index != 0
    }
    folds = {}
    for var, value in values.items():
        if operator_name(value) != "relax.nn.batch_norm" or value.attrs.training:
            continue
        constants = all(is_tensor_constant(argument) for argument in value.args[1:])
        if (
            constants
            and var not in statistics
            and parts[var] == uses[var]
            and value.attrs.axis == 1
        ):
            folds[var] = _plan(var, value, values, uses)
    return folds


def _plan(
    var: relax.Var,
    call: relax.Call,
    values: dict[relax.Var, relax.Expr],
    uses: Counter[relax.Var],
) -> _Fold:
    gamma, beta, mean, variance = (array_of(a).astype(np.float64) for a in call.args[1:5])
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1.0 / np.sqrt(variance + call.attrs.epsilon)
    if call.attrs.scale:
        scale = scale * gamma
    shift = -mean * scale
    if call.attrs.center:
        shift = shift + beta

    source = call.args[0]
    convolution, bias = source, None
    addition = values.get(source)
    if addition is not None and operator_name(addition) == "relax.add" and uses[source] == 1:
        bias = _channel_constant(addition.args[1], len(scale))
        if bias is not None:
            convolution = addition.args[0]
    if not _takes_scale(values.get(convolution), len(scale)) or uses[convolution] != 1:
        fold = _Fold(scale, shift, None, source)
    else:
        with_bias = shift if bias is None else shift + bias * scale
        fold = _Fold(scale, with_bias, convolution, convolution)
    _check_finite(layer_name(var if fold.convolution is None else fold.convolution), fold)
    return fold


def _channel_constant(expr: relax.Expr, channels: int) -> _Float64 | None:
    """Return a constant of shape (1, channels, 1, 1) as a vector."""
    if is_tensor_constant(expr) and shape_of(expr) == (1, channels, 1, 1):
        return array_of(expr).astype(np.float64).reshape(channels)
    return None


def _takes_scale(value: relax.Expr | None, channels: int) -> bool:
    axis = _weight_axis(value)
    return (
        isinstance(value, relax.Call)
        and axis is not None
        and is_tensor_constant(value.args[1])
        and shape_of(value.args[1])[axis] == channels
    )


def _weight_axis(value: relax.Expr | None) -> int | None:
    name = operator_name(value)
    if name not in ("relax.nn.conv2d", "relax.nn.conv2d_transpose"):
        return None
    assert isinstance(value, relax.Call)
    return _CHANNEL_AXIS.get((name, value.attrs.data_layout, value.attrs.kernel_layout))


def _check_finite(layer: str, fold: _Fold) -> None:
    for what, array in (("scale", fold.scale), ("shift", fold.shift)):
        bad = np.flatnonzero(~np.isfinite(array.astype(np.float32)))
        if bad.size:
            raise NonFiniteError(
                f"layer {layer!r}: the batch normalisation's {what} is {array[bad[0]]} in channel "
                f"{bad[0]} ({bad.size} channels in all); its running variance is negative or "
                "its weights are out of range"
            )


@mutator
class _Rewrite(PyExprMutator):
    def __init__(self, module: ir.IRModule, folds: dict[relax.Var, _Fold]) -> None:
        super().__init__(module)
        self.folds = folds
        self.scales = {
            fold.convolution: fold.scale for fold in folds.values() if fold.convolution is not None
        }

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        var, value = binding.var, binding.value
        if var in self.folds:
            return
        if var in self.scales:
            value = _scaled(value, self.scales[var])
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self.folds:
            fold = self.folds[value.tuple_value]
            value = fold.source
            if fold.convolution is None:
                value = self.builder_.emit(
                    relax.op.multiply(self.visit_expr(value), _per_channel(fold.scale, value))
                )
            value = relax.op.add(value, _per_channel(fold.shift, fold.source))
        super().visit_var_binding_(relax.VarBinding(var, value))


def _scaled(call: relax.Call, scale: _Float64) -> relax.Call:
    axis = _weight_axis(call)
    weight = array_of(call.args[1])
    extents = [1] * weight.ndim
    extents[axis or 0] = -1
    folded = (weight.astype(np.float64) * scale.reshape(extents)).astype(weight.dtype)
    constant = relax.const(folded, weight.dtype.name)
    return relax.Call(call.op, [call.args[0], constant], call.attrs, call.ty_args)


def _per_channel(values: _Float64, like: relax.Expr) -> ir.GenericConst:
    """Return float32 values along axis 1, to be broadcast to `like`."""
    extents = [1, -1] + [1] * (like.ty.ndim - 2)
    return relax.const(values.astype(np.float32).reshape(extents), "float32")
