"""Transform rows: as integers or with many ones, and their one order of evaluation in float32.

Compilers turn a product that feeds an addition into a fused multiply-add whenever they like, which
changes the last bit. So no order here ever lets a bare product feed an addition: a coefficient
other than +-1 is always an explicit fma. Kernels and the numpy reference both call evaluate_rows,
hence agree to the bit on every ISA. What rows have in common is the same expression in each of
them, and computed once: by F(4,3) an input transform takes 12 operations a column, an output
transform 12.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

from ..errors import AlgorithmError
from .bilinear import Matrix

Value = TypeVar("Value")


@dataclass(frozen=True)
class RowMatrix:
    """A rational matrix as diag(row_scale) @ rows, exactly.

    Attributes
    ----------
    rows : the term of a row that evaluate_row starts with is positive, so that no row needs a
        negation of its result.
    row_scale : one rational per row, of either sign.
    """

    rows: tuple[tuple[int, ...], ...] | tuple[tuple[Fraction, ...], ...]
    row_scale: tuple[Fraction, ...]


@dataclass(frozen=True)
class IntegerMatrix(RowMatrix):
    """Rows of integers without a common divisor."""

    rows: tuple[tuple[int, ...], ...]

    @property
    def largest(self) -> int:
        """Largest absolute value of an entry."""
        return max(abs(entry) for row in self.rows for entry in row)


def integer_matrix(matrix: Matrix) -> IntegerMatrix:
    """Small integers and row scales with ``matrix == diag(row_scale) @ rows`` exactly.

    Raises
    ------
    AlgorithmError
        If a row is zero.
    """
    rows: list[tuple[int, ...]] = []
    scales: list[Fraction] = []
    for index, row in enumerate(matrix):
        if not any(row):
            raise AlgorithmError(f"row {index} of the matrix is zero; leave it out")
        denominator = math.lcm(*(entry.denominator for entry in row))
        integers = [int(entry * denominator) for entry in row]
        divisor = math.gcd(*integers) * _leading_sign(integers)
        rows.append(tuple(entry // divisor for entry in integers))
        scales.append(Fraction(divisor, denominator))
    return IntegerMatrix(tuple(rows), tuple(scales))


def unit_matrix(matrix: Matrix) -> RowMatrix:
    """Rows with as many terms +1 as there are of one size in the half that is evaluated first.

    Raises
    ------
    AlgorithmError
        If a row is zero.
    """
    integers = integer_matrix(matrix)
    units = [Fraction(_commonest(row)) for row in integers.rows]
    rows = tuple(
        tuple(entry / unit for entry in row) for row, unit in zip(integers.rows, units, strict=True)
    )
    scales = zip(integers.row_scale, units, strict=True)
    return RowMatrix(rows, tuple(scale * unit for scale, unit in scales))


def _commonest(row: Sequence[int]) -> int:
    """The first term of the commonest size, or else the least, of the first half that has any."""
    half = next(half for half in (row[::2], row[1::2]) if any(half))
    terms = [entry for entry in half if entry]
    sizes = [abs(entry) for entry in terms]
    return max(terms, key=lambda entry: (sizes.count(abs(entry)), -abs(entry)))


class RowOps(Protocol[Value]):
    """The float32 operations of a transform row; every result is rounded once."""

    def add(self, a: Value, b: Value, /) -> Value:
        """a + b."""

    def sub(self, a: Value, b: Value, /) -> Value:
        """a - b."""

    def neg(self, a: Value, /) -> Value:
        """-a."""

    def mul(self, coefficient: float, a: Value, /) -> Value:
        """coefficient * a."""

    def fma(self, coefficient: float, a: Value, accumulator: Value, /) -> Value:
        """coefficient * a + accumulator, rounded once."""


@dataclass(frozen=True)
class _Half:
    """Terms of one parity in the order of evaluation; sign times their sum is the half's value."""

    sign: int
    terms: tuple[tuple[float, int], ...]

    def folds_into(self, other: _Half) -> bool:
        """Whether it is a coefficient times a sum, or one term, to be added by one fma."""
        is_product = self.terms[0][0] != 1
        return is_product and (len(self.terms) == 1 or other.sign > 0)


