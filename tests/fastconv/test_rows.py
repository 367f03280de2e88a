"""Integer rows, and the one order in which rows are evaluated."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wqtvm.errors import AlgorithmError
from wqtvm.fastconv import (
    as_matrix,
    evaluate_row,
    evaluate_rows,
    integer_matrix,
    toom_cook,
    unit_matrix,
    winograd,
)
from wqtvm.quantization.arithmetic import NumpyRowOps

COEFFICIENTS = st.lists(
    st.one_of(st.sampled_from([0, 1, -1, 2, -2, 36, -97]), st.integers(-127, 127)),
    min_size=1,
    max_size=9,
).filter(any)


@dataclass
class Term:
    """An expression: its text, its exact value, and whether it is a bare product."""

    text: str
    value: Fraction
    product: bool = False


@dataclass
class RecordingOps:
    """Exact arithmetic that refuses to add a bare product, and keeps what was called."""

    calls: list[str] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)  # the same expression is computed once

    def _made(self, name: str, text: str, value: Fraction, product: bool = False) -> Term:
        self.calls.append(name)
        self.texts.add(text)
        return Term(text, value, product)

    def add(self, a: Term, b: Term, /) -> Term:
        assert not a.product
        assert not b.product
        return self._made("add", f"({a.text}+{b.text})", a.value + b.value)

    def sub(self, a: Term, b: Term, /) -> Term:
        assert not a.product
        assert not b.product
        return self._made("sub", f"({a.text}-{b.text})", a.value - b.value)

    def neg(self, a: Term, /) -> Term:
        assert not a.product
        return self._made("neg", f"-{a.text}", -a.value)

    def mul(self, coefficient: float, a: Term, /) -> Term:
        text = f"{coefficient:g}*{a.text}"
        return self._made("mul", text, Fraction(coefficient) * a.value, product=True)

    def fma(self, coefficient: float, a: Term, accumulator: Term, /) -> Term:
        assert not a.product
        text = f"fma({coefficient:g},{a.text},{accumulator.text})"
        return self._made("fma", text, Fraction(coefficient) * a.value + accumulator.value)


def inputs(count: int) -> list[Term]:
    return [Term(f"x{i}", Fraction(3 * i + 1, 7)) for i in range(count)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(COEFFICIENTS)
def test_rows_are_exact_and_never_add_a_bare_product(coefficients: list[int]) -> None:
    terms = inputs(len(coefficients))
    ops = RecordingOps()
    result = evaluate_row(coefficients, terms, ops)
    exact = [c * x.value for c, x in zip(coefficients, terms, strict=True)]
    # Of a half, coefficients are taken relative to the first, and rounded to float32.
    assert abs(result.value - sum(exact)) <= Fraction(1, 2**24) * sum(map(abs, exact))
    nonzero = sum(c != 0 for c in coefficients)
    # One operation to join each term to another, a product to start each half, a negation.
    assert len(ops.calls) <= (nonzero - 1) + 2 + 1
    assert result.product == (nonzero == 1 and abs(sum(coefficients)) != 1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(COEFFICIENTS, st.integers(0, 2**32 - 1))
def test_rows_in_float32_are_within_rounding_of_the_exact_sum(
    coefficients: list[int], seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal((len(coefficients), 16), np.float32)
    result = evaluate_row(coefficients, list(values), NumpyRowOps())
    assert result.dtype == np.float32
    terms = np.asarray(coefficients)[:, None] * values.astype(np.float64)
    # At most one rounding per operation and one of a coefficient, each of at most 2^-24 of the sum
    # of magnitudes.
    bound = (len(coefficients) + 2) * 2.0**-24 * np.abs(terms).sum(axis=0)
    assert np.all(np.abs(result - terms.sum(axis=0)) <= bound)


@pytest.mark.parametrize(
    ("coefficients", "text"),
    [
        # Halves by parity of the index; unit terms first; the sign of the half taken out.
        ((36, 0, -97, 0, 36, 0), "fma(36,x4,fma(-97,x2,36*x0))"),
        ((0, 18, 27, -8, -12, 0), "fma(18,fma(-0.444444,x3,x1),fma(-12,x4,27*x2))"),
        ((0, -18, 27, 8, -12, 0), "fma(-18,fma(-0.444444,x3,x1),fma(-12,x4,27*x2))"),
        ((0, 18, -27, -8, 12, 0), "fma(-27,fma(-0.444444,x4,x2),fma(-8,x3,18*x1))"),
        ((0, -18, -27, 8, 12, 0), "-(fma(-12,x4,27*x2)+fma(-8,x3,18*x1))"),
        ((0, 18, 27, 8, -27, 0), "fma(18,fma(0.444444,x3,x1),fma(-27,x4,27*x2))"),
        ((0, 2, 1, -8, -4, 0), "fma(2,fma(-4,x3,x1),fma(-4,x4,x2))"),
        ((0, 2, -1, -8, 4, 0), "(fma(-8,x3,2*x1)-fma(-4,x4,x2))"),
        ((4, 0, -5, 0, 1, 0), "fma(-5,x2,fma(4,x0,x4))"),
        ((0, 4, -4, -1, 1, 0), "(fma(-4,x2,x4)-fma(-4,x1,x3))"),
        ((0, 0, 4, 0, -1, 0), "-fma(-4,x2,x4)"),
        ((1, 1, 1, 1, 1, 0), "(((x0+x2)+x4)+(x1+x3))"),
        ((1, 0, -1, 0), "(x0-x2)"),
        ((0, 1, 0, -1), "(x1-x3)"),
        ((0, 1, 1, 0), "(x2+x1)"),
        ((0, -1, 1, 0), "(x2-x1)"),
        # A half that is one product folds into the other; two of them make one fma.
        ((1, 2, -1, 0), "fma(2,x1,(x0-x2))"),
        ((-1, 2, 1, 0), "fma(2,x1,-(x0-x2))"),
        ((3, 1, 0, 1), "fma(3,x0,(x1+x3))"),
        ((3, 1), "fma(3,x0,x1)"),
        ((3, -1), "fma(3,x0,-x1)"),
        ((3, -2), "fma(-2,x1,3*x0)"),
        ((0, -2), "-2*x1"),
        ((0, -1), "-x1"),
        ((Fraction(1, 2), 0, 1), "fma(0.5,x0,x2)"),
    ],
)
def test_order_of_evaluation(coefficients: tuple[int, ...], text: str) -> None:
    assert evaluate_row(coefficients, inputs(len(coefficients)), RecordingOps()).text == text


def test_coefficients_are_rounded_to_float32() -> None:
    text = evaluate_row((Fraction(1, 3), 1), inputs(2), RecordingOps())
    third = struct.unpack("f", struct.pack("f", 1 / 3))[0]
    assert text.value == Fraction(third) * Fraction(1, 7) + Fraction(4, 7)


@pytest.mark.parametrize("tile", [2, 3, 4, 5, 6])
def test_no_negation_and_no_bare_product_in_the_transforms(tile: int) -> None:
    algorithm = winograd(tile)
    ops = RecordingOps()
    for row in integer_matrix(algorithm.b_t).rows:
        assert not evaluate_row(row, inputs(len(row)), ops).product
    assert "neg" not in ops.calls
    for row in algorithm.a_t:
        assert not evaluate_row(row, inputs(len(row)), RecordingOps()).product


@pytest.mark.parametrize(
    ("tile", "points", "count"),
    [(2, "best", (4, 4)), (3, "best", (10, 9)), (4, "best", (12, 12)), (4, "lavin", (12, 10)),
     (5, "best", (21, 17)), (6, "best", (24, 20))],
)  # fmt: skip
def test_operations_of_the_transforms(tile: int, points: str, count: tuple[int, int]) -> None:
    algorithm = winograd(tile, points)
    found = []
    for matrix in (unit_matrix(algorithm.b_t).rows, algorithm.a_t):
        ops, terms = RecordingOps(), inputs(len(matrix[0]))
        for row, result in zip(matrix, evaluate_rows(matrix, terms, ops), strict=True):
            exact = [c * x.value for c, x in zip(row, terms, strict=True)]
            # Coefficients are rounded to float32, and so are their ratios.
            assert abs(result.value - sum(exact)) <= Fraction(1, 2**22) * sum(map(abs, exact))
            assert not result.product
        assert "neg" not in ops.calls
        found.append(len(ops.texts))
    assert tuple(found) == count


def test_columns_that_differ_in_signs_are_summed_first() -> None:
    matrix = as_matrix([[1, 1, 1, 0], [0, 2, -2, 0], [0, 4, 4, 1]])
    found = evaluate_rows(matrix, inputs(4), RecordingOps())
    texts = ["(x0+(x1+x2))", "2*(x1-x2)", "fma(4,(x1+x2),x3)"]
    assert [result.text for result in found] == texts


def test_columns_that_are_equal_or_of_other_sizes_are_not() -> None:
    matrix = as_matrix([[1, 1, 2, -2], [1, 1, 3, 2]])
    found = [each.text for each in evaluate_rows(matrix, inputs(4), RecordingOps())]
    assert found == [evaluate_row(row, inputs(4), RecordingOps()).text for row in matrix]


@pytest.mark.parametrize("points", ["best", "lavin", "complex"])
@pytest.mark.parametrize("tile", [2, 3, 4, 6])
def test_rows_with_ones_are_the_matrix(tile: int, points: str) -> None:
    if (tile, points) in ((2, "complex"), (4, "complex")):
        pytest.skip("there are no such points")
    matrix = winograd(tile, points).b_t
    found = unit_matrix(matrix)
    for row, scale, entries in zip(matrix, found.row_scale, found.rows, strict=True):
        assert tuple(scale * entry for entry in entries) == row
        first = next(half for half in (entries[::2], entries[1::2]) if any(half))
        assert 1 in map(abs, first)


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(AlgorithmError, match="all coefficients of a transform row are zero"):
        evaluate_row((0, 0), inputs(2), RecordingOps())
    with pytest.raises(AlgorithmError, match="2 coefficients has 3 inputs"):
        evaluate_row((1, 1), inputs(3), RecordingOps())
    with pytest.raises(AlgorithmError, match="row 1 of the matrix is zero"):
        integer_matrix(as_matrix([[1, 2], [0, 0]]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(
        st.fractions(min_value=-4, max_value=4, max_denominator=5),
        min_size=5,
        max_size=5,
        unique=True,
    )
)
def test_integer_rows_times_row_scale_are_the_matrix(points: list[Fraction]) -> None:
    algorithm = toom_cook(4, 3, points)
    integers = integer_matrix(algorithm.b_t)
    for row, scale, exact in zip(integers.rows, integers.row_scale, algorithm.b_t, strict=True):
        assert tuple(scale * entry for entry in row) == exact
        assert np.gcd.reduce(row) == 1


def test_integer_rows_of_the_best_points() -> None:
    integers = integer_matrix(winograd(4, "best").b_t)
    assert integers.rows == (
        (36, 0, -97, 0, 36, 0),
        (0, 18, 27, -8, -12, 0),
        (0, -18, 27, 8, -12, 0),
        (0, 12, 8, -27, -18, 0),
        (0, -12, 8, 27, -18, 0),
        (0, 36, 0, -97, 0, 36),
    )
    assert integers.largest == 97
    assert integers.row_scale == tuple(
        map(Fraction, ("1/36", "27/520", "27/520", "-4/585", "-4/585", "1/36"))
    )
