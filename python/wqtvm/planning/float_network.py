"""The float network on this machine: what each convolution takes, and what errors do to outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import ir
from tvm.runtime.vm import VirtualMachine

from ..build import build_module
from ..frontend.names import CONVOLUTION_OPS, bindings, layer_name, operator_name
from ..quantization.plan import Plan
from ..runtime.specs import as_array
from ..target import lookup
from ..transform.constants import array_of
from ..transform.observe_layers import observe_layers
from ..transform.perturb_layers import perturb_layers

F32 = NDArray[np.float32]
HOST = "wq"  # measured here, whatever the target


class FloatNetwork:
    """A prepared module, compiled in float with an input for an error of each named convolution.

    Parameters
    ----------
    prepared : from ``transform.pipeline.prepare``.
    names : of convolutions, in order of execution.
    """

    def __init__(self, prepared: ir.IRModule, names: Sequence[str]) -> None:
        self._names = tuple(names)
        observed = observe_layers(prepared, names)
        built = build_module(perturb_layers(observed, names), Plan(()), lookup(HOST))
        self._main = VirtualMachine(built.executable, tvm.cpu())["main"]
        self._params = [_tensor(value) for value in built.params.values()]
        types = {
            layer_name(binding.var): binding.value.ty
            for binding in bindings(prepared["main"])
            if operator_name(binding.value) in CONVOLUTION_OPS
        }
        shapes = {name: tuple(int(size) for size in types[name].shape) for name in names}
        zeros = {shape: _tensor(np.zeros(shape, np.float32)) for shape in shapes.values()}
        self._zeros = {name: zeros[shape] for name, shape in shapes.items()}

    def run(self, inputs: Sequence[Any]) -> Sample:
        """Run on inputs of ``@main``, numpy arrays or torch tensors."""
        tensors = [_tensor(value) for value in inputs]
        outputs, features, results = self._call(tensors, {})
        return Sample(
            tuple(value.numpy() for value in _flat(outputs)),
            _named(self._names, features),
            _named(self._names, results),
            lambda errors: [value.numpy() for value in _flat(self._call(tensors, errors)[0])],
        )

    def _call(self, inputs: Sequence[tvm.runtime.Tensor], errors: Mapping[str, F32]) -> Any:
        added = [
            _tensor(errors[name]) if name in errors else self._zeros[name] for name in self._names
        ]
        return self._main(*inputs, *added, *self._params)


@dataclass(frozen=True)
class Sample:
    """The float network on inputs of one call.

    Attributes
    ----------
    outputs : of the network.
    features, results : what each convolution takes and gives, by name, float32 (image, row, column,
        channel).
    perturbed : outputs of the network when errors, by name, are added to what convolutions give.
    """

    outputs: tuple[NDArray[Any], ...]
    features: dict[str, F32]
    results: dict[str, F32]
    perturbed: Callable[[Mapping[str, F32]], list[NDArray[Any]]]


def weights_of(prepared: ir.IRModule, names: Sequence[str]) -> dict[str, F32]:
    """Weights of the named convolutions, float32 (output channel, input channel, row, column)."""
    return {
        layer_name(binding.var): np.asarray(
            array_of(binding.value.args[1]).transpose(3, 2, 0, 1), np.float32
        )
        for binding in bindings(prepared["main"])
        if operator_name(binding.value) in CONVOLUTION_OPS and layer_name(binding.var) in names
    }


def _tensor(value: Any) -> tvm.runtime.Tensor:
    return tvm.runtime.tensor(np.asarray(as_array(value), order="C"), tvm.cpu())


def _flat(result: Any) -> list[Any]:
    return [result] if isinstance(result, tvm.runtime.Tensor) else list(result)


def _named(names: Sequence[str], tensors: Any) -> dict[str, F32]:
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
