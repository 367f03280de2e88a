"""The numpy reference of the direct convolution: every stage, to the bit.

Axes: z images; y, x rows and columns of the image, zeros around it, or of the output; e, v a tap;
c input channels, as (g groups, s channels of a group); k output channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputMismatchError
from .arithmetic import F32, I8, I32, LARGEST, fma32, quantize, split_groups
from .bfloat16_reference import Bfloat16Stages, bfloat16_reference
from .image_reference import ImageStages, image_reference
from .scheme import Scheme
from .weights import QuantizedWeights

_FLOAT32_INTEGERS = 2**24  # integers below are exact in float32, and so are their sums


@dataclass(frozen=True)
class DirectStages:
    """Stages of a direct convolution: each pixel quantized once, the products in int8.

    Attributes
    ----------
    v, v_step : int8 (z, y, x, g, s) and float32 (z, y, x, g), of the image with zeros around it.
    acc : int32 (e, v, z, y, x, k, g), sums of a tap and group; None unless asked for.
    output : float32 (z, y, x, k).
    """

    v: I8
    v_step: F32
    acc: I32 | None
    output: F32


def direct_reference(
    x: F32,
    weights: QuantizedWeights,
    scheme: Scheme,
    padding: int,
    keep_accumulators: bool = False,
    stride: int = 1,
) -> DirectStages | ImageStages | Bfloat16Stages:
    """Every stage of the convolution.

    With a step an image see ``image_reference``, in bfloat16 ``bfloat16_reference``. Else a group's
    taps are added row by row, then its sum to those of the groups before it. A weight's step that
    all taps share is applied to the sum over them.

    Parameters
    ----------
    x : float32 (image, row, column, channel).
    padding : zeros on each side, in pixels.
    keep_accumulators : also return the int32 sums of every tap and group.
    stride : pixels from one output to the next.

    Raises
    ------
    InputMismatchError
        If x is no float32 image batch of the weights' channels, or smaller than the kernel.
    """
    if x.ndim != 4 or x.dtype != np.float32 or x.shape[3] != weights.channels:
        raise InputMismatchError(
            f"input is {x.dtype} of shape {x.shape}; give float32 of shape "
            f"(images, rows, columns, {weights.channels})"
        )
    taps = scheme.kernel
    edges = [(size + 2 * padding - taps) // stride + 1 for size in x.shape[1:3]]
    if min(edges) < 1:
        raise InputMismatchError(
            f"an input of {x.shape[1]} x {x.shape[2]} pixels with padding {padding} has no output "
            f"for {taps} taps; give a larger image"
        )
    edge = (padding, padding)
    padded = np.pad(x, [(0, 0), edge, edge, (0, 0)])
    if scheme.activation_steps == "image":
        return image_reference(padded, weights, stride, edges)
    if scheme.is_bfloat16:
        return bfloat16_reference(padded, weights.u[..., 0, :], stride, edges)  # type: ignore[arg-type]
    groups = split_groups(padded, scheme.channels_per_group(x.shape[3]))
    size = groups.shape[-1]
    # A matrix product of floats is exact as long as the sums are, and far faster than integers.
    exact = np.dtype(np.float32 if size * LARGEST**2 < _FLOAT32_INTEGERS else np.float64)
    per_tap = scheme.weight_steps == "tap"
    outputs = weights.u.shape[2]
    shape = (x.shape[0], *edges, outputs)
    counts = (
        np.zeros((taps, taps, *shape, groups.shape[3]), np.int32) if keep_accumulators else None
    )
    total = np.zeros(shape, np.float32)
    with np.errstate(all="ignore"):
        v = quantize(groups, shared=(4,))
        for group in range(groups.shape[3]):
            of_group = np.zeros(shape, np.float32)
            for e, c in np.ndindex(taps, taps):
                rows = slice(e, e + (edges[0] - 1) * stride + 1, stride)
                columns = slice(c, c + (edges[1] - 1) * stride + 1, stride)
                left = v.q[:, rows, columns, group].astype(exact)
                acc = left @ weights.u[e, c, :, group].T.astype(exact)
                step = v.step[:, rows, columns, group]
                if per_tap:
                    step = step * weights.step[e, c, :, group]
                of_group = fma32(acc.astype(np.float32), np.broadcast_to(step, shape), of_group)
                if counts is not None:
                    counts[e, c, ..., group] = acc.astype(np.int32)
            if per_tap:
                total = total + of_group
            else:
                step = np.broadcast_to(weights.step[0, 0, :, group], shape)
                total = fma32(of_group, step, total)
    return DirectStages(v.q, v.step[..., 0], counts, total)
