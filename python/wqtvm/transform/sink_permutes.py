"""Move permutations of axes behind the operators that do not care, so that they cancel.

A ``permute_dims`` is not emitted where it stands. Its result is remembered as a view: a base
tensor and the order in which its axes are read. A permutation of a view is another view. An
elementwise operator, or one that has an NHWC form, on an NCHW view of NHWC data runs on the base,
and so does a reshape that splits or merges axes which are neighbours in the base. Any other use
emits the permutation, once. What is left are the permutations that the network needs.

ConvertLayout stops at leaky ReLU, clip, where, pad, broadcasts, and at every reshape: this pass
carries the channels-last layout over those, through the pixel shuffle, and through attention
blocks, where (N, C, H, W) to (N, H W, C) and back costs nothing in NHWC.

Ordering: after ConvertLayout and `fold_layout_constants`; `channels_last` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.transform import function_pass

from ..frontend.names import operator_name
from .axis_groups import reshape_view
from .channels_last_operators import CHANNELS_LAST
from .constants import array_of, is_scalar, is_tensor_constant, shape_of
from .uses import count_parts, count_uses

NCHW_OF_NHWC = (0, 3, 1, 2)

_ARITHMETIC = ("add", "subtract", "multiply", "divide", "power", "floor_divide", "floor_mod", "mod")
_COMPARISONS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
_CHOICES = ("maximum", "minimum", "where", "clip", "logical_and", "logical_or", "logical_not")
_FUNCTIONS = (
    "abs",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "square",
    "tanh",
    "sigmoid",
    "sin",
    "cos",
    "erf",
)
_ROUNDINGS = ("negative", "sign", "floor", "ceil", "round", "astype")
_ACTIVATIONS = ("relu", "relu6", "leakyrelu", "gelu", "gelu_tanh", "silu", "softplus", "selu")
ELEMENTWISE = frozenset(
    [f"relax.{name}" for name in _ARITHMETIC + _COMPARISONS + _CHOICES + _FUNCTIONS + _ROUNDINGS]
    + [f"relax.nn.{name}" for name in _ACTIVATIONS]
)
"""Operators whose result at an index depends on their broadcast arguments at this index alone."""

RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze")


@dataclass(frozen=True)
class _View:
    """Axis i of the viewed tensor is axis order[i] of the base."""

    base: relax.Var
    order: tuple[int, ...]

    def to_base(self) -> tuple[int, ...]:
        """Return the permutation that takes a tensor in the view's order to the base's."""
        return tuple(int(axis) for axis in np.argsort(self.order))


@function_pass(opt_level=0, name="SinkPermutes")
def sink_permutes(
    function: relax.Function, module: ir.IRModule, context: ir.transform.PassContext
) -> relax.Function:
    """Move permutations behind the operators that do not care, so that they cancel."""
    uses, parts = count_uses(function), count_parts(function)
    tuples = {var for var in parts if parts[var] == uses[var]}
    return _Sink(module, tuples).visit_expr(function)


@mutator
class _Sink(PyExprMutator):
    def __init__(self, module: ir.IRModule, tuples: set[relax.Var]) -> None:
        """`tuples` are the variables that nothing uses but for their elements."""
        super().__init__(module)
        self.tuples = tuples
        self.views: dict[relax.Var, _View] = {}
        self.splits: dict[relax.Var, relax.Var] = {}
        self.emitted: dict[relax.Var, relax.Expr] = {}

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        if var not in self.views:
            return super().visit_dataflow_var_(var)
        if var not in self.emitted:
            view = self.views[var]
            self.emitted[var] = self._permuted(view.base, view.order)
        return self.emitted[var]

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if operator_name(binding.value) == "relax.split" and self._split(binding):
            return
        rewrite = self._rewriter(binding.value)
        view = rewrite(binding) if rewrite else None
        if view is None:
            super().visit_var_binding_(binding)
        elif isinstance(binding.var, relax.DataflowVar):
            self.views[binding.var] = view
        else:
            output = _permutation(view.base, view.order)
            super().visit_var_binding_(relax.VarBinding(binding.var, output))

    def _permuted(self, data: relax.Expr, order: Sequence[int]) -> relax.Expr:
        permutation = _permutation(data, order)
        return data if permutation is data else self.builder_.emit(permutation)

    def _rewriter(self, value: relax.Expr) -> Callable[[relax.VarBinding], _View | None] | None:
        operator = operator_name(value)
        if isinstance(value, relax.TupleGetItem):
            return self._part
        if operator == "relax.permute_dims":
            return self._permute
        if operator in ELEMENTWISE:
            return self._elementwise
        if operator in RESHAPES:
            return self._reshape
        if operator in CHANNELS_LAST:
            return self._channels_last
        if operator == "relax.concat":
            return self._concat
        if operator == "relax.broadcast_to":
            return self._broadcast
        return None

    def _view(self, expr: relax.Expr) -> _View | None:
        return self.views.get(expr) if isinstance(expr, relax.Var) else None

    def _channels_last_view(self, expr: relax.Expr) -> _View | None:
        """Return the view if it is worth computing on its base: NCHW of NHWC, not emitted yet."""
        view = self._view(expr)
        unwanted = view is None or view.order != NCHW_OF_NHWC or expr in self.emitted
        return None if unwanted else view

    def _permute(self, binding: relax.VarBinding) -> _View | None:
        source = binding.value.args[0]
        if not isinstance(source, relax.Var):
            return None
        axes = permuted_axes(binding.value)
        view = self._view(source)
        if view is not None:
            return _View(view.base, tuple(view.order[axis] for axis in axes))
        return _View(self.visit_expr(source), axes)

    def _elementwise(self, binding: relax.VarBinding) -> _View | None:
        call = binding.value
        views = [view for arg in call.args if (view := self._channels_last_view(arg)) is not None]
        if not views or binding.var.ty.ndim != len(NCHW_OF_NHWC):
            return None
        arguments = [self._in_base_order(arg, views[0], binding.var) for arg in call.args]
        if any(argument is None for argument in arguments):
            return None
        return self._emit(binding.var, _with_arguments(call, arguments), views[0].order)

    def _in_base_order(
        self, argument: relax.Expr, view: _View, result: relax.Var
    ) -> relax.Expr | None:
        """Return the argument with the axes of the view's base; None if that is not worth it."""
        own = self._channels_last_view(argument)
        if own is not None:
            return own.base
        if not isinstance(argument.ty, relax.TensorType) or is_scalar(argument):
            return argument
        shape = shape_of(argument)
        padded = (1,) * (len(view.order) - len(shape)) + shape
        if is_tensor_constant(argument):
            array = np.ascontiguousarray(
                array_of(argument).reshape(padded).transpose(view.to_base())
            )
            return relax.const(array, array.dtype.name)
        if np.prod(shape) == np.prod(shape_of(result)):
            return None
        # A broadcast operand: permuting it is cheaper than permuting what it is broadcast to.
        operand = self.visit_expr(argument)
        if shape != padded:
            operand = self.builder_.emit(relax.op.reshape(operand, padded))
        return self._permuted(operand, view.to_base())

    def _channels_last(self, binding: relax.VarBinding) -> _View | None:
        call = binding.value
        view = self._channels_last_view(call.args[0])
        if view is None:
            return None
        rest = [self.visit_expr(argument) for argument in call.args[1:]]
        rewrite = CHANNELS_LAST[call.op.name]
        return self._emit(binding.var, rewrite(call, view.base, *rest), view.order)

    def _split(self, binding: relax.VarBinding) -> bool:
        """Split the base instead; whether that was done."""
        call = binding.value
        view = self._channels_last_view(call.args[0])
        if view is None or binding.var not in self.tuples:
            return False
        sections = call.attrs.indices_or_sections
        sections = [int(at) for at in sections] if isinstance(sections, Sequence) else int(sections)
        axis = NCHW_OF_NHWC[int(call.attrs.axis) % 4]
        self.splits[binding.var] = self.builder_.emit(relax.op.split(view.base, sections, axis))
        return True

    def _part(self, binding: relax.VarBinding) -> _View | None:
        whole = self.splits.get(binding.value.tuple_value)
        if whole is None:
            return None
        part = relax.TupleGetItem(whole, binding.value.index)
        return self._emit(binding.var, part, NCHW_OF_NHWC)

    def _concat(self, binding: relax.VarBinding) -> _View | None:
        parts, axis = binding.value.args[0], binding.value.attrs.axis
        if axis is None or not isinstance(parts, relax.Tuple):
            return None
        views = [self._channels_last_view(part) for part in parts]
        # Some parts are permuted either way: the fewer.
        if 2 * sum(view is not None for view in views) < len(views):
            return None
        to_base = _View(binding.var, NCHW_OF_NHWC).to_base()
        bases = [
            self._permuted(self.visit_expr(part), to_base) if view is None else view.base
            for part, view in zip(parts, views, strict=True)
        ]
        joined = relax.op.concat(bases, NCHW_OF_NHWC[int(axis) % 4])
        return self._emit(binding.var, joined, NCHW_OF_NHWC)

    def _broadcast(self, binding: relax.VarBinding) -> _View | None:
        view = self._channels_last_view(binding.value.args[0])
        shape = shape_of(binding.var)
        if view is None or len(shape) != len(view.order):
            return None
        target = [shape[axis] for axis in view.to_base()]
        return self._emit(binding.var, relax.op.broadcast_to(view.base, target), view.order)

    def _reshape(self, binding: relax.VarBinding) -> _View | None:
        source = binding.value.args[0]
        view = self._view(source)
        if view is None or source in self.emitted:
            return None
        plan = reshape_view(shape_of(source), shape_of(binding.var), view.order)
        if plan is None:
            return None
        if not plan.is_free and plan.order != NCHW_OF_NHWC:
            return None
        base = view.base
        if not plan.is_free:
            base = self._permuted(base, plan.permutation)
        return self._emit(binding.var, relax.op.reshape(base, plan.base_shape), plan.order)

    def _emit(self, var: relax.Var, value: relax.Expr, order: Sequence[int]) -> _View:
        """Bind a value to a variable that has the name of `var`: names of layers live there."""
        call = self.builder_.normalize(value)
        base = relax.DataflowVar(var.name, call.ty)
        self.builder_.emit_normalized(relax.VarBinding(base, call))
        return _View(base, tuple(order))


def permuted_axes(call: relax.Call) -> tuple[int, ...]:
    """The axes of what a ``permute_dims`` takes, in the order of its result."""
    rank, axes = call.args[0].ty.ndim, call.attrs.axes
    return tuple(reversed(range(rank))) if axes is None else tuple(int(a) % rank for a in axes)


def _permutation(data: relax.Expr, order: Sequence[int]) -> relax.Expr:
    """Return a permutation; a reshape, which costs nothing, if only axes of extent 1 move."""
    if tuple(order) == tuple(range(len(order))):
        return data
    shape = shape_of(data)
    kept = [axis for axis in order if shape[axis] != 1]
    if kept == sorted(kept):
        return relax.op.reshape(data, [shape[axis] for axis in order])
    return relax.op.permute_dims(data, list(order))


def _with_arguments(call: relax.Call, arguments: Sequence[relax.Expr]) -> relax.Call:
    return relax.Call(call.op, list(arguments), call.attrs, call.ty_args)
