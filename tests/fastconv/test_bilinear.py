"""The check that every algorithm passes when it is made, and the exact algebra behind it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wqtvm.errors import AlgorithmError
from wqtvm.fastconv import BilinearAlgorithm, as_matrix, direct, rescaled, toom_cook, winograd

FRACTIONS = st.fractions(min_value=-5, max_value=5, max_denominator=6)

# A set that is in print for the points 0, +-1, +-2, +-3/2: its S_x has the last three entries in
# another order than its S_w, so that S_A S_B S_G is not the identity.
PUBLISHED_POINTS = ("0", "1", "-1", "2", "-2", "3/2", "-3/2")
PUBLISHED_S_X = (4, -6, -6, 24, 24, 1, -12, -12)
PUBLISHED_S_W = ("1/4", "-1/6", "-1/6", "1/24", "1/24", "-1/12", "-1/12", "1")
ONES = (1,) * 8


def correlate(signal: list[Fraction], kernel: list[Fraction], outputs: int) -> list[Fraction]:
    return [sum(signal[a + j] * tap for j, tap in enumerate(kernel)) for a in range(outputs)]


def apply(matrix: tuple[tuple[Fraction, ...], ...], vector: list[Fraction]) -> list[Fraction]:
    return [sum(c * x for c, x in zip(row, vector, strict=True)) for row in matrix]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_random_points_correlate_random_rationals_exactly(data: st.DataObject) -> None:
    m = data.draw(st.integers(1, 6))
    r = data.draw(st.integers(1, 5))
    most = min(3, (m + r - 2) // 2)
    pairs = data.draw(st.lists(st.sampled_from(("i", "w", "-w")), max_size=most, unique=True))
    count = m + r - 2 - 2 * len(pairs)
    points = data.draw(st.lists(FRACTIONS, min_size=count, max_size=count, unique=True))
    algorithm = toom_cook(m, r, [*points, *pairs])
    assert algorithm.n == m + r - 1 + len(pairs)
    signal = data.draw(st.lists(FRACTIONS, min_size=algorithm.t, max_size=algorithm.t))
    kernel = data.draw(st.lists(FRACTIONS, min_size=r, max_size=r))
    products = [
        g * b for g, b in zip(apply(algorithm.g, kernel), apply(algorithm.b_t, signal), strict=True)
    ]
    assert apply(algorithm.a_t, products) == correlate(signal, kernel, m)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.data())
def test_any_nonzero_scales_with_unit_product_are_accepted(data: st.DataObject) -> None:
    algorithm = winograd(4)
    nonzero = FRACTIONS.filter(bool)
    s_b = data.draw(st.lists(nonzero, min_size=6, max_size=6))
    s_g = data.draw(st.lists(nonzero, min_size=6, max_size=6))
    s_a = [1 / (b * g) for b, g in zip(s_b, s_g, strict=True)]
    scaled = rescaled(algorithm, s_a, s_b, s_g)
    assert scaled.b_t[1] == tuple(s_b[1] * entry for entry in algorithm.b_t[1])
    assert scaled.points == algorithm.points


@pytest.mark.parametrize("matrix", ["a_t", "b_t", "g"])
def test_every_wrong_entry_is_refused(matrix: str) -> None:
    algorithm = winograd(4)
    entries = getattr(algorithm, matrix)
    for i, row in enumerate(entries):
        for j, entry in enumerate(row):
            wrong = (*row[:j], entry + Fraction(1, 1000), *row[j + 1 :])
            with pytest.raises(AlgorithmError, match="not a correlation"):
                replace(algorithm, **{matrix: (*entries[:i], wrong, *entries[i + 1 :])})


def test_refusal_names_output_tap_and_input() -> None:
    good = direct(3)
    with pytest.raises(AlgorithmError, match=r"output 0 has coefficient 2 for tap 1 .* input 1;"):
        replace(good, g=as_matrix([[1, 0, 0], [0, 2, 0], [0, 0, 1]]))


def test_published_wrong_scales_are_refused_by_product() -> None:
    algorithm = toom_cook(6, 3, PUBLISHED_POINTS)
    with pytest.raises(AlgorithmError, match=r"S_A S_B S_G is -1/12 for product 5 .*S_B = 1, "):
        rescaled(algorithm, ONES, PUBLISHED_S_X, PUBLISHED_S_W)


def test_published_wrong_matrices_are_refused_by_coefficient() -> None:
    algorithm = toom_cook(6, 3, PUBLISHED_POINTS)
    b_t = [
        [Fraction(s) * entry for entry in row]
        for s, row in zip(PUBLISHED_S_X, algorithm.b_t, strict=True)
    ]
    g = [
        [Fraction(s) * entry for entry in row]
        for s, row in zip(PUBLISHED_S_W, algorithm.g, strict=True)
    ]
    with pytest.raises(AlgorithmError, match="not a correlation: output 0 has coefficient"):
        replace(algorithm, b_t=as_matrix(b_t), g=as_matrix(g))


def test_published_scales_in_the_right_order_are_accepted() -> None:
    s_x = (4, -6, -6, 24, 24, -12, -12, 1)
    assert rescaled(toom_cook(6, 3, PUBLISHED_POINTS), ONES, s_x, PUBLISHED_S_W).n == 8


def test_shapes_are_checked() -> None:
    good = direct(3)
    with pytest.raises(AlgorithmError, match=r"B\^T has 2 rows of \[3\] entries; .* 3 x 3"):
        replace(good, b_t=good.b_t[:2])
    with pytest.raises(AlgorithmError, match="m is 0"):
        replace(good, m=0)
    with pytest.raises(AlgorithmError, match=r"scales have \[2, 3, 3\] entries; give 3 each"):
        rescaled(good, (1, 1), (1, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    ("algorithm", "n", "t", "multiplications", "saving"),
    [
        (direct(3), 3, 3, Fraction(9), Fraction(1)),
        (winograd(2), 4, 4, Fraction(4), Fraction(9, 4)),
        (winograd(4), 6, 6, Fraction(9, 4), Fraction(4)),
        (winograd(6), 8, 8, Fraction(16, 9), Fraction(81, 16)),
    ],
)
def test_counts(
    algorithm: BilinearAlgorithm, n: int, t: int, multiplications: Fraction, saving: Fraction
) -> None:
    assert (algorithm.n, algorithm.t) == (n, t)
    assert algorithm.multiplications_per_output == multiplications
    assert algorithm.saving == saving
