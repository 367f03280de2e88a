"""The numpy reference of the direct convolution with one step an image, to the bit.

Axes: z images; y, x rows and columns of the image, zeros around it, or of the output; c input
channels; k output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arithmetic import F32, I32, LARGEST
from .weights import QuantizedWeights

LEVELS = 255  # the highest level; the lowest is 0
# An image whose values lie closer together is taken as zero: LEVELS / extent stays finite and
# extent / LEVELS a normal number.
ZERO_BELOW = np.float32(2.0**-118)
# Channels times taps whose products fit int32, whatever their values.
MOST_PRODUCTS = (2**31 - 1) // (LEVELS * LARGEST)
_INFINITY_BITS = np.int32(0x7F800000)


@dataclass(frozen=True)
class ImageStages:
    """Stages of a direct convolution of images with one step each.

    Attributes
    ----------
    v : uint8 (z, y, x, c), levels, of the image with zeros around it.
    v_step, v_zero : float32 and int32 (z), of a level, and the level of zero.
    acc : int32 (z, y, x, k), sums of all taps and channels, less what the level of zero adds.
    output : float32 (z, y, x, k).
    """

    v: NDArray[np.uint8]
    v_step: F32
    v_zero: I32
    acc: I32
    output: F32


def image_reference(
    padded: F32, weights: QuantizedWeights, stride: int, edges: list[int]
) -> ImageStages:
    """Every stage of the convolution.

    Parameters
    ----------
    padded : float32 (image, row, column, channel), zeros around each image.
    stride : pixels from one output to the next.
    edges : rows and columns of the output.
    """
    v, step, zero = quantize_images(padded)
    taps, outputs = weights.u.shape[0], weights.u.shape[2]
    u = weights.u[..., 0, : padded.shape[3]].astype(np.float64)
    shape = (padded.shape[0], *edges, outputs)
    # Of levels from zero on: integers in float64, exact.
    levels = v.astype(np.float64) - zero[:, None, None, None]
    total = np.zeros(shape)
    for e, c in np.ndindex(taps, taps):
        rows = slice(e, e + (edges[0] - 1) * stride + 1, stride)
        columns = slice(c, c + (edges[1] - 1) * stride + 1, stride)
        total += levels[:, rows, columns] @ u[e, c].T
    acc = total.astype(np.int32)
    with np.errstate(all="ignore"):
        factor = step[:, None] * weights.step[0, 0, :, 0]
        output = acc.astype(np.float32) * factor[:, None, None] + np.float32(0)  # never -0
    return ImageStages(v, step, zero, acc, output)


def quantize_images(values: F32) -> tuple[NDArray[np.uint8], F32, I32]:
    """Levels of images (z, y, x, c) uint8, with the step (z) and the level of zero (z) of each.

    ``extent = high - low`` between the least and the largest value and 0, ``inv = 255 / extent``,
    ``zero = round_to_even(-low * inv)``, ``q = clamp(round_to_even(x * inv) + zero, 0, 255)``,
    ``step = extent / 255``, all in float32. NaN and infinities make the image's step NaN, hence
    every result of it.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32)
    axes = (1, 2, 3)
    # Of positive sign, numbers order as integers; those of negative sign are below.
    high, low = (
        np.maximum(flipped.max(axis=axes), 0).astype(np.int32).view(np.float32)
        for flipped in (bits, bits ^ np.int32(-(2**31)))
    )
    with np.errstate(all="ignore"):
        extent = high + low
        finite = extent.view(np.int32) < _INFINITY_BITS
        usable = finite & (extent >= ZERO_BELOW)
        inverse = np.where(usable, np.float32(LEVELS) / extent, np.float32(0))
        step = np.where(finite, extent / np.float32(LEVELS), np.float32(np.nan))
        step = np.where(finite & ~usable, np.float32(0), step).astype(np.float32)
        zero = np.rint(np.where(usable, low * inverse, np.float32(0)))
        levels = np.rint(values * inverse[:, None, None, None]) + zero[:, None, None, None]
    levels = np.where(levels < LEVELS, levels, np.float32(LEVELS))  # in this order NaN gives 255
    levels = np.where(levels > 0, levels, np.float32(0))
    return levels.astype(np.uint8), step, zero.astype(np.int32)
