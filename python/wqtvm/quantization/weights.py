"""Weights in the Winograd domain, in int8: computed once, offline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import NonFiniteError, NotEligibleError
from .arithmetic import F32, quantize, split_groups
from .bfloat16_reference import bfloat16_bits
from .rounding import output_energy, round_weights
from .scheme import Scheme


@dataclass(frozen=True)
class QuantizedWeights:
    """U = G g G^T of one layer in int8.

    Attributes
    ----------
    u : int8 (e, v, output channel, group, channel of the group), taps in rows e and columns v; in
        precision "bfloat16" its bits, uint16.
    step : float32 (e, v, output channel, group), as kernels use it: in precision "hadamard" it
        contains the row scales of both passes of the input transform.
    channels : input channels without padding.
    """

    u: NDArray[np.integer[Any]]
    step: F32
    channels: int


def quantize_weights(
    weight: NDArray[np.floating], scheme: Scheme, layer: str = "convolution"
) -> QuantizedWeights:
    """Transform and quantize a layer's weights, float (output channel, input channel, r, r).

    Raises
    ------
    NotEligibleError
        If the kernel is not r x r for the scheme's algorithm.
    NonFiniteError
        If a weight is NaN or infinite.
    """
    taps = scheme.kernel
    if weight.ndim != 4 or weight.shape[2:] != (taps, taps):
        raise NotEligibleError(
            f"layer {layer}: weight has shape {weight.shape}; {scheme.name} computes "
            f"(output channels, input channels, {taps}, {taps})"
        )
    _check_finite(weight, layer)
    if scheme.is_bfloat16:
        bits = bfloat16_bits(weight.transpose(2, 3, 0, 1))
        return QuantizedWeights(
            bits[..., None, :], np.ones((*bits.shape[:3], 1), np.float32), weight.shape[1]
        )
    axes = (scheme.row_axis, scheme.column_axis)
    transformed = transform_weights(weight, *(axis.weight_matrix for axis in axes))
    groups = split_groups(transformed, scheme.channels_per_group(weight.shape[1]))
    shared = (4,) if scheme.weight_steps == "tap" else (0, 1, 4)
    quantized = quantize(groups.astype(np.float32), shared)
    q = round_weights(groups, quantized.step, *map(output_energy, axes))
    step = np.broadcast_to(quantized.step, (*q.shape[:4], 1))[..., 0]
    if scheme.precision == "hadamard":
        row_scale, column_scale = (axis.input_row_scale for axis in axes)
        scaled = step.astype(np.float64) * row_scale[:, None, None, None]
        step = (scaled * column_scale[None, :, None, None]).astype(np.float32)
    return QuantizedWeights(q, step, weight.shape[1])


def transform_weights(
    weight: NDArray[np.floating],
    matrix: NDArray[np.float64],
    column_matrix: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """G g G^T in float64: (K, C, r, r) and G (n, r) to (e, v, K, C), terms added in order.

    The second G is that of the columns, if they have one of their own.
    """
    source = weight.astype(np.float64).transpose(2, 3, 0, 1)
    taps = matrix.shape[1]
    # Sums in a fixed order, not a library's matrix product: the same bits on every machine.
    factors = matrix[:, :, None, None]  # (n, r, 1, 1)
    rows = np.asarray(sum(factors[:, i, None] * source[i] for i in range(taps)))  # (e, r, K, C)
    if column_matrix is not None:
        factors = column_matrix[:, :, None, None]
    return np.asarray(sum(factors[:, j] * rows[:, None, j] for j in range(taps)))


def _check_finite(weight: NDArray[np.floating], layer: str) -> None:
    bad = np.argwhere(~np.isfinite(weight))
    if len(bad):
        first = tuple(int(index) for index in bad[0])
        raise NonFiniteError(
            f"layer {layer}: {len(bad)} of {weight.size} weights are not finite, the first "
            f"{weight[first]} at {first} (output channel, input channel, row, column); "
            "repair the checkpoint or exclude the layer"
        )
