"""What several tests of the quantized arithmetic share: exact rounding, and the convolution."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

Convolution = Callable[[NDArray[np.float32], NDArray[np.float32], int], NDArray[np.float64]]


@pytest.fixture(scope="session")
def round_to_float32() -> Callable[[Fraction], np.float32]:
    """The float32 nearest to a rational, ties to even, from the definition."""

    def rounded(value: Fraction) -> np.float32:
        magnitude = abs(value)
        if magnitude == 0:
            return np.float32(0)
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        exponent -= magnitude < Fraction(2) ** exponent
        unit = Fraction(2) ** max(exponent - 23, -149)
        nearest = round(value / unit) * unit  # Python rounds a tie to even
        if abs(nearest) >= Fraction(2) ** 128:
            return np.float32(np.inf if nearest > 0 else -np.inf)
        return np.float32(float(nearest))

    return rounded


@pytest.fixture(scope="session")
def convolution() -> Convolution:
    """Direct convolution in float64: x (n, h, w, c) and weight (k, c, r, r) to (n, h, w, k)."""

    def convolve(
        x: NDArray[np.float32], weight: NDArray[np.float32], padding: int
    ) -> NDArray[np.float64]:
        sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        padded = np.pad(x.astype(np.float64), sides)
        taps = weight.shape[2]
        height, width = (edge - taps + 1 for edge in padded.shape[1:3])
        total = np.zeros((x.shape[0], height, width, weight.shape[0]))
        for i in range(taps):
            for j in range(taps):
                window = padded[:, i : i + height, j : j + width]
                total += window @ weight[:, :, i, j].T.astype(np.float64)
        return total

    return convolve
