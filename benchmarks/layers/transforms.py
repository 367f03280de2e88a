"""Operations that the transforms of Winograd and SFC convolutions take, for floors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from wqtvm.fastconv import Matrix, bilinear_algorithm, evaluate_rows, unit_matrix

from .layers import Layer


class _Counted:
    """Operations on names of values: each distinct one counts once, as compilers compute it."""

    def __init__(self) -> None:
        self.seen: set[tuple[object, ...]] = set()

    def _count(self, *operation: object) -> object:
        self.seen.add(operation)
        return operation

    def add(self, a: object, b: object, /) -> object:
        return self._count("add", a, b)

    def sub(self, a: object, b: object, /) -> object:
        return self._count("sub", a, b)

    def neg(self, a: object, /) -> object:
        return self._count("neg", a)

    def mul(self, coefficient: float, a: object, /) -> object:
        return self._count("mul", coefficient, a)

    def fma(self, coefficient: float, a: object, accumulator: object, /) -> object:
        return self._count("fma", coefficient, a, accumulator)


def transform_operations(layer: Layer, family: str, tile: int, points: str | None = None) -> int:
    """Float32 operations of the input and output transforms of all tiles and channels.

    Of square tiles, see ``bilinear_algorithm``; an addition, a multiplication and a fused
    multiply-add are one each.
    """
    inputs, outputs = _a_tile(family, tile, points)
    tiles = layer.batch * math.ceil(layer.height / tile) * math.ceil(layer.width / tile)
    return tiles * (layer.in_channels * inputs + layer.out_channels * outputs)


@lru_cache(maxsize=16)
def _a_tile(family: str, tile: int, points: str | None) -> tuple[int, int]:
    algorithm = bilinear_algorithm(family, tile, points)
    b_t, a_t = (_operations(matrix) for matrix in (algorithm.b_t, algorithm.a_t))
    return b_t * (algorithm.t + algorithm.n), a_t * (algorithm.n + algorithm.m)


def _operations(matrix: Matrix) -> int:
    rows: Sequence[Sequence[int | Fraction]] = unit_matrix(matrix).rows
    ops = _Counted()
    evaluate_rows(rows, list(range(len(rows[0]))), ops)
    return len(ops.seen)
