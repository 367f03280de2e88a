"""Names of layers.

A layer's name is the name of the Relax variable that its call is bound to. Passes keep it for as
long as they keep the binding: ConvertLayout, FoldConstant, DecomposeOps, LegalizeOps, common
subexpression and dead code elimination, saving to JSON all do. Two things lose it:

- an alias. CanonicalizeBindings turns ``a = conv2d(...); gv = a`` into ``gv = conv2d(...)``.
  So `name_layers` binds the call to the output itself.
- text. TVMScript prints ``body.3.conv`` as ``body_3_conv``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

CONVOLUTION_OPS = frozenset(
    {
        "relax.nn.conv1d",
        "relax.nn.conv2d",
        "relax.nn.conv3d",
        "relax.nn.conv1d_transpose",
        "relax.nn.conv2d_transpose",
        "relax.nn.conv3d_transpose",
    }
)
"""Operators that are a convolution."""

LAYER_OPS = CONVOLUTION_OPS | {
    "relax.matmul",
    "relax.nn.batch_norm",
    "relax.nn.group_norm",
    "relax.nn.instance_norm",
    "relax.nn.layer_norm",
    "relax.nn.prelu",
}
"""Operators whose binding is named after the layer that they come from."""


def layer_name(var: relax.Var) -> str:
    """Return the layer's name, given the variable that the layer's call is bound to.

    It is the qualified name in the PyTorch model, with "#2", "#3" where the layer is called again.
    In a module that did not come through `from_torch` it is the name of the variable.
    """
    return str(var.name)


def operator_name(expr: relax.Expr) -> str | None:
    """Return the operator that `expr` calls, or None if it is no call of an operator."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
        return str(expr.op.name)
    return None


def bindings(function: relax.Function) -> list[relax.Binding]:
    """List all bindings of a function's outermost sequence, in order."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def unique_names(names: Iterable[str]) -> list[str]:
    """Append "#2", "#3" ... to the second, third ... occurrence of a name."""
    used = Counter[str]()
    taken: set[str] = set()
    result = []
    for name in names:
        unique = name
        while unique in taken:
            used[name] += 1
            unique = f"{name}#{used[name] + 1}"
        taken.add(unique)
        result.append(unique)
    return result


def name_layers(module: ir.IRModule, names: Mapping[str, str] | None = None) -> ir.IRModule:
    """Give every layer of every Relax function a unique name, and bind outputs without an alias.

    `names` maps the present variable names to the new ones; the others stay, but for the suffix
    that makes a repeated name unique. On a module whose names are unique it changes nothing.
    """
    renamed = ir.IRModule(dict(module.functions.items()), attrs=module.attrs)
    for global_var, function in module.functions.items():
        if isinstance(function, relax.Function):
            canonical = _bind_output_directly(module, function)
            renamed.update_func(global_var, _rename(module, canonical, names or {}))
    return renamed


def _rename(
    module: ir.IRModule, function: relax.Function, names: Mapping[str, str]
) -> relax.Function:
    layers = [b.var for b in bindings(function) if operator_name(b.value) in LAYER_OPS]
    wanted = unique_names(names.get(var.name, var.name) for var in layers)
    new_names = {var: name for var, name in zip(layers, wanted, strict=True) if var.name != name}
    if not new_names:
        return function
    return _rebind(module, function, new_names)


def _bind_output_directly(module: ir.IRModule, function: relax.Function) -> relax.Function:
    """Turn ``a = f(x); gv = a`` into ``gv = f(x)`` with the name of ``a``, if a is a layer."""
    values = {binding.var: binding.value for binding in bindings(function)}
    aliases = {
        var: value
        for var, value in values.items()
        if isinstance(value, relax.DataflowVar)
        and not isinstance(var, relax.DataflowVar)
        and operator_name(values.get(value)) in LAYER_OPS
    }
    if not aliases:
        return function
    canonical = relax.transform.CanonicalizeBindings()(ir.IRModule({"main": function}))["main"]
    names = {alias.name: value.name for alias, value in aliases.items()}
    outputs = {
        binding.var: names[binding.var.name]
        for binding in bindings(canonical)
        if binding.var.name in names and not isinstance(binding.var, relax.DataflowVar)
    }
    return _rebind(module, canonical, outputs)


def _rebind(
    module: ir.IRModule, function: relax.Function, names: Mapping[relax.Var, str]
) -> relax.Function:
    result = _Rebind(module, names).visit_expr(function)
    assert isinstance(result, relax.Function)
    return result


@mutator
class _Rebind(PyExprMutator):
    """Replaces variables by variables of other names."""

    def __init__(self, module: ir.IRModule, names: Mapping[relax.Var, str]) -> None:
        super().__init__(module)
        self.names = names

    def visit_var_def_(self, var: relax.Var) -> relax.Var:
        return self._renamed(var, relax.Var)

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> relax.Var:
        return self._renamed(var, relax.DataflowVar)

    def _renamed(self, var: relax.Var, kind: type[relax.Var]) -> relax.Var:
        if var not in self.names:
            return var
        renamed = kind(self.names[var], var.ty)
        self.set_var_remap(var, renamed)
        return renamed
