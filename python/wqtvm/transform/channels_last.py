"""Bring the network to NHWC with HWIO weights.

TVM's ConvertLayout rewrites the convolutions and carries the layout over the operators it knows;
`fold_layout_constants` permutes the weights, and `sink_permutes` carries the layout over the
rest. Inputs and outputs of the function stay NCHW: a permutation at either end is all that
remains in a plain network. A transposed convolution stays NCHW between two permutations, since
TVM implements no other.

Ordering: after `fold_batch_norm` and after all constants are evaluated (a weight that is computed
at run time would be permuted at run time); before the plan is carried out, whose operators take
NHWC only, and before LegalizeOps.
"""

from __future__ import annotations

from tvm import ir, relax
from tvm.relax.transform import ConvertLayout, DeadCodeElimination

from ..errors import UnscheduledOperatorError
from ..frontend.names import bindings, layer_name, name_layers, operator_name
from .fold_layout_constants import fold_layout_constants
from .sink_permutes import sink_permutes

_LAYOUTS = {
    "relax.nn.conv2d": ["NHWC", "HWIO"],
    "relax.nn.conv2d_transpose": ["NCHW", "IOHW"],
}


@ir.transform.module_pass(opt_level=0, name="ChannelsLast")
def channels_last(module: ir.IRModule, context: ir.transform.PassContext) -> ir.IRModule:
    """Bring all 2-D convolutions to NHWC with HWIO weights.

    Raises
    ------
    UnscheduledOperatorError
        A convolution has a layout that nothing implements. LegalizeOps would leave it as it is
        without a word.
    """
    steps = (
        ConvertLayout(_LAYOUTS),
        fold_layout_constants,
        sink_permutes,
        DeadCodeElimination(),
    )
    for step in steps:
        module = step(module)
    # In a module that is not from our frontend, ConvertLayout uses the names of variables twice.
    module = name_layers(module)
    for function in module.functions.values():
        if isinstance(function, relax.Function):
            _check_layouts(function)
    return module


def _check_layouts(function: relax.Function) -> None:
    for binding in bindings(function):
        wanted = _LAYOUTS.get(operator_name(binding.value) or "")
        if wanted is None:
            continue
        attrs = binding.value.attrs
        found = [attrs.data_layout, attrs.kernel_layout, attrs.out_layout]
        if found != [*wanted, wanted[0]]:
            raise UnscheduledOperatorError(
                f"layer {layer_name(binding.var)!r} has the layouts {', '.join(found)} (data, "
                f"weights, output); only {', '.join([*wanted, wanted[0]])} has an implementation"
            )
