"""Transforms of precision "hadamard": float32 on both sides of the integer product."""

from __future__ import annotations

from tvm import te

from .arithmetic import transform
from .workload import WinogradWorkload


def input_transform(work: WinogradWorkload, tile: te.Tensor) -> te.Tensor:
    """B^T d B in float32: (z, y, x, g, i, j, s) to (z, y, x, g, e, v, s)."""
    scheme = work.scheme
    first = transform("input_rows", tile, scheme.row_axis.input_matrix.rows, axis=4)
    return transform("input_taps", first, scheme.column_axis.input_matrix.rows, axis=5)


def output_transform(work: WinogradWorkload, m: te.Tensor) -> te.Tensor:
    """A^T M A in float32: (e, v, z, y, x, k) to (z, y, x, a, b, k)."""
    rows, columns = work.scheme.row_axis, work.scheme.column_axis
    first = transform(
        "output_rows", m, rows.output_matrix.tolist(), axis=0, order=(3, 4, 0, 1, 2, 5)
    )
    return transform("Y", first, columns.output_matrix.tolist(), axis=4)