def evaluate_row(
    coefficients: Sequence[float | Fraction], inputs: Sequence[Value], ops: RowOps[Value]
) -> Value:
    """Dot product of a transform row with inputs, in the one order that all kernels use.

    Terms of even and of odd input index form two halves, which the rows of points p and -p share
    but for a sign. In a half the terms with coefficient +-1 come first, by add and sub, then the
    others by fma, each by ascending index; the sign is taken out so that the first is positive.
    Beside another one, a half without +-1 is the coefficient of its first term times the rest, and
    joins by fma, the odd half if both are such, unless the other one would have to be negated.
    Coefficients are rounded to float32. Only a row with one single term, not +-1, returns a bare
    product.

    Raises
    ------
    AlgorithmError
        If the lengths differ, or all coefficients are zero.
    """
    if len(coefficients) != len(inputs):
        raise AlgorithmError(
            f"a row of {len(coefficients)} coefficients has {len(inputs)} inputs; give as many"
        )
    even, odd = _halves(coefficients)
    if not even.terms and not odd.terms:
        raise AlgorithmError("all coefficients of a transform row are zero; leave the row out")
    if not odd.terms:
        return _signed_half(even, inputs, ops)
    if not even.terms:
        return _signed_half(odd, inputs, ops)
    if odd.folds_into(even):
        return _fold(odd, _signed_half(even, inputs, ops), inputs, ops)
    if even.folds_into(odd):
        return _fold(even, _signed_half(odd, inputs, ops), inputs, ops)
    even_sum, odd_sum = _sum(even, inputs, ops), _sum(odd, inputs, ops)
    if even.sign == odd.sign:
        total = ops.add(even_sum, odd_sum)
        return total if even.sign > 0 else ops.neg(total)
    return ops.sub(even_sum, odd_sum) if even.sign > 0 else ops.sub(odd_sum, even_sum)


def evaluate_rows(
    matrix: Sequence[Sequence[float | Fraction]], inputs: Sequence[Value], ops: RowOps[Value]
) -> list[Value]:
    """All rows of a transform matrix times inputs, each by evaluate_row.

    Of two columns that are the same in every row but for a sign, such as those of points p and -p
    in A^T, the sum and the difference of their inputs are what the rows are evaluated on.

    Raises
    ------
    AlgorithmError
        As evaluate_row.
    """
    columns = list(zip(*matrix, strict=True))
    values, combined = list(inputs), columns.copy()
    for first, second in _pairs(columns):
        entries = list(zip(columns[first], columns[second], strict=True))
        combined[first] = tuple(a if a == b else 0 for a, b in entries)
        combined[second] = tuple(0 if a == b else a for a, b in entries)
        values[first] = ops.add(inputs[first], inputs[second])
        values[second] = ops.sub(inputs[first], inputs[second])
    return [evaluate_row(row, values, ops) for row in zip(*combined, strict=True)]


def _pairs(columns: Sequence[Sequence[float | Fraction]]) -> list[tuple[int, int]]:
    """Neighbouring columns that are the same but for signs: some differ, and some do not."""
    found: list[tuple[int, int]] = []
    for index in range(1, len(columns)):
        one, other = columns[index - 1], columns[index]
        is_free = not found or found[-1][1] < index - 1
        signs = {(a > 0) == (b > 0) for a, b in zip(one, other, strict=True) if a}
        is_alike = all(abs(a) == abs(b) for a, b in zip(one, other, strict=True))
        if is_free and is_alike and len(signs) == 2:
            found.append((index - 1, index))
    return found


def _halves(coefficients: Sequence[float | Fraction]) -> tuple[_Half, _Half]:
    rounded = [_float32(coefficient) for coefficient in coefficients]
    halves = []
    for parity in (0, 1):
        terms = [(c, i) for i, c in enumerate(rounded) if i % 2 == parity and c != 0]
        terms.sort(key=lambda term: abs(term[0]) != 1)  # stable: units first, indices ascend
        sign = -1 if terms and terms[0][0] < 0 else 1
        halves.append(_Half(sign, tuple((sign * c, i) for c, i in terms)))
    return halves[0], halves[1]


def _leading_sign(integers: Sequence[int]) -> int:
    even, odd = _halves(integers)
    return even.sign if even.terms else odd.sign


def _sum(half: _Half, inputs: Sequence[Value], ops: RowOps[Value]) -> Value:
    (first, index), *rest = half.terms
    total = inputs[index] if first == 1 else ops.mul(first, inputs[index])
    for coefficient, index in rest:
        if coefficient == 1:
            total = ops.add(total, inputs[index])
        elif coefficient == -1:
            total = ops.sub(total, inputs[index])
        else:
            total = ops.fma(coefficient, inputs[index], total)
    return total


def _signed_half(half: _Half, inputs: Sequence[Value], ops: RowOps[Value]) -> Value:
    (coefficient, index), *rest = half.terms
    if coefficient != 1 and not rest:
        return ops.mul(half.sign * coefficient, inputs[index])
    total = _sum(half, inputs, ops)
    return total if half.sign > 0 else ops.neg(total)


def _fold(product: _Half, other: Value, inputs: Sequence[Value], ops: RowOps[Value]) -> Value:
    coefficient = product.terms[0][0]
    rest = _Half(1, tuple((_float32(c / coefficient), index) for c, index in product.terms))
    return ops.fma(product.sign * coefficient, _sum(rest, inputs, ops), other)


def _float32(value: float | Fraction) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", float(value)))[0]
    return rounded
