"""From PyTorch to Relax, through ``torch.export`` and TVM's importer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from tvm.relax.frontend.torch import from_exported_program

from ..errors import ExportError, InputMismatchError
from ..tensor_spec import TensorSpec
from . import checks
from .converters import converters
from .decompositions import decompose
from .model import ImportedModel
from .names import name_layers


def from_torch(
    model: torch.nn.Module | ExportedProgram,
    example_inputs: Sequence[torch.Tensor] | torch.Tensor | None = None,
) -> ImportedModel:
    """Import a PyTorch model as a Relax module in which layers keep their qualified names.

    Parameters
    ----------
    model : a module, which is captured in evaluation mode whatever mode it is in (and left in), or
        a program that ``torch.export.export`` captured from a module in evaluation mode.
    example_inputs : the positional inputs; their shapes and dtypes are compiled in. May be left
        out for an exported program.

    Raises
    ------
    InputMismatchError
        The model does not accept the example inputs.
    ExportError
        ``torch.export`` cannot capture the model; the cause is attached.
    DynamicShapeError, NonFiniteError, UnsupportedDtypeError, UnsupportedOperatorError
        The model has something that is not imported; the message names it and its place.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else example_inputs
    if isinstance(model, ExportedProgram):
        program = model
        if inputs is not None:
            _check_example_inputs(program, tuple(inputs))
    elif not isinstance(model, torch.nn.Module):
        raise ExportError(f"model is {model!r}; give a torch.nn.Module or an exported program")
    else:
        if inputs is None:
            raise InputMismatchError("example_inputs is missing; give a tuple of tensors")
        program = _export(model, tuple(inputs))
    checks.check_inputs(program)
    checks.check_graph(program)
    checks.check_weights(program)
    program = decompose(program)
    checks.check_outputs(program)

    names: dict[str, str] = {}
    convert_map = converters(program, names)
    checks.check_operators(program, set(convert_map))
    module = from_exported_program(
        program,
        unwrap_unit_return_tuple=True,
        custom_convert_map=convert_map,
        run_ep_decomposition=False,
    )
    return ImportedModel(
        module=name_layers(module, names),
        input_specs=_input_specs(program),
        output_specs=_output_specs(program),
        single_output=bool(program.call_spec.out_spec.is_leaf()),
    )


def _export(model: torch.nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    with _evaluation_mode(model), torch.no_grad(), warnings.catch_warnings():
        # torch's own pytree code warns about itself on every export.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return torch.export.export(model, inputs)
        except Exception as error:
            _run_once(model, inputs)
            raise ExportError(
                f"torch.export cannot capture {type(model).__name__}: {error}"
            ) from error


def _run_once(model: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
    """Run the model as it is, to tell wrong inputs from a model that cannot be captured."""
    try:
        model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(getattr(value, "shape", value)) for value in inputs)
        raise InputMismatchError(
            f"{type(model).__name__} does not accept the example inputs ({shapes}): {error}"
        ) from error


@contextlib.contextmanager
def _evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Clear every module's training flag and put it back.

    The flag itself is set: `model.eval()` calls `train` of the modules, and some that overwrite it
    merge or freeze weights, which the caller did not ask for.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def _check_example_inputs(program: ExportedProgram, inputs: tuple[Any, ...]) -> None:
    specs = _input_specs(program)
    if len(inputs) != len(specs):
        raise InputMismatchError(
            f"the program takes {len(specs)} inputs, the example has {len(inputs)}"
        )
    for spec, value in zip(specs, inputs, strict=True):
        given = TensorSpec(spec.name, tuple(value.shape), _dtype(value.dtype))
        if given != spec:
            raise InputMismatchError(f"the program was exported for {spec}; the example is {given}")


def _input_specs(program: ExportedProgram) -> tuple[TensorSpec, ...]:
    names = [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    return _specs(program, names, names)


def _output_specs(program: ExportedProgram) -> tuple[TensorSpec, ...]:
    nodes = [
        spec.arg.name
        for spec in program.graph_signature.output_specs
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    names = ["output"] if len(nodes) == 1 else [f"output{i}" for i in range(len(nodes))]
    return _specs(program, nodes, names)


def _specs(
    program: ExportedProgram, nodes: Sequence[str], names: Sequence[str]
) -> tuple[TensorSpec, ...]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    return tuple(
        TensorSpec(name, tuple(values[node].shape), _dtype(values[node].dtype))
        for node, name in zip(nodes, names, strict=True)
    )


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
