"""The converter of every operator: TVM's or ours, with errors that say where, and with names."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from ..errors import UnsupportedOperatorError
from .checks import module_path, operator_label, weight_names, where
from .names import LAYER_OPS, operator_name
from .operators import OWN_CONVERTERS, REFUSED

_aten = torch.ops.aten
_VIEWS = (
    _aten.permute.default,
    _aten.view.default,
    _aten.reshape.default,
    _aten.t.default,
    _aten.transpose.int,
    _aten.clone.default,
)


def converters(
    program: ExportedProgram, names: MutableMapping[str, str]
) -> dict[str, Callable[[fx.Node, Any], Any]]:
    """Return the converter of each operator, keyed as TVM's importer keys them.

    While they run they write to `names` the layer name of each variable that is bound to a layer.
    """
    parameters = weight_names(program)
    tvm_converters: dict[str, Callable[[fx.Node], Any]] = {}

    def converter(key: str) -> Callable[[fx.Node, Any], Any]:
        def convert(node: fx.Node, importer: Any) -> Any:
            if not tvm_converters:
                tvm_converters.update(importer.create_convert_map())
            try:
                if key in OWN_CONVERTERS:
                    result = OWN_CONVERTERS[key](node, importer)
                else:
                    result = tvm_converters[key](node)
                _check_type(result, node)
            except Exception as error:
                raise UnsupportedOperatorError(
                    f"{operator_label(node)} {where(node)} cannot be imported: {error}"
                ) from error
            var = _layer_variable(result, node, importer)
            if var is not None:
                names.setdefault(var.name, _qualified_name(node, program, parameters))
            return result

        return convert

    known = (set(ExportedProgramImporter().convert_map) | set(OWN_CONVERTERS)) - REFUSED
    return {key: converter(key) for key in known}


def _check_type(result: Any, node: fx.Node) -> None:
    """Compare shape and dtype with PyTorch's: TVM gets some operators wrong without a word."""
    wanted = node.meta.get("val")
    if not isinstance(result, relax.Expr) or not isinstance(wanted, torch.Tensor):
        return
    expected = (tuple(wanted.shape), str(wanted.dtype).removeprefix("torch."))
    found = (tuple(int(size) for size in result.ty.shape), str(result.ty.dtype.dtype))
    if found != expected:
        raise ValueError(f"TVM's importer makes {found[1]}{found[0]} of {expected[1]}{expected[0]}")


def _layer_variable(result: Any, node: fx.Node, importer: Any) -> relax.Var | None:
    """Find the call of a layer among what a node was converted to, looking back from its result."""
    inputs = [importer.env[n] for n in node.all_input_nodes if n in importer.env]
    pending, seen = [result], set()
    while pending:
        item = pending.pop(0)
        if isinstance(item, list | tuple | relax.Tuple):
            pending.extend(item)
        if not isinstance(item, relax.Var) or item in seen or item in inputs:
            continue
        seen.add(item)
        value = importer.block_builder.lookup_binding(item)
        if operator_name(value) in LAYER_OPS:
            return item
        if isinstance(value, relax.Call):
            pending.extend(value.args)
        elif isinstance(value, relax.TupleGetItem):
            pending.append(value.tuple_value)
        elif isinstance(value, relax.Tuple):
            pending.extend(value)
    return None


def _qualified_name(node: fx.Node, program: ExportedProgram, parameters: dict[str, str]) -> str:
    """Name a node after its module, else its weight, else itself.

    The module is what users know a layer by, also where two modules share a weight. A functional
    call is named after its weight parameter ("block.w1"), and after the fx node if there is none.
    """
    path = module_path(node)
    weight = _weight_parameter(node, parameters)
    state = program.state_dict
    if path and f"{path}.weight" in state and (weight is None or weight.endswith(".weight")):
        return path
    if weight is not None:
        return weight.removesuffix(".weight") if weight != "weight" else node.name
    owns_weight = any(
        name.startswith((f"{path}.weight", f"{path}.parametrizations.weight")) for name in state
    )
    if path and (owns_weight or _is_torch_layer(node)):
        return path
    return f"{path}.{node.name}" if path else node.name


def _weight_parameter(node: fx.Node, parameters: dict[str, str]) -> str | None:
    """Return the qualified name of the first weight that the node takes, data last."""
    for argument in (*node.args[1:], node.args[0]):
        while isinstance(argument, fx.Node) and argument.target in _VIEWS:
            argument = argument.args[0]
        name = parameters.get(argument.name) if isinstance(argument, fx.Node) else None
        if name is not None and not name.endswith("bias"):
            return name
    return None


def _is_torch_layer(node: fx.Node) -> bool:
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    return str(list(stack.values())[-1][1]).startswith("torch.nn.modules.")
