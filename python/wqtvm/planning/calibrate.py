"""Adapt a planned layer to what it takes in use: balance its inputs, take off its mean error.

Rounding leaves each output channel an error whose mean over an image is not zero, since features
are not (after a ReLU none is negative). What follows averages other errors away, but carries this
one on to the network's outputs: of FFDNet's error by direct int8 it is 58 % of the energy. It is
taken off by the bias (Nagel et al., arXiv 1906.04721, section 4.2).

Both are for inputs like those in use, given or made up. A consistency U-Net that was calibrated on
smooth noise, which is not what it takes, lost 4 dB by the one and another by the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..emulation import emulated_convolution
from ..quantization.balance import balance_factors
from ..quantization.plan import LayerPlan
from .float_network import F32, Sample


def emulate(layer: LayerPlan, weight: F32, x: F32, padding: int) -> F32:
    """What the planned layer gives for x, both float32 (image, row, column, channel)."""
    convolution = emulated_convolution(weight, layer, padding)
    result: F32 = convolution(channels_first(x)).permute(0, 2, 3, 1).numpy()
    return result


def channels_first(x: F32) -> torch.Tensor:
    """(image, row, column, channel) as (image, channel, row, column)."""
    return torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2)


def errors_of(layer: LayerPlan, weight: F32, samples: Sequence[Sample]) -> list[F32]:
    """The planned layer's error on all that it takes, (image, row, column, channel) a sample."""
    return [
        np.ascontiguousarray(
            emulate(layer, weight, sample.features[layer.name], layer.padding[0])
            - sample.results[layer.name]
        )
        for sample in samples
    ]


def balanced(layer: LayerPlan, weight: F32, samples: Sequence[Sample]) -> LayerPlan:
    """The layer with its channels balanced by what they hold, each sample counting alike."""
    squares = [
        np.square(sample.features[layer.name], dtype=np.float64).mean((0, 1, 2))
        for sample in samples
    ]
    shares = [each / each.mean() if each.any() else each for each in squares]
    return replace(layer, balance=balance_factors(weight, np.sqrt(np.mean(shares, 0))))


def corrected(layer: LayerPlan, errors: Sequence[F32]) -> LayerPlan:
    """The layer without the mean of these errors of each output channel.

    Not counted where a budget is kept: on other inputs errors have other means.
    """
    mean = np.mean([error.mean((0, 1, 2), dtype=np.float64) for error in errors], 0)
    return replace(layer, correction=tuple(float(np.float32(-value)) for value in mean))
