"""Transforms of precision "hadamard": float32 on both sides of the integer product."""

from __future__ import annotations

from tvm import te

from .arithmetic import transform
from .workload import WinogradWorkload


def input_transform(work: WinogradWorkload, tile: te.Tensor) -> te.Tensor:
    """B^T d B in float32: (z, y, x, g, i, j, s) to (z, y, x, g, e, v, s)."""
    rows = work.scheme.input_matrix.rows
    first = transform("input_rows", tile, rows, axis=4)
    return transform("input_taps", first, rows, axis=5)


def output_transform(work: WinogradWorkload, m: te.Tensor) -> te.Tensor:
    """A^T M A in float32: (e, v, z, y, x, k) to (z, y, x, a, b, k)."""
    matrix = work.scheme.output_matrix.tolist()
    first = transform("output_rows", m, matrix, axis=0, order=(3, 4, 0, 1, 2, 5))
    return transform("Y", first, matrix, axis=4)
