"""Tensor constants of Relax as numpy arrays."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import numpy.typing as npt
from tvm import ir, relax, runtime

Array = npt.NDArray[np.generic]


def is_tensor_constant(expr: relax.Expr) -> TypeGuard[ir.GenericConst]:
    """Return whether `expr` is a constant tensor, of any rank."""
    return isinstance(expr, ir.GenericConst) and isinstance(expr.value, runtime.Tensor)


def array_of(constant: ir.GenericConst) -> Array:
    """Return a copy of the value of a tensor constant."""
    array: Array = constant.value.numpy()
    return array


def is_scalar(expr: relax.Expr) -> bool:
    """Return whether `expr` is a constant tensor of one value."""
    return is_tensor_constant(expr) and all(int(size) == 1 for size in expr.ty.shape)


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """Return the shape of a tensor expression; all shapes are known at compile time."""
    return tuple(int(size) for size in expr.ty.shape)


def channel_vector(expr: relax.Expr, like: relax.Expr) -> npt.NDArray[np.float64] | None:
    """Return a constant along the last axis of a value of four axes as a vector; else None."""
    shape = shape_of(like)
    if not is_tensor_constant(expr) or len(shape) != 4:
        return None
    extents = shape_of(expr)
    if not extents or extents[-1] != shape[-1] or any(size != 1 for size in extents[:-1]):
        return None
    return array_of(expr).astype(np.float64).reshape(-1)
