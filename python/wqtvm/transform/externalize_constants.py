"""Turn the tensor constants of ``@main`` into parameters, so that weights live beside the library.

The parameters follow the inputs, in the order in which the constants are met; the attribute
``num_input`` keeps the number of inputs, as TVM's own passes expect. Equal constants become one
parameter. Constants of a few bytes stay: a scalar is worth more as an immediate.

A parameter is called after the layer that uses it and what it is there: "body.3.weight". The role
of an argument is known for the operators in `ROLES`; in a call of a TIR function it is the name of
the function's buffer; a constant that is added to a layer's result is its bias; any other is
"constant", "constant#2" and so on.

Ordering: after every pass that computes with constants (`fold_batch_norm`, `channels_last`,
quantization), before fusion, which would hide them in functions of their own.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import bindings, layer_name, operator_name, unique_names
from .constants import Array, array_of, is_tensor_constant, shape_of
from .main_function import with_main

SMALL = 16
"""Constants of so many bytes or fewer stay in the module."""

_NORM = {1: "weight", 2: "bias"}

ROLES: dict[str, dict[int, str]] = {
    "relax.nn.conv1d": {1: "weight"},
    "relax.nn.conv2d": {1: "weight"},
    "relax.nn.conv3d": {1: "weight"},
    "relax.nn.conv1d_transpose": {1: "weight"},
    "relax.nn.conv2d_transpose": {1: "weight"},
    "relax.nn.conv3d_transpose": {1: "weight"},
    "relax.matmul": {0: "weight", 1: "weight"},
    "relax.nn.batch_norm": {**_NORM, 3: "running_mean", 4: "running_var"},
    "relax.nn.group_norm": _NORM,
    "relax.nn.instance_norm": _NORM,
    "relax.nn.layer_norm": _NORM,
    "relax.nn.prelu": {1: "weight"},
}
"""What the arguments of an operator are, by position."""

_UNNAMED = re.compile(r"(lv|gv)\d*")
"""Names that TVM gives variables of its own."""


def externalize_constants(module: ir.IRModule) -> tuple[ir.IRModule, dict[str, Array]]:
    """Return the module with trailing parameters, and their values in the same order."""
    function = module["main"]
    constants: dict[str, ir.GenericConst] = {}
    wanted: list[str] = []
    digests: dict[ir.GenericConst, str] = {}
    for name, constant in _named_constants(module, function):
        if constant in digests:
            continue
        digests[constant] = digest = _digest(constant)
        if digest not in constants:
            constants[digest] = constant
            wanted.append(name)
    if not constants:
        return module, {}

    names = unique_names(wanted)
    parameters = {
        digest: relax.Var(name, constant.ty)
        for name, (digest, constant) in zip(names, constants.items(), strict=True)
    }
    replacement = {constant: parameters[digest] for constant, digest in digests.items()}
    rewritten = relax.Function(
        [*function.params, *parameters.values()],
        _Replace(module, replacement).visit_expr(function.body),
        function.ret_ty,
        function.is_pure,
        function.attrs,
        function.span,
    ).with_attr("num_input", len(function.params))
    result = with_main(module, rewritten)
    arrays = (array_of(constant) for constant in constants.values())
    return result, dict(zip(names, arrays, strict=True))


def _named_constants(
    module: ir.IRModule, function: relax.Function
) -> Iterator[tuple[str, ir.GenericConst]]:
    """Yield every use of a large constant with the name that it would give."""
    for binding in bindings(function):
        value = binding.value
        arguments, roles = [value], {}
        if isinstance(value, relax.Call):
            operator = operator_name(value)
            arguments, roles = list(value.args), ROLES.get(operator or "", {})
            if operator == "relax.call_tir" and isinstance(arguments[1], relax.Tuple):
                roles = _buffer_names(module[arguments[0]])
                arguments = list(arguments[1])
        for position, argument in enumerate(arguments):
            for constant in _large_constants(argument):
                yield _name(binding, position, roles), constant
    for constant in _large_constants(function.body.body):
        yield "constant", constant


def _name(binding: relax.Binding, position: int, roles: Mapping[int, str]) -> str:
    layer = layer_name(binding.var)
    if not _UNNAMED.fullmatch(layer):
        return f"{layer}.{roles.get(position, 'constant')}"
    if operator_name(binding.value) == "relax.add":
        other = binding.value.args[1 - position]
        if isinstance(other, relax.Var) and not _UNNAMED.fullmatch(other.name):
            return f"{layer_name(other)}.bias"
    return "constant"


def _buffer_names(function: ir.BaseFunc) -> dict[int, str]:
    """Map the position of each buffer of a TIR function to its name."""
    return {position: str(buffer.name) for position, buffer in enumerate(function.params)}


def _large_constants(expr: relax.Expr) -> list[ir.GenericConst]:
    found: list[ir.GenericConst] = []

    def visit(part: relax.Expr) -> None:
        if is_tensor_constant(part) and _bytes(part) > SMALL:
            found.append(part)

    relax.analysis.post_order_visit(expr, visit)
    return found


def _bytes(constant: ir.GenericConst) -> int:
    return math.prod(shape_of(constant)) * np.dtype(str(constant.value.dtype)).itemsize


def _digest(constant: ir.GenericConst) -> str:
    array = array_of(constant)
    content = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


@mutator
class _Replace(PyExprMutator):
    def __init__(
        self, module: ir.IRModule, parameters: Mapping[ir.GenericConst, relax.Var]
    ) -> None:
        super().__init__(module)
        self.parameters = parameters

    def visit_generic_const_(self, constant: ir.GenericConst) -> relax.Expr:
        return self.parameters.get(constant, constant)
