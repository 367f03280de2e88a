"""Balance the input channels of a convolution, which share steps of a group, against its weights.

What a convolution takes is multiplied, and its weights are divided, by a factor for each input
channel. Channels with large weights, whose errors count most, then get finer steps, and so do those
that are small beside others of their group; weights that were small because their channel is large
get finer steps likewise. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019, arXiv 1906.04721), choose factors so that ranges are equal; with steps that
are found at run time, tile by tile, half as much for the input is better (``python -m
benchmarks.accuracy.balance`` compares powers on trained networks).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WEIGHT_POWER = 0.5
_INPUT_POWER = 0.25
# Root mean squares count as if noise of this share of their mean were added: a channel that
# is silent on some inputs, or on made-up ones, may be loud on others.
_INPUT_FLOOR = 0.3
_WEIGHT_FLOOR = 1e-2  # of the largest: a channel without weights needs no precision
_DIGITS = 3  # of a factor: an error of 0.5 % is nothing to a step, and a saved plan stays short


def balance_factors(weight: NDArray[np.floating], rms: NDArray[np.floating]) -> tuple[float, ...]:
    """What to multiply each input channel by, positive, of geometric mean about 1.

    Parameters
    ----------
    weight : float (output channel, input channel, r, r).
    rms : root mean square of what the convolution takes (input channel,).
    """
    norms = np.sqrt(np.square(weight.astype(np.float64)).sum((0, 2, 3)))
    norms = np.maximum(norms, _WEIGHT_FLOOR * norms.max())
    squares = np.square(rms.astype(np.float64))
    inputs = np.sqrt(squares + _INPUT_FLOOR**2 * squares.mean())
    if not norms.max() or not inputs.max():
        return (1.0,) * len(norms)
    factors = norms**_WEIGHT_POWER / inputs**_INPUT_POWER
    factors /= np.exp(np.log(factors).mean())
    return tuple(float(f"{factor:.{_DIGITS}g}") for factor in factors)


def balanced_weights(
    weight: NDArray[np.generic], factors: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Weights, float32, for inputs that are multiplied by factors along weights' second axis."""
    return (weight.astype(np.float64) / factors[:, None, None]).astype(np.float32)
