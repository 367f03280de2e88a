"""Give results that are a reshape as views of what was computed: TVM would copy them.

Ordering: right before RewriteDataflowReshape, which makes views of reshapes that are no results.
"""

from __future__ import annotations

from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import bindings
from .main_function import with_main
from .uses import count_uses, tir_call


def results_as_views(module: ir.IRModule) -> ir.IRModule:
    """Return the module with such results of ``@main`` bound to variables of its dataflow first.

    A result that is a reshape of an input is left a copy: who writes into one would write into the
    other. So is one of what has another use.
    """
    main = module["main"]
    values = {binding.var: binding.value for binding in bindings(main)}
    uses = count_uses(main)

    def reshaped(var: relax.Expr) -> relax.Expr | None:
        """What a variable is a reshape of, or None."""
        call = tir_call(values[var]) if var in values else None
        if call is None or not relax.analysis.has_reshape_pattern(module[call[0]]):
            return None
        return call[1][0]

    found = set()
    for var in values:
        source = None if isinstance(var, relax.DataflowVar) else reshaped(var)
        if isinstance(source, relax.DataflowVar) and uses[source] == 1 and reshaped(source) is None:
            found.add(var)
    return with_main(module, _Alias(module, found).visit_expr(main)) if found else module


@mutator
class _Alias(PyExprMutator):
    def __init__(self, module: ir.IRModule, results: set[relax.Var]) -> None:
        super().__init__(module)
        self.results = results

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if binding.var not in self.results:
            super().visit_var_binding_(binding)
            return
        inner = self.builder_.emit(self.visit_expr(binding.value))
        super().visit_var_binding_(relax.VarBinding(binding.var, inner))
