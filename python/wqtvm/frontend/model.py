"""What an import gives: a Relax module and the description of its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from ..tensor_spec import TensorSpec

__all__ = ["ImportedModel", "TensorSpec"]


@dataclass(frozen=True)
class ImportedModel:
    """A PyTorch model as Relax.

    Attributes
    ----------
    module : ``@main`` takes the inputs and gives the output, or a tuple of them if there are more
        than one; parameters are constants, layouts are PyTorch's (NCHW, OIHW), and the binding
        variable of a layer carries the layer's name (``frontend.layer_name``).
    input_specs : the inputs of ``@main`` in order.
    output_specs : the outputs of ``@main`` in order; nested outputs of the model are flattened.
    single_output : whether the model returns a bare tensor; if not, it returns a container, even
        where the container holds one tensor only.
    """

    module: tvm.IRModule
    input_specs: tuple[TensorSpec, ...]
    output_specs: tuple[TensorSpec, ...]
    single_output: bool
