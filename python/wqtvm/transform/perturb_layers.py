"""Let errors be added to what convolutions give: an input of ``@main`` for each named one.

Ordering: after `channels_last` and `observe_layers`, before `lower_convolutions`; what comes out is
for measuring, in float: the additions hide the convolutions' names.
"""

from __future__ import annotations

from collections.abc import Collection

from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import CONVOLUTION_OPS, bindings, layer_name, operator_name
from .main_function import with_main


def perturb_layers(module: ir.IRModule, names: Collection[str]) -> ir.IRModule:
    """Return the module with one more input for each named convolution, in order of execution.

    Each has the shape of what the convolution gives, and is added to it.
    """
    main = module["main"]
    layers = {
        binding.value: relax.Var(f"perturbation{index}", binding.value.ty)
        for index, binding in enumerate(
            binding
            for binding in bindings(main)
            if operator_name(binding.value) in CONVOLUTION_OPS and layer_name(binding.var) in names
        )
    }
    perturbed = _Perturb(module, layers).visit_expr(main)
    function = relax.Function(
        [*perturbed.params, *layers.values()],
        perturbed.body,
        perturbed.ret_ty,
        attrs=perturbed.attrs,
    )
    return relax.transform.Normalize()(with_main(module, function))


@mutator
class _Perturb(PyExprMutator):
    def __init__(self, module: ir.IRModule, layers: dict[relax.Call, relax.Var]) -> None:
        super().__init__(module)
        self.layers = layers

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        visited = super().visit_call_(call)
        if call not in self.layers:
            return visited
        return relax.op.add(self.builder_.emit(visited), self.layers[call])
