"""Balance the input channels of convolutions, as a plan says.

A convolution's input is multiplied, and its weights are divided, by a factor for each channel: the
network computes what it did, but quantizes better (see `quantization.balance`).

Only where the multiplication costs nothing, or next to it: where the convolution alone takes what
some operator gives. There the factors go into weights before it (`fold_channel_scales`), or the
multiplication into that operator's loop (FuseOps). An input with other users would be read and
written once more.

Ordering: after `plan_convolutions` and `observe_layers`, which shows what goes into a layer without
the factors; before `correct_means` and `fold_channel_scales`, and before `lower_convolutions`,
which quantizes the balanced weights.
"""

from __future__ import annotations

import numpy as np
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..errors import NotEligibleError
from ..frontend.names import bindings, layer_name, operator_name
from ..quantization.balance import balanced_weights
from ..quantization.plan import Plan
from .constants import array_of, is_tensor_constant
from .main_function import with_main
from .uses import count_uses


def balanceable(main: relax.Function) -> frozenset[str]:
    """Names of the convolutions that alone take what another operator gives."""
    uses = count_uses(main)
    values = {binding.var: binding.value for binding in bindings(main)}

    def is_alone(x: relax.Expr) -> bool:
        """Whether x is computed, and for one alone; so is what it is a reshape of."""
        value = values.get(x)
        if value is None or uses[x] != 1:
            return False
        return operator_name(value) != "relax.reshape" or is_alone(value.args[0])

    return frozenset(
        layer_name(binding.var)
        for binding in bindings(main)
        if operator_name(binding.value) == "relax.nn.conv2d"
        and is_alone(binding.value.args[0])
        and is_tensor_constant(binding.value.args[1])
    )


def balance_channels(module: ir.IRModule, plan: Plan) -> ir.IRModule:
    """Return the module, NHWC and HWIO, with the factors of the plan's layers in ``@main``.

    Raises
    ------
    NotEligibleError
        If a planned layer's weights, as they stand in the module, do not have so many channels.
    """
    factors = {
        layer.name: np.asarray(layer.balance, np.float64)
        for layer in plan.layers
        if layer.balance is not None
    }
    if not factors:
        return module
    main = module["main"]
    calls = {
        binding.value: (layer_name(binding.var), factors[layer_name(binding.var)])
        for binding in bindings(main)
        if operator_name(binding.value) == "relax.nn.conv2d" and layer_name(binding.var) in factors
    }
    return with_main(module, _Balance(module, calls).visit_expr(main))


@mutator
class _Balance(PyExprMutator):
    def __init__(
        self, module: ir.IRModule, calls: dict[relax.Call, tuple[str, np.ndarray]]
    ) -> None:
        super().__init__(module)
        self.calls = calls

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if call not in self.calls:
            return super().visit_call_(call)
        name, factors = self.calls[call]
        weight = array_of(call.args[1])
        if weight.shape[2] != len(factors):
            raise NotEligibleError(
                f"layer {name}: weights have {weight.shape[2]} input channels, the plan balances "
                f"{len(factors)}; make the plan from this network"
            )
        divided = balanced_weights(weight.transpose(3, 2, 0, 1), factors).transpose(2, 3, 1, 0)
        x = self.builder_.emit(
            relax.op.multiply(
                self.visit_expr(call.args[0]), relax.const(factors.astype(np.float32))
            )
        )
        constant = relax.const(np.ascontiguousarray(divided))
        return relax.Call(call.op, [x, constant], call.attrs, call.ty_args)
