"""What several tests of the quantized arithmetic share: exact rounding, and the convolution."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from kernel_layers import direct_convolution
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
    return direct_convolution
