"""Carry out the plan: replace planned convolutions by the quantized operators.

Each becomes a ``call_tir`` of an operator of ``topi``, its weights transformed and quantized here,
once, in float64. Functions are shared between layers of one workload.

Ordering: after `channels_last` (activations NHWC, weights constants HWIO) and `plan_convolutions`;
before `externalize_constants`, which names the weights after the layer, and before LegalizeOps and
FuseOps, which then see an operator that takes elementwise followers in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import ir, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..errors import NotEligibleError
from ..frontend.names import bindings, layer_name, operator_name
from ..quantization import quantize_weights
from ..quantization.plan import LayerPlan, Plan
from ..schedules.tuned import Records
from ..target import TargetRecord
from ..topi.layer import definition_of, packed_weights, workload_of
from .constants import array_of, is_tensor_constant, shape_of

Progress = Callable[[str, int, int], None]


def lower_convolutions(
    module: ir.IRModule,
    plan: Plan,
    record: TargetRecord,
    threads: int,
    progress: Progress | None = None,
    records: Records | None = None,
) -> ir.IRModule:
    """Lower the planned convolutions of ``@main`` for a target.

    Parameters
    ----------
    threads : that the work of one layer is divided among.
    progress : called as progress("quantize", layers done, layers).
    records : of tuned kernels; layers without one are divided by the schedule's own choice.

    Raises
    ------
    NotEligibleError
        If the plan asks for something that a convolution, as it stands in the module, does not
        allow.
    ConfigError
        If the target has no products of a layer's precision.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    planned = {layer.name: layer for layer in plan.layers if layer.algorithm != "float"}
    calls = {
        binding.value: planned[layer_name(binding.var)]
        for binding in bindings(module["main"])
        if operator_name(binding.value) == "relax.nn.conv2d" and layer_name(binding.var) in planned
    }
    missing = planned.keys() - {layer.name for layer in calls.values()}
    if missing:
        raise NotEligibleError(
            f"layer {min(missing)}: planned as {planned[min(missing)].algorithm}, but the network "
            "has no such convolution; make the plan from this network"
        )
    for layer in planned.values():
        workload_of(layer, record)  # refuses what the target cannot do, before anything is built
    lowering = _Lowering(
        module, calls, record, threads, plan.images, progress or (lambda *_: None),
        records or Records(),
    )  # fmt: skip
    main = lowering.visit_expr(module["main"])
    lowering.builder_.update_func(module.get_global_var("main"), main)
    lowered: ir.IRModule = lowering.builder_.get()
    return lowered


@mutator
class _Lowering(PyExprMutator):
    def __init__(
        self,
        module: ir.IRModule,
        calls: dict[relax.Call, LayerPlan],
        record: TargetRecord,
        threads: int,
        images: str,
        progress: Progress,
        records: Records,
    ) -> None:
        super().__init__(module)
        self.calls = calls
        self.record = record
        self.threads = threads
        self.images = images
        self.progress = progress
        self.records = records
        self.done = 0
        self.functions: dict[object, ir.GlobalVar] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        layer = self.calls.get(call)
        if layer is None:
            return super().visit_call_(call)
        _check(layer, call)
        lowered = self._lower(layer, self.visit_expr(call.args[0]), array_of(call.args[1]), call)
        self.done += 1
        self.progress("quantize", self.done, len(self.calls))
        return lowered

    def _lower(
        self, layer: LayerPlan, x: relax.Expr, weight: np.ndarray, call: relax.Call
    ) -> relax.Expr:
        scheme = layer.scheme()
        quantized = quantize_weights(weight.transpose(3, 2, 0, 1), scheme, layer.name)
        undivided = workload_of(layer, self.record)
        work = self.records.divided(undivided, self.record, self.threads, self.images)
        if work not in self.functions:
            size = f"{work.in_channels}x{work.out_channels}_{work.height}x{work.width}"
            size += f"_k{scheme.kernel}s{layer.stride[0]}"
            # Without a global symbol it is private: fusion may absorb it.
            function = definition_of(work).without_attr("global_symbol")
            self.functions[work] = self.builder_.add_func(function, f"wq_{layer.algorithm}_{size}")
        constants = [relax.const(array) for array in packed_weights(quantized, work).values()]
        return relax.call_tir(self.functions[work], [x, *constants], out_ty=call.ty)


def _check(layer: LayerPlan, call: relax.Call) -> None:
    attrs = call.attrs
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout))
    problem = None
    if layouts != ("NHWC", "HWIO"):
        problem = f"layouts are {layouts[0]}, {layouts[1]}; bring the network to NHWC, HWIO first"
    elif not is_tensor_constant(call.args[1]):
        problem = "its weights are computed at run time; plan it as float"
    else:
        problem = _difference(layer, call)
    if problem:
        raise NotEligibleError(f"layer {layer.name}: {problem}")


def _difference(layer: LayerPlan, call: relax.Call) -> str | None:
    """What a convolution has that its plan, or arithmetic in int8, does not allow."""
    attrs, weight = call.attrs, shape_of(call.args[1])
    for what, found, planned in (
        ("weights", (weight[3], weight[2], weight[0], weight[1]), layer.weight_shape),
        ("strides", _integers(attrs.strides), layer.stride),
        ("padding", _integers(attrs.padding), layer.padding * 2),
        ("dilation", _integers(attrs.dilation), layer.dilation),
        ("groups", int(attrs.groups), layer.groups),
    ):
        if found != planned:
            return f"{what} are {found}, the plan says {planned}; make the plan from this network"
    if layer.groups != 1 or layer.dilation != (1, 1):
        return "it is grouped or dilated; plan it as float"
    if weight[0] != weight[1] or layer.padding[0] != layer.padding[1]:
        return f"kernel or padding {layer.padding} has unequal edges; plan it as float"
    return None


def _integers(values: Sequence[object]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)  # type: ignore[call-overload]
