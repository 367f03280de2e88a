"""Turn the tensor constants of ``@main`` into parameters, so that weights live beside the library.

The parameters follow the inputs, in the order in which the constants are met; the attribute
``num_input`` keeps the number of inputs, as TVM's own passes expect. Equal constants become one
parameter. Constants of a few bytes stay: a scalar is worth more as an immediate.

A parameter is called after the layer that uses it and what it is there: "body.3.weight". The role
of an argument is known for the operators in `ROLES`; a constant that is added to a layer's result
is its bias; any other is "constant", "constant#2" and so on.

Ordering: after every pass that computes with constants (`fold_batch_norm`, `channels_last`,
quantization), before fusion, which would hide them in functions of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import LAYER_OPS, bindings, layer_name, operator_name, unique_names
from .constants import Array, array_of, is_tensor_constant

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


def externalize_constants(
    module: ir.IRModule, roles: Mapping[str, Mapping[int, str]] | None = None
) -> tuple[ir.IRModule, dict[str, Array]]:
    """Return the module with trailing parameters, and their values in the same order.

    `roles` adds to `ROLES`: operator name, then argument position, then what the argument is.
    """
    function = module["main"]
    table = {**ROLES, **(roles or {})}
    collected = _collect(function, table)
    if not collected:
        return module, {}
    names = unique_names(name for name, _ in collected.values())
    parameters = {
        digest: relax.Var(name, constant.ty)
        for name, (digest, (_, constant)) in zip(names, collected.items(), strict=True)
    }
    inputs = list(function.params)
    body = _Replace(module, parameters).visit_expr(function.body)
    rewritten = relax.Function(
        [*inputs, *parameters.values()],
        body,
        function.ret_ty,
        function.is_pure,
        function.attrs,
        function.span,
    ).with_attr("num_input", len(inputs))
    result = ir.IRModule(dict(module.functions.items()), attrs=module.attrs)
    result.update_func(module.get_global_var("main"), rewritten)
    arrays = (array_of(constant) for _, constant in collected.values())
    return result, dict(zip(names, arrays, strict=True))


def _collect(
    function: relax.Function, roles: Mapping[str, Mapping[int, str]]
) -> dict[str, tuple[str, ir.GenericConst]]:
    """Map the digest of each distinct constant to the name of its first use, and to itself."""
    found: dict[str, tuple[str, ir.GenericConst]] = {}
    layers: set[relax.Var] = set()
    for binding in bindings(function):
        value = binding.value
        operator = operator_name(value)
        if operator in LAYER_OPS or operator in roles:
            layers.add(binding.var)
        for position, argument in _constants(value):
            name = _name(binding, position, layers, roles)
            found.setdefault(_digest(argument), (name, argument))
    for _, argument in _constants(function.body.body):
        found.setdefault(_digest(argument), ("constant", argument))
    return found


def _constants(value: relax.Expr) -> list[tuple[int, ir.GenericConst]]:
    """List the large constants in a value, each with the position of the argument it is in."""
    arguments = list(value.args) if isinstance(value, relax.Call) else [value]
    found: list[tuple[int, ir.GenericConst]] = []

    for position, argument in enumerate(arguments):

        def visit(expr: relax.Expr, position: int = position) -> None:
            if is_tensor_constant(expr) and _size(expr) > SMALL:
                found.append((position, expr))

        relax.analysis.post_order_visit(argument, visit)
    return found


def _name(
    binding: relax.Binding,
    position: int,
    layers: set[relax.Var],
    roles: Mapping[str, Mapping[int, str]],
) -> str:
    if binding.var in layers:
        role = roles.get(operator_name(binding.value) or "", {}).get(position, "constant")
        return f"{layer_name(binding.var)}.{role}"
    if operator_name(binding.value) == "relax.add":
        other = binding.value.args[1 - position]
        if other in layers:
            return f"{layer_name(other)}.bias"
    return "constant"


def _size(constant: ir.GenericConst) -> int:
    array = constant.value
    elements = 1
    for extent in array.shape:
        elements *= int(extent)
    return elements * array_of(constant).itemsize if elements <= SMALL else elements


def _digest(constant: ir.GenericConst) -> str:
    array = array_of(constant)
    content = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    content.update(array.tobytes())
    return content.hexdigest()


@mutator
class _Replace(PyExprMutator):
    def __init__(self, module: ir.IRModule, parameters: Mapping[str, relax.Var]) -> None:
        super().__init__(module)
        self.parameters = parameters

    def visit_expr_fallback_(self, expr: relax.Expr) -> relax.Expr:
        if is_tensor_constant(expr) and _size(expr) > SMALL:
            return self.parameters[_digest(expr)]
        return super().visit_expr_fallback_(expr)
