"""Pack constant weights of float layers before the network runs.

The schedules bring weights into the order in which they are used, in a stage of its own. Where the
weights are constants, that stage becomes a function, which `evaluate_packing` runs once, while the
network is compiled; without it the network is right all the same, and packs at each run.

Ordering: `mark_constants` after FuseTIR, before the schedules, which then pack whatever is
constant; `lift_packing` after them; `evaluate_packing` last, before the lowering to the virtual
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import ir, relax, tirx, transform
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import bindings, unique_names
from ..schedules.cpu_generic.contraction import CONSTANTS
from ..schedules.cpu_generic.contraction_stages import PACK
from ..schedules.cpu_generic.rewrite import stages, substitute, uses_variable, with_stages
from .constants import Array, is_tensor_constant
from .uses import tir_call

PACKING = "wq.packing"
"""Attribute of the functions that pack weights."""

_HOST = {"kind": "llvm"}


@transform.module_pass(opt_level=0, name="wq.MarkConstants")
def mark_constants(module: ir.IRModule, _: transform.PassContext) -> ir.IRModule:
    """Tell each function which of its arguments are constants or parameters of ``@main``."""
    main = module["main"]
    count = (main.attrs or {}).get("num_input")
    parameters = [] if count is None else list(main.params[int(count) :])
    found: dict[ir.GlobalVar, set[int]] = {}
    for callee, arguments in _calls(main):
        constant = {
            i
            for i, argument in enumerate(arguments)
            if is_tensor_constant(argument) or any(argument.same_as(p) for p in parameters)
        }
        found[callee] = found.get(callee, constant) & constant
    marked = module.clone()
    for callee, constant in found.items():
        if constant and isinstance(module[callee], tirx.PrimFunc):
            marked.update_func(callee, module[callee].with_attr(CONSTANTS, sorted(constant)))
    return marked


@transform.module_pass(opt_level=0, name="wq.LiftPacking")
def lift_packing(module: ir.IRModule, _: transform.PassContext) -> ir.IRModule:
    """Move the packing of constants out of functions, into functions that ``@main`` calls."""
    found: dict[ir.GlobalVar, _Apart] = {}
    kept: dict[ir.GlobalVar, ir.BaseFunc] = {}
    for name, function in module.functions.items():
        apart = None
        if isinstance(function, tirx.PrimFunc) and CONSTANTS in (function.attrs or {}):
            apart = _apart(function)
            function = function.without_attr(CONSTANTS)
        if apart is None:
            kept[name] = function
        else:
            found[name] = apart
    rest = ir.IRModule(kept, attrs=module.attrs)
    return _Lift(rest, found).lifted() if found else rest


def evaluate_packing(
    module: ir.IRModule, params: Mapping[str, Array]
) -> tuple[ir.IRModule, dict[str, Array]]:
    """Run the functions that pack weights, on this machine.

    ``params`` are the trailing parameters of ``@main``, in order. Returns the module that takes
    packed ones instead, and these; each has the name of what it was packed from.
    """
    main = module["main"]
    packings: dict[relax.Var, tuple[ir.GlobalVar, relax.Expr]] = {}
    for binding in bindings(main):
        call = tir_call(binding.value)
        if call is not None and PACKING in (module[call[0]].attrs or {}):
            packings[binding.var] = call[0], call[1][0]
    if not packings:
        return module, dict(params)
    first = len(main.params) - len(params)
    sources = dict(zip(main.params[first:], params.items(), strict=True))
    run = _compiled({callee: module[callee] for callee, _ in packings.values()})
    packed: dict[Any, relax.Expr] = {}
    values: dict[relax.Var, tuple[str, Array]] = dict(sources)
    for variable, (callee, weights) in packings.items():
        if (callee, weights) in packed:
            continue
        if is_tensor_constant(weights):
            packed[callee, weights] = relax.const(run(callee, weights.value.numpy(), variable.ty))
        else:
            name, array = sources[weights]
            parameter = relax.Var(name, variable.ty)
            packed[callee, weights] = parameter
            values[parameter] = name, run(callee, array, variable.ty)
    replaced = {variable: packed[key] for variable, key in packings.items()}
    body = _Replace(module, replaced).visit_expr(main.body)
    used = set(relax.analysis.free_vars(body))
    kept = [parameter for parameter in values if parameter in used]
    rewritten = relax.Function(
        [*main.params[:first], *kept], body, main.ret_ty, main.is_pure, main.attrs, main.span
    )
    lifted = {callee for callee, _ in packings.values()}
    functions = {name: f for name, f in module.functions.items() if name not in lifted}
    result = ir.IRModule(functions, attrs=module.attrs)
    result.update_func(result.get_global_var("main"), rewritten)
    names = unique_names(values[parameter][0] for parameter in kept)
    return result, {n: values[p][1] for n, p in zip(names, kept, strict=True)}


def _compiled(functions: Mapping[ir.GlobalVar, tirx.PrimFunc]) -> Callable[..., Array]:
    """Compile functions for this machine; return a call of one, given its result's type."""
    named = {callee.name_hint: function for callee, function in functions.items()}
    exposed = {n: f.with_attr("global_symbol", n) for n, f in named.items()}
    library = tvm.compile(tvm.IRModule(exposed), target=tvm.target.Target(_HOST))

    def run(callee: ir.GlobalVar, weights: Array, result: Any) -> Array:
        into = tvm.runtime.empty([int(size) for size in result.shape], str(result.dtype))
        library[callee.name_hint](tvm.runtime.tensor(weights), into)
        array: Array = into.numpy()
        return array

    return run


