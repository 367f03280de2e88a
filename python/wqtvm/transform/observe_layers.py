"""Make layers observable: ``@main`` also returns what they take and give; or run them alone.

Ordering: after `plan_convolutions`, whose names say which layers; before `lower_convolutions`,
which keeps the names and so lowers the observed layers like any other. What is observed is a
convolution by itself, without the bias and activation behind it.
"""

from __future__ import annotations

from collections.abc import Collection

from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import CONVOLUTION_OPS, bindings, layer_name, operator_name
from .main_function import with_main


def observe_layers(module: ir.IRModule, names: Collection[str]) -> ir.IRModule:
    """Return the module with ``@main`` returning ``(output, inputs, outputs)``.

    ``inputs`` and ``outputs`` are tuples of what the named convolutions take and give, in order of
    execution.
    """
    main = module["main"]
    layers = [(binding.var, binding.value.args[0]) for binding in _layers(main, names)]
    inputs = [x for _, x in layers]
    outputs = [var for var, _ in layers]
    visible = _Expose(module, {*inputs, *outputs})
    exposed = visible.visit_expr(main)
    results = (
        exposed.body.body,
        relax.Tuple([visible.visit_expr(x) for x in inputs]),
        relax.Tuple([visible.visit_expr(var) for var in outputs]),
    )
    types = [exposed.ret_ty, *(relax.TupleType([x.ty for x in t.fields]) for t in results[1:])]
    function = relax.Function(
        exposed.params,
        relax.SeqExpr(exposed.body.blocks, relax.Tuple(results)),
        relax.TupleType(types),
        attrs=exposed.attrs,
    )
    return relax.transform.Normalize()(with_main(module, function))


def isolate_layers(module: ir.IRModule, names: Collection[str]) -> ir.IRModule:
    """Return a module whose ``@main`` takes the inputs of the named convolutions, one each.

    It returns the tuple of what they give; both are in order of execution.
    """
    layers = _layers(module["main"], names)
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"input{i}", b.value.args[0].ty) for i, b in enumerate(layers)]
    with builder.function("main", inputs):
        outputs = []
        with builder.dataflow():
            for x, binding in zip(inputs, layers, strict=True):
                call = binding.value
                alone = relax.Call(call.op, [x, *call.args[1:]], call.attrs, call.ty_args)
                var = relax.Var(layer_name(binding.var), call.ty)
                builder.emit_normalized(relax.VarBinding(var, builder.normalize(alone)))
                outputs.append(var)
        builder.emit_func_output(relax.Tuple(outputs))
    return builder.get()


def _layers(main: relax.Function, names: Collection[str]) -> list[relax.VarBinding]:
    return [
        binding
        for binding in bindings(main)
        if operator_name(binding.value) in CONVOLUTION_OPS and layer_name(binding.var) in names
    ]


@mutator
class _Expose(PyExprMutator):
    """Makes variables of dataflow blocks visible outside of them, under the same names."""

    def __init__(self, module: ir.IRModule, wanted: Collection[relax.Expr]) -> None:
        super().__init__(module)
        self.wanted = wanted

    def visit_dataflow_var_def_(self, var: relax.DataflowVar) -> relax.Var:
        if var not in self.wanted:
            return var
        visible = relax.Var(var.name, var.ty)
        self.set_var_remap(var, visible)
        return visible
