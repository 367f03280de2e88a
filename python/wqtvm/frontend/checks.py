"""What a program must satisfy to be imported. Each check raises with the name of the culprit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    InputKind,
    OutputKind,
    TensorArgument,
)

from ..errors import (
    DynamicShapeError,
    InputMismatchError,
    NonFiniteError,
    UnsupportedDtypeError,
    UnsupportedOperatorError,
)

_WEIGHT_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_INPUT_DTYPES = (torch.float32, torch.float16, torch.int32, torch.int64, torch.bool)
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_RANDOM = ("rand", "randn", "rand_like", "randn_like", "randint", "bernoulli", "normal")


def module_path(node: fx.Node) -> str:
    """Return the qualified name of the innermost module that the node was traced in ("" = top)."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def where(node: fx.Node) -> str:
    """Describe the place of a node for an error message."""
    path = module_path(node)
    return f"in module {path!r} (node {node.name!r})" if path else f"at node {node.name!r}"


def operator_label(node: fx.Node) -> str:
    """Return the name of the node's operator as PyTorch writes it, for example aten.pad.default."""
    return str(node.target) if isinstance(node.target, torch._ops.OpOverload) else node.name


def check_inputs(program: ExportedProgram) -> None:
    """Refuse inputs that are no tensor, have a symbolic axis, or a dtype that is not imported.

    Raises
    ------
    InputMismatchError, DynamicShapeError, UnsupportedDtypeError
    """
    for node in _user_inputs(program):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise InputMismatchError(
                f"input {node.name!r} is a {type(value).__name__}, not a tensor; "
                "make it an attribute of the model, or a tensor"
            )
        for axis, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                raise DynamicShapeError(
                    f"axis {axis} of input {node.name!r} is symbolic ({size}); export without "
                    "dynamic_shapes, and compile once for every size that you need"
                )
        if value.dtype not in _INPUT_DTYPES:
            raise UnsupportedDtypeError(
                f"input {node.name!r} is {value.dtype}; give {', '.join(map(str, _INPUT_DTYPES))}"
            )


def check_weights(program: ExportedProgram) -> None:
    """Refuse weights that are not float32 or integer, not on the CPU, or not finite.

    Raises
    ------
    UnsupportedDtypeError, InputMismatchError, NonFiniteError
    """
    for name, kind, tensor in weights(program):
        if tensor.device.type != "cpu":
            raise InputMismatchError(f"weight {name!r} is on {tensor.device}; call model.cpu()")
        if tensor.layout != torch.strided:
            raise UnsupportedDtypeError(f"weight {name!r} is {tensor.layout}; make it dense")
        if not tensor.dtype.is_floating_point:
            if tensor.dtype.is_complex:
                raise UnsupportedDtypeError(f"weight {name!r} is {tensor.dtype}, a complex number")
            continue
        if tensor.dtype != torch.float32:
            raise UnsupportedDtypeError(
                f"weight {name!r} is {tensor.dtype}; only float32 is imported: call model.float() "
                "(and choose 16 bits for the images between layers, if you like)"
            )
        bad = ~torch.isfinite(tensor)
        if kind is not InputKind.PARAMETER:
            # Attention masks are made of zeros and minus infinity.
            bad &= ~torch.isneginf(tensor)
        if bool(bad.any()):
            first = tuple(int(i) for i in torch.nonzero(bad)[0])
            raise NonFiniteError(
                f"weight {name!r} has {int(bad.sum())} NaN or infinite values of "
                f"{tensor.numel()}, the first {float(tensor[first])} at index {first}; "
                "was the checkpoint loaded as it should be?"
            )


def check_graph(program: ExportedProgram) -> None:
    """Refuse what was captured in training mode, random numbers, and symbolic shapes.

    To be called before the decomposition, which hides dropout's training flag.

    Raises
    ------
    UnsupportedOperatorError, DynamicShapeError
    """
    for node in program.graph.nodes:
        if node.op == "call_function":
            _check_node(node)


def check_outputs(program: ExportedProgram) -> None:
    """Refuse outputs that are no tensor, and side effects.

    To be called after the decomposition, which turns side effects into outputs.

    Raises
    ------
    UnsupportedOperatorError
    """
    for output in program.graph_signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            raise UnsupportedOperatorError(
                f"the model changes {output.target!r} while it runs "
                f"({output.kind.name.lower()}); a compiled model has no state"
            )
        if not isinstance(output.arg, TensorArgument):
            raise UnsupportedOperatorError(
                f"output {output.arg!r} of the model is no tensor; return tensors only"
            )


def check_operators(program: ExportedProgram, known: set[str]) -> None:
    """Refuse operators that have no converter, all of them in one message.

    Raises
    ------
    UnsupportedOperatorError
    """
    unknown: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target.__name__ not in known:
            unknown.setdefault(operator_label(node), []).append(where(node))
    if unknown:
        listed = "; ".join(f"{label} {' and '.join(at)}" for label, at in unknown.items())
        raise UnsupportedOperatorError(
            f"no import for {listed}. Replace it in the model by operators that are imported"
        )


def weight_names(program: ExportedProgram) -> dict[str, str]:
    """Map the placeholder of each parameter, buffer and constant to its qualified name."""
    return {
        spec.arg.name: str(spec.target)
        for spec in program.graph_signature.input_specs
        if spec.kind in _WEIGHT_KINDS
    }


def weights(program: ExportedProgram) -> Iterator[tuple[str, InputKind, torch.Tensor]]:
    """Yield the qualified name, kind and value of each parameter, buffer and constant in use."""
    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    for spec in program.graph_signature.input_specs:
        if spec.kind in _WEIGHT_KINDS and spec.arg.name in used:
            name = str(spec.target)
            source = program.state_dict if name in program.state_dict else program.constants
            yield name, spec.kind, source[name].detach()


def _user_inputs(program: ExportedProgram) -> Iterator[fx.Node]:
    names = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    }
    return (n for n in program.graph.nodes if n.op == "placeholder" and n.name in names)


def _check_node(node: fx.Node) -> None:
    label = operator_label(node)
    base = label.removeprefix("aten.").split(".")[0]
    dropped = base in _DROPOUTS and node.args[1] != 0 and node.args[2]
    statistics = base == "batch_norm" and node.args[5]
    if dropped or statistics:
        raise UnsupportedOperatorError(
            f"{label} {where(node)} was captured in training mode; "
            "call model.eval() before torch.export.export"
        )
    if base in _RANDOM:
        raise UnsupportedOperatorError(
            f"{label} {where(node)} draws random numbers; make them an input of the model"
        )
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and any(isinstance(s, torch.SymInt) for s in value.shape):
        raise DynamicShapeError(
            f"the result of {label} {where(node)} has the shape {tuple(value.shape)}, "
            "which depends on the input; only shapes known at compile time are supported"
        )
