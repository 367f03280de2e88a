"""Products, inverses and compositions of exact matrices."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .bilinear import Matrix


def transposed(matrix: Matrix) -> Matrix:
    """Rows as columns."""
    return tuple(zip(*matrix, strict=True))


def product(left: Matrix, right: Matrix) -> Matrix:
    """``left @ right``."""
    columns = transposed(right)
    return tuple(
        tuple(
            sum((a * b for a, b in zip(row, column, strict=True)), Fraction(0))
            for column in columns
        )
        for row in left
    )


def block_diagonal(blocks: Sequence[Matrix]) -> Matrix:
    """Blocks along the diagonal, zeros elsewhere."""
    width = sum(len(block[0]) for block in blocks)
    rows: list[tuple[Fraction, ...]] = []
    before = 0
    for block in blocks:
        after = width - before - len(block[0])
        rows += [(*[Fraction(0)] * before, *row, *[Fraction(0)] * after) for row in block]
        before += len(block[0])
    return tuple(rows)


def inverse(matrix: Matrix) -> Matrix:
    """Inverse of a regular matrix, by Gauss-Jordan elimination."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column] != 0)
        rows[column], rows[pivot] = rows[pivot], rows[column]
        divisor = rows[column][column]
        rows[column] = [entry / divisor for entry in rows[column]]
        for i in range(size):
            factor = rows[i][column]
            if i != column and factor != 0:
                rows[i] = [
                    entry - factor * above
                    for entry, above in zip(rows[i], rows[column], strict=True)
                ]
    return tuple(tuple(row[size:]) for row in rows)
