"""The float32 arithmetic of all kernels, to the bit: fused multiply-add, quantization to int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]

_Float = TypeVar("_Float", bound=np.floating[Any])

LARGEST = 127  # of a quantized value: symmetric, -128 is not used
# A group whose absolute maximum is below is taken as zero: 127 / amax stays finite and amax / 127
# a normal number, so that flushing denormals to zero changes nothing.
ZERO_BELOW = np.float32(2.0**-119)
_INFINITY_BITS = np.int32(0x7F800000)
_MAGNITUDE_BITS = np.int32(0x7FFFFFFF)


def fma32(a: F32, b: F32, c: F32) -> F32:
    """A * b + c in float32 with one rounding (to nearest, ties to even), elementwise.

    The product of two float32 is exact in float64. Its sum with c is rounded to odd there (Boldo
    and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008), after which the
    rounding to float32 is the only one that counts. NaN and infinities are as in IEEE 754.
    """
    with np.errstate(all="ignore"):
        product = np.multiply(a, b, dtype=np.float64)
        addend = np.asarray(c, dtype=np.float64)
        total = np.asarray(product + addend)
        # The error of the sum, exact (Knuth's TwoSum); NaN where the sum is not finite.
        rest = total - product
        error = (product - (total - rest)) + (addend - rest)
        bits = total.view(np.int64)
        inexact = (error != 0) & np.isfinite(error) & ((bits & 1) == 0)
        towards_infinity = (error > 0) == (total > 0)
        bits += np.where(inexact, np.where(towards_infinity, 1, -1), 0)
        return total.astype(np.float32)


class NumpyRowOps:
    """fastconv.RowOps on float32 arrays."""

    def add(self, a: F32, b: F32, /) -> F32:
        """A + b."""
        return a + b

    def sub(self, a: F32, b: F32, /) -> F32:
        """A - b."""
        return a - b

    def neg(self, a: F32, /) -> F32:
        """-a."""
        return -a

    def mul(self, coefficient: float, a: F32, /) -> F32:
        """Coefficient * a."""
        return np.multiply(np.float32(coefficient), a)

    def fma(self, coefficient: float, a: F32, accumulator: F32, /) -> F32:
        """Coefficient * a + accumulator, rounded once."""
        return fma32(np.asarray(coefficient, np.float32), a, accumulator)


@dataclass(frozen=True)
class Quantized:
    """Values times 1 / step, rounded.

    Attributes
    ----------
    q : int8, -127 to 127, of the values' shape.
    step : float32, with length 1 along the axes that share a step; 0 for a group of zeros, NaN for
        a group with a value that is not finite.
    """

    q: I8
    step: F32


def quantize(values: F32, shared: tuple[int, ...]) -> Quantized:
    """Symmetric int8 by the absolute maximum of each group.

    ``inv = 127 / amax``, ``q = clamp(round_to_even(x * inv), -127, 127)``, ``step = amax / 127``,
    all in float32. NaN and infinities make the group's step NaN, hence every result of it.

    Parameters
    ----------
    values : float32 of any shape.
    shared : axes along which values share a step.
    """
    magnitudes = np.ascontiguousarray(values, dtype=np.float32).view(np.int32) & _MAGNITUDE_BITS
    # As integers, magnitudes order like the numbers, with infinity and then NaN above all.
    largest_bits = np.asarray(magnitudes.max(axis=shared, keepdims=True))
    largest = largest_bits.view(np.float32)
    finite = largest_bits < _INFINITY_BITS
    zero = finite & (largest < ZERO_BELOW)
    with np.errstate(all="ignore"):
        inverse = np.where(finite & ~zero, np.float32(LARGEST) / largest, np.float32(0))
        step = np.where(finite, largest / np.float32(LARGEST), np.float32(np.nan))
        step = np.where(zero, np.float32(0), step)
        scaled = np.rint(values * inverse)
    limit = np.float32(LARGEST)
    scaled = np.where(scaled < limit, scaled, limit)  # in this order NaN gives 127
    scaled = np.where(scaled > -limit, scaled, -limit)
    return Quantized(scaled.astype(np.int8), step.astype(np.float32))


def dequantize(quantized: Quantized) -> F32:
    """Q * step in float32."""
    return quantized.q.astype(np.float32) * quantized.step


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below value."""
    return -(-value // multiple) * multiple


def split_groups(values: NDArray[_Float], size: int) -> NDArray[_Float]:
    """Last axis (channels) split into (groups, size), the last group padded with zeros."""
    channels = values.shape[-1]
    padded = round_up(channels, size)
    widths = [(0, 0)] * (values.ndim - 1) + [(0, padded - channels)]
    return np.pad(values, widths).reshape(*values.shape[:-1], padded // size, size)
