"""Keep in 16 bits what passes from one function to the next: half the bytes of float32.

Functions compute in float32 as before: what they read is widened, which is exact, and what they
write is rounded to the nearest, ties to even. What ``@main`` takes and gives stays as it is, also
where it is only copied, and so do parameters, small tensors, and what a product of matrices reads,
which would widen it again for every panel of weights.

Ordering: after all schedules and `lift_packing`; before `evaluate_packing`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, relax, tirx
from tvm.ir.expr import TensorLoad
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir.stmt import SBlock

from ..frontend.names import bindings
from ..schedules.cpu_generic.contraction_stages import ACCUMULATE, PARTIAL
from ..schedules.cpu_generic.rewrite import uses_variable
from ..schedules.narrow_parameters import WIDE, is_address, narrow_parameters
from .uses import count_uses, tir_call

# Fewer elements stay in L1 from one function to the next.
_LEAST_ELEMENTS = 1 << 13
_PRODUCTS = (ACCUMULATE, PARTIAL)


def narrow_images(module: ir.IRModule, dtype: str) -> ir.IRModule:
    """Store as ``dtype`` each float32 tensor that only functions of the module write and read.

    ``dtype`` is a key of ``CONVERSIONS`` of ``schedules.narrow_parameters``.
    """
    narrowed = _narrowed(module)
    return _Narrow(module, narrowed, dtype).rewritten() if narrowed else module


@dataclass(frozen=True)
class _Place:
    """A parameter of a function, by its position; the last one is the result."""

    callee: ir.GlobalVar
    position: int


def _narrowed(module: ir.IRModule) -> set[relax.Var]:
    """The variables of ``@main`` whose tensors may be stored in 16 bits."""
    main = module["main"]
    places: dict[relax.Var, list[_Place]] = {}
    copies: list[tuple[relax.Var, relax.Var]] = []
    for binding in bindings(main):
        call = tir_call(binding.value)
        if call is None:
            continue
        callee, arguments = call
        for position, argument in enumerate(arguments):
            if argument in places:
                places[argument].append(_Place(callee, position))
        if _is_image(binding.value.ty_args[0]):
            places[binding.var] = [_Place(callee, len(arguments))]
        if len(arguments) == 1 and _is_copy(module[callee]):
            copies.append((arguments[0], binding.var))
    uses = count_uses(main)
    admits: dict[_Place, bool] = {}
    found = set()
    for variable, where in places.items():
        # Each use is the argument of a call: neither a result of @main nor part of a tuple.
        if len(where) - 1 != uses[variable]:
            continue
        for place in where:
            if place not in admits:
                admits[place] = _admits(module[place.callee], place.position)
        if all(admits[place] for place in where):
            found.add(variable)
    # A copy gives what it takes: neither is an input or a result of @main rounded by it, nor is a
    # new shape, which would be free, made a conversion.
    while unequal := [pair for pair in copies if (pair[0] in found) != (pair[1] in found)]:
        found -= {variable for pair in unequal for variable in pair}
    return found


def _is_copy(function: ir.BaseFunc) -> bool:
    """Whether a function gives its argument's values as they are, such as in another order."""
    return all(isinstance(store.value, TensorLoad) for store in _stores(function))


def _stores(function: ir.BaseFunc) -> list[tirx.BufferStore]:
    found: list[tirx.BufferStore] = []
    tvm_ffi.structural_walk(function.body, (tirx.BufferStore, found.append))
    return found


def _is_image(result: Any) -> bool:
    if not isinstance(result, relax.TensorType) or str(result.dtype) != WIDE:
        return False
    return math.prod(int(size) for size in result.shape) >= _LEAST_ELEMENTS


def _admits(function: ir.BaseFunc, position: int) -> bool:
    """Whether a parameter may be of another type: it is loaded, or else stored, as values alone."""
    if not isinstance(function, tirx.PrimFunc):
        return False
    buffer = function.params[position]
    refused: list[Any] = []
    loads: list[Any] = []
    addresses: list[Any] = []

    def on_load(load: Any) -> None:
        if load.source.same_as(buffer):
            loads.append(load)

    def on_call(call: Any) -> None:
        if not is_address(call) or not isinstance(call.args[0], TensorLoad):
            return
        if call.args[0].source.same_as(buffer):
            addresses.append(call)

    def on_block(block: SBlock) -> None:
        if any(match.source.source.same_as(buffer) for match in block.match_buffers):
            refused.append(block)
        if block.name_hint.startswith(_PRODUCTS) and uses_variable(block.body, [buffer]):
            refused.append(block)

    visits = [(TensorLoad, on_load), (ir.Call, on_call), (SBlock, on_block)]
    tvm_ffi.structural_walk(function.body, visits)
    is_result = position == len(function.params) - 1
    # A result that is loaded is one that sums are kept in.
    return not refused and not (is_result and len(loads) > len(addresses))


def _is_identity(function: tirx.PrimFunc) -> bool:
    """Whether a function of one argument gives it as it is."""
    return _is_copy(function) and all(
        tvm_ffi.structural_equal(list(store.indices), list(store.value.indices))
        for store in _stores(function)
    )


@mutator
class _Narrow(PyExprMutator):
    """Calls give and take narrow tensors, by functions of their own."""

    def __init__(self, module: ir.IRModule, narrowed: set[relax.Var], dtype: str) -> None:
        super().__init__(module)
        self.module, self.narrowed, self.dtype = module, narrowed, dtype
        self.functions: dict[tuple[ir.GlobalVar, tuple[int, ...]], ir.GlobalVar] = {}

    def rewritten(self) -> ir.IRModule:
        main = self.visit_expr(self.module["main"])
        self.builder_.update_func(self.module.get_global_var("main"), main)
        result: ir.IRModule = relax.transform.DeadCodeElimination()(self.builder_.get())
        return result

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        call = tir_call(binding.value)
        if call is None:
            super().visit_var_binding_(binding)
            return
        (callee, arguments), result = call, binding.value.ty_args[0]
        places = [*arguments, binding.var]
        positions = tuple(i for i, value in enumerate(places) if value in self.narrowed)
        if not positions:
            super().visit_var_binding_(binding)
            return
        if binding.var in self.narrowed:
            result = relax.TensorType([int(size) for size in result.shape], self.dtype)
        function = self._function(callee, positions)
        given = [self.visit_expr(argument) for argument in arguments]
        is_inner = isinstance(binding.var, relax.DataflowVar)
        emit = self.builder_.emit if is_inner else self.builder_.emit_output
        # Such as one that widened what is narrow now.
        if (
            len(given) == 1
            and (is_inner or isinstance(given[0], relax.DataflowVar))
            and tvm_ffi.structural_equal(given[0].ty, result)
            and _is_identity(self.builder_.get()[function])
        ):
            self.set_var_remap(binding.var, given[0] if is_inner else emit(given[0]))
            return
        new = emit(relax.call_tir(function, given, result), str(binding.var.name))
        self.set_var_remap(binding.var, new)

    def _function(self, callee: ir.GlobalVar, positions: tuple[int, ...]) -> ir.GlobalVar:
        if (callee, positions) not in self.functions:
            narrow = narrow_parameters(self.module[callee], positions, self.dtype)
            added = self.builder_.add_func(narrow, f"{callee.name_hint}_narrow")
            self.functions[callee, positions] = added
        return self.functions[callee, positions]