def _calls(main: relax.Function) -> list[tuple[ir.GlobalVar, list[relax.Expr]]]:
    found = (tir_call(binding.value) for binding in bindings(main))
    return [call for call in found if call is not None]


@dataclass(frozen=True)
class _Apart:
    """The position of packed weights, the function that packs them, and the one that takes them."""

    position: int
    packing: tirx.PrimFunc
    rest: tirx.PrimFunc


def _apart(function: tirx.PrimFunc) -> _Apart | None:
    """Return the function in two.

    None if the function does not pack a constant parameter that nothing else reads.
    """
    nest = dict(stages(function)).get(PACK)
    if nest is None:
        return None
    packed = next(b for b in function.body.block.alloc_buffers if _uses(nest, b))
    read = [i for i, parameter in enumerate(function.params) if _uses(nest, parameter)]
    others = [other for name, other in stages(function) if name != PACK]
    constants = [int(i) for i in function.attrs[CONSTANTS]]
    if len(read) != 1 or read[0] not in constants:
        return None
    weights = function.params[read[0]]
    if any(_uses(other, weights) for other in others):
        return None
    own = {b: tirx.decl_buffer(b.shape, b.ty.dtype, b.name) for b in (weights, packed)}
    packing = with_stages(function, [substitute(nest, own)], [])
    packing = tirx.PrimFunc(list(own.values()), packing.body).with_attrs(
        {PACKING: True, "tirx.is_scheduled": True, "tirx.noalias": True}
    )
    kept = [b for b in function.body.block.alloc_buffers if not b.same_as(packed)]
    rest = with_stages(function, others, kept).without_attr(CONSTANTS)
    params = list(function.params)
    params[read[0]] = packed
    return _Apart(read[0], packing, tirx.PrimFunc(params, rest.body, rest.ret_type, rest.attrs))


def _uses(statement: Any, buffer: Any) -> bool:
    return uses_variable(statement, [buffer])


@mutator
class _Lift(PyExprMutator):
    """Calls of functions whose packing was lifted get packed weights."""

    def __init__(self, module: ir.IRModule, found: Mapping[ir.GlobalVar, _Apart]) -> None:
        super().__init__(module)
        self.found = {
            name: (
                apart.position,
                self.builder_.add_func(apart.packing, f"{name.name_hint}_packing"),
                self.builder_.add_func(apart.rest, name.name_hint),
            )
            for name, apart in found.items()
        }
        self.module = module
        self.packed: dict[Any, relax.Var] = {}

    def lifted(self) -> ir.IRModule:
        """Return the module with its functions in two."""
        main = self.visit_expr(self.module["main"])
        self.builder_.update_func(self.module.get_global_var("main"), main)
        module: ir.IRModule = self.builder_.get()
        return module

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        found = tir_call(call)
        if found is None or found[0] not in self.found:
            return super().visit_call_(call)
        callee, arguments = found
        position, packing, rest = self.found[callee]
        key = packing, arguments[position]
        if key not in self.packed:
            shape = self.builder_.get()[packing].params[1].shape
            ty = relax.TensorType([int(size) for size in shape], "float32")
            weights = self.visit_expr(arguments[position])
            self.packed[key] = self.builder_.emit(relax.call_tir(packing, [weights], ty))
        new = [
            self.packed[key] if i == position else self.visit_expr(argument)
            for i, argument in enumerate(arguments)
        ]
        return relax.call_tir(rest, new, call.ty_args[0])


@mutator
class _Replace(PyExprMutator):
    """Variables give way to expressions, and their bindings go."""

    def __init__(self, module: ir.IRModule, values: Mapping[relax.Var, relax.Expr]) -> None:
        super().__init__(module)
        self.values = values

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if binding.var not in self.values:
            super().visit_var_binding_(binding)

    def visit_dataflow_var_(self, variable: relax.DataflowVar) -> relax.Expr:
        return self.values.get(variable, super().visit_dataflow_var_(variable))

    def visit_var_(self, variable: relax.Var) -> relax.Expr:
        return self.values.get(variable, super().visit_var_(variable))
