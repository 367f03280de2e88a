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

from collections.abc import Callable

from tvm import ir, relax
from tvm.relax.transform import ConvertLayout, DeadCodeElimination

from ..errors import UnscheduledOperatorError
from ..frontend.names import LAYER_OPS, bindings, layer_name, name_layers, operator_name
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
    _check_layouts(module, lambda found, wanted: all(len(layout) == 4 for layout in found))
    layers = _layer_names(module)
    steps = (
        ConvertLayout(_LAYOUTS),
        fold_layout_constants,
        sink_permutes,
        DeadCodeElimination(),
    )
    for step in steps:
        module = step(module)
    # In a module that is not from our frontend, ConvertLayout uses the names of variables twice.
    module = name_layers(module, _names_of_outputs(module, layers))
    _check_layouts(module, lambda found, wanted: found == wanted)
    return module


def _layer_names(module: ir.IRModule) -> set[str]:
    return {
        layer_name(binding.var)
        for function in module.functions.values()
        if isinstance(function, relax.Function)
        for binding in bindings(function)
        if operator_name(binding.value) in LAYER_OPS
    }


def _names_of_outputs(module: ir.IRModule, layers: set[str]) -> dict[str, str]:
    """Names of layers that were outputs, by their variables: the permutations have them now."""
    return {
        binding.value.args[0].name: binding.var.name
        for function in module.functions.values()
        if isinstance(function, relax.Function)
        for binding in bindings(function)
        if operator_name(binding.value) in ("relax.permute_dims", "relax.reshape")
        and binding.var.name in layers
        and binding.value.args[0].name not in layers
    }


def _check_layouts(module: ir.IRModule, is_fine: Callable[[list[str], list[str]], bool]) -> None:
    for function in module.functions.values():
        if not isinstance(function, relax.Function):
            continue
        for binding in bindings(function):
            layouts = _LAYOUTS.get(operator_name(binding.value) or "")
            if layouts is None:
                continue
            attrs = binding.value.attrs
            found = [str(attrs.data_layout), str(attrs.kernel_layout), str(attrs.out_layout)]
            wanted = [*layouts, layouts[0]]
            if not is_fine(found, wanted):
                raise UnscheduledOperatorError(
                    f"layer {layer_name(binding.var)!r} has the layouts {', '.join(found)} (data, "
                    f"weights, output); only {', '.join(wanted)} has an implementation"
                )
