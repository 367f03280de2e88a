"""The numpy reference of the direct convolution of operands rounded to bfloat16.

Axes: z images; y, x rows and columns of the image, zeros around it, or of the output; c input
channels; k output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arithmetic import F32

U16 = NDArray[np.uint16]


@dataclass(frozen=True)
class Bfloat16Stages:
    """Stages of a direct convolution in bfloat16.

    Attributes
    ----------
    v : uint16 (z, y, x, c), bits of the image with zeros around it.
    output : float32 (z, y, x, k), of sums in float64: products of bfloat16 are exact in float32,
        but kernels round the sums of each step.
    """

    v: U16
    output: F32


def bfloat16_bits(values: NDArray[np.floating]) -> U16:
    """The bits of the nearest bfloat16, ties to even; a quiet NaN stays one."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    return ((bits + np.uint32(0x7FFF) + odd) >> 16).astype(np.uint16)


def bfloat16_values(bits: U16) -> F32:
    """The float32 values of bits of bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bfloat16_reference(padded: F32, u: U16, stride: int, edges: list[int]) -> Bfloat16Stages:
    """Every stage of the convolution.

    Parameters
    ----------
    padded : float32 (image, row, column, channel), zeros around each image.
    u : uint16 (e, v, output channel, input channel), bits of the weights.
    stride : pixels from one output to the next.
    edges : rows and columns of the output.
    """
    v = bfloat16_bits(padded)
    values, weights = (bfloat16_values(bits).astype(np.float64) for bits in (v, u))
    total = np.zeros((padded.shape[0], *edges, u.shape[2]))
    with np.errstate(invalid="ignore"):
        for e, c in np.ndindex(*u.shape[:2]):
            rows = slice(e, e + (edges[0] - 1) * stride + 1, stride)
            columns = slice(c, c + (edges[1] - 1) * stride + 1, stride)
            total += values[:, rows, columns] @ weights[e, c].T
    return Bfloat16Stages(v, total.astype(np.float32))
