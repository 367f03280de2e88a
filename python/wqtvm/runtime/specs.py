"""Inputs and outputs: what is given against what the network was compiled for, and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputMismatchError
from ..tensor_spec import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Value = Tensor | NDArray[Any]


def is_torch(value: object) -> bool:
    """Tell whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(value: Any) -> NDArray[Any]:
    """A torch tensor, or what numpy makes an array of, as an array."""
    return value.numpy(force=True) if is_torch(value) else np.asarray(value)


def check_inputs(values: Sequence[object], specs: Sequence[TensorSpec]) -> None:
    """Compare inputs with what the network takes.

    Raises
    ------
    InputMismatchError
        If there are too many or too few, one is no array, has another shape or dtype or is not on
        the CPU, or arrays and tensors are mixed.
    """
    wanted = "; ".join(map(str, specs)) or "none"
    if len(values) != len(specs):
        raise InputMismatchError(f"{len(values)} inputs are given; the network takes {wanted}")
    for value, spec in zip(values, specs, strict=True):
        _check_input(value, spec)
    if len({is_torch(value) for value in values}) > 1:
        raise InputMismatchError(
            "some inputs are torch tensors and some numpy arrays; give all of one kind, "
            "in which the outputs come back"
        )


def _check_input(value: Any, spec: TensorSpec) -> None:
    if is_torch(value):
        dtype = str(value.dtype).removeprefix("torch.")
        conversion = f".to(torch.{spec.dtype})"
        if value.device.type != "cpu" or value.layout != sys.modules["torch"].strided:
            raise InputMismatchError(
                f"input {spec.name!r} is on {value.device} in layout {value.layout}; "
                "give a dense tensor on the CPU (.to_dense(), .cpu())"
            )
    elif isinstance(value, np.ndarray):
        dtype = value.dtype.name if value.dtype.isnative else str(value.dtype)
        conversion = f".astype({spec.dtype!r})"
    else:
        raise InputMismatchError(
            f"input {spec.name!r} is a {type(value).__name__}; "
            f"give a torch tensor or a numpy array, {spec}"
        )
    given = TensorSpec(spec.name, tuple(value.shape), dtype)
    if given.dtype != spec.dtype:
        raise InputMismatchError(
            f"input {spec.name!r} is {given.dtype}; the network takes {spec}: convert it with "
            f"{conversion}"
        )
    if given.shape != spec.shape:
        raise InputMismatchError(
            f"input {spec.name!r} has shape {list(given.shape)}; the network was compiled for "
            f"{list(spec.shape)}: compile it again for other shapes"
        )


class PlainTensors:
    """The inputs of most calls: dense torch tensors that compiled code can read as they are.

    They are told by few loads. A network leaves little of Python in the caches, so that each call
    pays for all code that it touches: ``check_inputs`` and conversions took 0.1 ms, a third of what
    a small layer takes.
    """

    def __init__(self, specs: Sequence[TensorSpec], alignment: int) -> None:
        """Fix what is asked for: the specifications, and the alignment of the data in bytes."""
        import torch

        self._tensor, self._layout = torch.Tensor, torch.strided
        self._wanted = [(getattr(torch, s.dtype), torch.Size(s.shape)) for s in specs]
        self._alignment = alignment

    def match(self, values: Sequence[Any]) -> bool:
        """Whether all values are such tensors, of the wanted shapes and dtypes."""
        if len(values) != len(self._wanted):
            return False
        for value, (dtype, shape) in zip(values, self._wanted, strict=True):
            if not (
                type(value) is self._tensor
                and value.dtype is dtype
                and value.shape == shape
                and value.is_cpu
                and value.layout is self._layout
                and value.is_contiguous()
                and not value.is_neg()
                and value.data_ptr() % self._alignment == 0
            ):
                return False
        return True


def to_json(spec: TensorSpec) -> dict[str, Any]:
    """Return a specification as what JSON can hold."""
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def from_json(value: Mapping[str, Any]) -> TensorSpec:
    """Return the specification that ``to_json`` wrote.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the value is none.
    """
    return TensorSpec(
        str(value["name"]),
        tuple(int(size) for size in value["shape"]),
        np.dtype(str(value["dtype"])).name,
    )
