"""Take mean errors off what convolutions give, as a plan says.

The correction of a layer's output channels is added to the bias behind it, or is one where there is
none; fusion then makes it a part of the convolution's loop.

Ordering: after `plan_convolutions` and `observe_layers`, so that what is observed is corrected;
before `fold_channel_scales`, which scales biases, and before `lower_convolutions`.
"""

from __future__ import annotations

import numpy as np
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import bindings, layer_name, operator_name
from ..quantization.plan import Plan
from .constants import array_of, channel_vector
from .main_function import with_main
from .uses import count_uses


def correct_means(module: ir.IRModule, plan: Plan) -> ir.IRModule:
    """Return the module, NHWC, with the corrections of the plan's layers in ``@main``."""
    corrections = {
        layer.name: np.asarray(layer.correction, np.float32)
        for layer in plan.layers
        if layer.correction is not None
    }
    if not corrections:
        return module
    main = module["main"]
    uses = count_uses(main)
    found = {
        binding.var: corrections[layer_name(binding.var)]
        for binding in bindings(main)
        if operator_name(binding.value) == "relax.nn.conv2d"
        and layer_name(binding.var) in corrections
    }
    biases = {
        binding.var: found[binding.value.args[0]]
        for binding in bindings(main)
        if _is_bias(binding.value)
        and binding.value.args[0] in found
        and uses[binding.value.args[0]] == 1
    }
    with_bias = {b.value.args[0] for b in bindings(main) if b.var in biases}
    alone = {var: value for var, value in found.items() if var not in with_bias}
    return with_main(module, _Correct(module, biases, alone).visit_expr(main))


def _is_bias(value: relax.Expr) -> bool:
    return operator_name(value) == "relax.add" and channel_vector(value.args[1], value) is not None


@mutator
class _Correct(PyExprMutator):
    def __init__(
        self,
        module: ir.IRModule,
        biases: dict[relax.Var, np.ndarray],
        alone: dict[relax.Var, np.ndarray],
    ) -> None:
        super().__init__(module)
        self.biases = biases
        self.alone = alone

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        var, value = binding.var, binding.value
        if var in self.biases:
            bias = array_of(value.args[1])
            total = relax.const(bias + self.biases[var].reshape(bias.shape), bias.dtype.name)
            value = relax.op.add(value.args[0], total)
        super().visit_var_binding_(relax.VarBinding(var, value))
        if var in self.alone:
            corrected = relax.op.add(self.visit_expr(var), relax.const(self.alone[var]))
            # What is seen outside of its block stays so.
            inside = isinstance(var, relax.DataflowVar)
            emit = self.builder_.emit if inside else self.builder_.emit_output
            self.set_var_remap(var, emit(corrected))
