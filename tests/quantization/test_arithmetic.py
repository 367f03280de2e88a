"""The fused multiply-add and the quantizer, against exact rationals."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wqtvm.quantization import dequantize, fma32, quantize
from wqtvm.quantization.arithmetic import split_groups

Rounding = Callable[[Fraction], np.float32]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Few significant bits at close exponents: many ties and much cancellation.
NEAR_TIES = st.builds(
    lambda mantissa, exponent: float(np.ldexp(np.float32(mantissa), exponent)),
    st.integers(-(2**13), 2**13),
    st.integers(-40, 40),
)


def fma(a: float, b: float, c: float) -> np.float32:
    result = fma32(*(np.array([value], np.float32) for value in (a, b, c)))
    assert result.dtype == np.float32
    return result[0]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(st.tuples(FLOATS, FLOATS, FLOATS), st.tuples(NEAR_TIES, NEAR_TIES, NEAR_TIES)))
def test_fma_rounds_once(round_to_float32: Rounding, operands: tuple[float, ...]) -> None:
    a, b, c = operands
    assert fma(a, b, c) == round_to_float32(Fraction(a) * Fraction(b) + Fraction(c))


@pytest.mark.parametrize("tiny", [2.0**-80, -(2.0**-80), 2.0**-149, -(2.0**-149), 0.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fma_breaks_a_tie_by_what_float64_drops(
    round_to_float32: Rounding, tiny: float, sign: float
) -> None:
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 is half way between two float32; the sum with the tiny
    # number is that again in float64.
    a = 1 + 2.0**-12
    exact = int(sign) * Fraction(a) ** 2 + Fraction(tiny)
    assert fma(sign * a, a, tiny) == round_to_float32(exact)


def test_fma_of_denormals(round_to_float32: Rounding) -> None:
    least = 2.0**-149
    assert fma(2.0**-75, 2.0**-75, 0.0) == 0  # half of the least denormal: a tie, to even
    assert fma(2.0**-75, 2.0**-75, least) == 2 * least
    assert fma(1.5 * 2.0**-75, 2.0**-75, 0.0) == least
    assert fma(2.0**-100, 2.0**-30, 2.0**-126) == round_to_float32(
        Fraction(2.0**-130) + Fraction(2.0**-126)
    )


def test_fma_of_what_is_not_finite() -> None:
    infinity, largest = np.inf, float(np.finfo(np.float32).max)
    assert fma(infinity, 1, 1) == infinity
    assert fma(1, 1, -infinity) == -infinity
    assert fma(largest, 2, 0) == infinity
    assert fma(largest, 2, -largest) == largest  # the product alone would overflow
    assert np.isnan(fma(infinity, 0, 1))
    assert np.isnan(fma(infinity, 1, -infinity))
    assert np.isnan(fma(np.nan, 0, 0))
    assert np.isnan(fma(1, 1, np.nan))


def test_fma_broadcasts_and_keeps_its_operands() -> None:
    column, row = np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(fma32(column, row, column), np.tile(row + 1, (3, 1)))
    np.testing.assert_array_equal(row, [0, 1, 2, 3])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_quantization_is_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    quantized = quantize(values, shared=(1,))
    assert quantized.q.dtype == np.int8
    assert quantized.step.shape == (values.shape[0], 1)
    step = quantized.step.astype(np.float64)
    error = np.abs(values - quantized.q * step)
    # inv, step and x * inv are rounded: 127 times 2^-24 of a step each, besides the half.
    allowed = np.where(step == 0, 2.0**-119, (0.5 + 3 * 127 * 2.0**-24) * step)
    assert np.all(error <= allowed)
    largest = np.abs(quantized.q.astype(int)).max(axis=1)
    np.testing.assert_array_equal(largest, np.where(step[:, 0] == 0, 0, 127))


def test_quantization_rounds_ties_to_even() -> None:
    # The absolute maximum 127 makes both the step and its inverse 1.
    values = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 125.5, -127], np.float32)
    quantized = quantize(values, shared=(0,))
    np.testing.assert_array_equal(quantized.q, [127, 0, 2, 2, 0, -2, -126, 126, -127])
    np.testing.assert_array_equal(quantized.step, np.ones(1, np.float32))
    np.testing.assert_array_equal(dequantize(quantized), quantized.q)


def test_quantization_is_in_float32() -> None:
    values = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    quantized = quantize(values, shared=(1,))
    for row, q, step in zip(values, quantized.q, quantized.step[:, 0], strict=True):
        largest = max(abs(row))
        assert step == largest / np.float32(127)
        inverse = np.float32(127) / largest
        expected = [max(-127, min(127, round(float(np.float32(x * inverse))))) for x in row]
        np.testing.assert_array_equal(q, expected)


def test_a_tiny_group_is_zero() -> None:
    values = np.array([[2.0**-120, -(2.0**-149)], [2.0**-119, 2.0**-120], [0, 0]], np.float32)
    quantized = quantize(values, shared=(1,))
    np.testing.assert_array_equal(quantized.q, [[0, 0], [127, 64], [0, 0]])
    assert quantized.step[:, 0].tolist() == [0, np.float32(2.0**-119) / np.float32(127), 0]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_group_that_is_not_finite_has_a_nan_step(bad: float) -> None:
    values = np.array([[1, bad, -2], [1, 2, -2]], np.float32)
    quantized = quantize(values, shared=(1,))
    assert np.isnan(quantized.step[0, 0])
    assert np.all(np.isnan(dequantize(quantized)[0]))
    np.testing.assert_array_equal(quantized.q[1], quantize(values[1:], shared=(1,)).q[0])


def test_the_largest_float_is_quantized() -> None:
    values = np.array([np.finfo(np.float32).max, -1], np.float32)
    np.testing.assert_array_equal(quantize(values, shared=(0,)).q, [127, 0])


def test_groups_are_padded_with_zeros() -> None:
    values = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_array_equal(split_groups(values, 4)[1], [[5, 6, 7, 8], [9, 0, 0, 0]])
    assert split_groups(values, 5).shape == (2, 1, 5)
    assert split_groups(values, 8).shape == (2, 1, 8)
