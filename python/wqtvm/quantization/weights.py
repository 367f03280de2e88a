"""Weights in the Winograd domain, in int8: computed once, offline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import NonFiniteError, NotEligibleError
from .arithmetic import F32, I8, quantize, split_groups
from .rounding import round_weights
from .scheme import Scheme


@dataclass(frozen=True)
class QuantizedWeights:
    """U = G g G^T of one layer in int8.

    Attributes
    ----------
    u : int8 (n, n, output channel, group, channel of the group).
    step : float32 (n, n, output channel, group), as kernels use it: in precision "hadamard" it
        contains the row scales of both passes of the input transform.
    channels : input channels without padding.
    """

    u: I8
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
    taps = scheme.algorithm.r
    if weight.ndim != 4 or weight.shape[2:] != (taps, taps):
        raise NotEligibleError(
            f"layer {layer}: weight has shape {weight.shape}; {scheme.algorithm.name} computes "
            f"(output channels, input channels, {taps}, {taps})"
        )
    _check_finite(weight, layer)
    transformed = transform_weights(weight, scheme.weight_matrix)
    groups = split_groups(transformed, scheme.channels_per_group(weight.shape[1]))
    shared = (4,) if scheme.weight_steps == "tap" else (0, 1, 4)
    quantized = quantize(groups.astype(np.float32), shared)
    q = quantized.q
    step = np.broadcast_to(quantized.step, (*q.shape[:4], 1))[..., 0]
    if scheme.precision == "hadamard":
        row_scale = scheme.input_row_scale
        rows = np.asarray(scheme.input_matrix.rows, dtype=np.float64)
        q = round_weights(groups, quantized.step, row_scale[:, None] * rows, scheme.output_matrix)
        scaled = step.astype(np.float64) * row_scale[:, None, None, None]
        step = (scaled * row_scale[None, :, None, None]).astype(np.float32)
    return QuantizedWeights(q, step, weight.shape[1])


def transform_weights(
    weight: NDArray[np.floating], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """G g G^T in float64: (K, C, r, r) and G (n, r) to (n, n, K, C), terms added in order."""
    source = weight.astype(np.float64).transpose(2, 3, 0, 1)
    taps = matrix.shape[1]
    # Sums in a fixed order, not a library's matrix product: the same bits on every machine.
    factors = matrix[:, :, None, None]  # (n, r, 1, 1)
    columns = np.asarray(sum(factors[:, i, None] * source[i] for i in range(taps)))  # (n, r, K, C)
    return np.asarray(sum(factors[:, j] * columns[:, None, j] for j in range(taps)))


def _check_finite(weight: NDArray[np.floating], layer: str) -> None:
    bad = np.argwhere(~np.isfinite(weight))
    if len(bad):
        first = tuple(int(index) for index in bad[0])
        raise NonFiniteError(
            f"layer {layer}: {len(bad)} of {weight.size} weights are not finite, the first "
            f"{weight[first]} at {first} (output channel, input channel, row, column); "
            "repair the checkpoint or exclude the layer"
        )
