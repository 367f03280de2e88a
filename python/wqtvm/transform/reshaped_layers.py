"""Layers on another shape of what they take, and the elementwise operators behind them with them.

Those would else stand behind a reshape, and not fuse with the layer. Between two such layers
nothing has to be reshaped then. What else uses a result takes a reshape, which is free but for
results of the network; it is emitted once, of what was not reshaped before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator

from ..frontend.names import operator_name
from .constants import is_scalar, shape_of
from .sink_permutes import ELEMENTWISE, RESHAPES


class ReshapedLayers(PyExprMutator):
    """Rewrites the layers that ``layer`` is for. Classes derived from it are mutators of TVM's."""

    def __init__(self, module: ir.IRModule) -> None:
        super().__init__(module)
        self.results: dict[relax.Expr, relax.Var] = {}  # of what is not emitted as it was yet
        self.shaped: dict[tuple[relax.Expr, tuple[int, ...]], relax.Expr] = {}
        self.sources: dict[relax.Expr, relax.Expr] = {}  # of what is a reshape

    def layer(self, value: relax.Expr) -> relax.Expr | None:
        """The layer on another shape, of ``given``; None of what is no such layer."""
        raise NotImplementedError

    def new_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The other shape of what a layer takes or gives; the channels are last in both."""
        raise NotImplementedError

    def given(self, x: relax.Expr) -> relax.Expr:
        """What a layer takes, in the other shape."""
        return self._shaped(self._result(x), self.new_shape(shape_of(x)))

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        """In the shape that it had."""
        if var in self.results:
            return self._shaped(self.results[var], shape_of(var))
        return super().visit_dataflow_var_(var)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Of a layer or of what is behind one, in the other shape."""
        var, value = binding.var, binding.value
        if operator_name(value) in RESHAPES:
            self._reshape(binding)
            return
        result = self.layer(value)
        if result is None:
            result = self._elementwise(value)
        if result is None:
            super().visit_var_binding_(binding)
            return
        # Under the same name: names of layers live there.
        result = self.builder_.normalize(result)
        base = relax.DataflowVar(var.name, result.ty)
        self.builder_.emit_normalized(relax.VarBinding(base, result))
        if isinstance(var, relax.DataflowVar):
            self.results[var] = base
        else:
            shaped = relax.op.reshape(base, list(shape_of(var)))
            super().visit_var_binding_(relax.VarBinding(var, shaped))

    def _reshape(self, binding: relax.VarBinding) -> None:
        var, x = binding.var, binding.value.args[0]
        base = self._result(x)
        if isinstance(var, relax.DataflowVar):
            self.set_var_remap(var, self._shaped(base, shape_of(var)))
        else:
            reshape = relax.op.reshape(self.sources.get(base, base), list(shape_of(var)))
            super().visit_var_binding_(relax.VarBinding(var, reshape))

    def _elementwise(self, call: relax.Expr) -> relax.Expr | None:
        """An operator behind a layer, on the other shape; None of what is none."""
        if operator_name(call) not in ELEMENTWISE:
            return None
        found = [self.results[argument] for argument in call.args if argument in self.results]
        shape = shape_of(call)
        if not found or shape_of(found[0]) != self.new_shape(shape):
            return None
        arguments = []
        for argument in call.args:
            if not isinstance(argument.ty, relax.TensorType) or is_scalar(argument):
                arguments.append(argument)
            elif shape_of(argument) == shape:
                arguments.append(self.given(argument))
            elif math.prod(shape_of(argument)[:-1]) == 1:  # channels, or one value
                value = self.visit_expr(argument)
                arguments.append(self._shaped(value, shape_of(argument)[-1:]))
            else:
                return None
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)

    def _result(self, x: relax.Expr) -> relax.Expr:
        """A value, in the shape that it has."""
        return self.results[x] if x in self.results else self.visit_expr(x)

    def _shaped(self, value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        source = self.sources.get(value, value)
        if shape_of(source) == shape:
            return source
        if (source, shape) not in self.shaped:
            reshaped = self.builder_.emit(relax.op.reshape(source, list(shape)))
            self.shaped[source, shape] = reshaped
            self.sources[reshaped] = source
        return self.shaped[source, shape]
