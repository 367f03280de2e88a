"""Transforms of precision "full": every stage is an int8 tensor with steps of its own.

A step is shared where the next pass sums: along one axis of the tile, by one channel
(``steps="channel"``) or a group of them (``steps="axis"``), or over all of a group's tile
(``steps="tile"``). A step a channel is the most accurate, and the cheapest where vectors hold
channels: the largest magnitudes are those of whole vectors, and none is looked for within one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ..quantization.scheme import SHARED_AXES, Axis
from .arithmetic import Steps, absolute_bits, float32, integer_transform, pick, steps_of
from .workload import WinogradWorkload

Index = Sequence[Any]


def input_transform(work: WinogradWorkload, tile: te.Tensor) -> te.Tensor:
    """B^T d B: (z, y, x, g, i, j, s) float32 to (z, y, x, g, e, v, s), through two int8 tensors."""
    row_matrix, row_scale = _input_matrix(work.scheme.row_axis)
    column_matrix, column_scale = _input_matrix(work.scheme.column_axis)
    over_rows, over_columns = _kept_axes(work)

    # The first pass sums over i: a column j of the tile may have a step of its own.
    columns = _quantize("d", tile, over_rows)
    sums = integer_transform("d_sums", columns.tensor, row_matrix, axis=4)
    first = _scaled("input_rows", sums, lambda at: columns.step(at) * pick(row_scale, at[4]))
    # The second pass sums over j: a row e may.
    rows = _quantize("rows", first, over_columns)
    sums = integer_transform("rows_sums", rows.tensor, column_matrix, axis=5)
    return _scaled("input_taps", sums, lambda at: rows.step(at) * pick(column_scale, at[5]))


def output_transform(work: WinogradWorkload, m: te.Tensor) -> te.Tensor:
    """A^T M A: (e, v, z, y, x, k) float32 to (z, y, x, a, b, k), through two int8 tensors."""
    row_matrix, row_step = _output_matrix(work.scheme.row_axis)
    column_matrix, column_step = _output_matrix(work.scheme.column_axis)
    over_rows, over_columns = _kept_axes(work)
    size = work.out_group_size

    def grouped(z: Any, y: Any, x: Any, h: Any, e: Any, v: Any, s: Any) -> Any:
        # Past the last channel its value stands again: it changes no maximum and is not read.
        return m[e, v, z, y, x, tirx.min(h * size + s, work.packed_channels - 1)]

    shape = (*work.tile_shape, work.out_groups, *work.scheme.products, size)
    values = te.compute(shape, grouped, name="M_grouped")
    # The first pass sums over e: a column v may have a step of its own.
    columns = _quantize("M", values, over_rows)
    sums = integer_transform("M_sums", columns.tensor, row_matrix, axis=4)
    first = _scaled("output_rows", sums, lambda at: columns.step(at) * row_step)
    # The second pass sums over v: a row a may.
    rows = _quantize("A", first, over_columns)
    sums = integer_transform("A_sums", rows.tensor, column_matrix, axis=5)
    values = _scaled("Y_grouped", sums, lambda at: rows.step(at) * column_step)
    return te.compute(
        (*work.tile_shape, *work.scheme.output_tile, work.packed_channels),
        lambda z, y, x, a, b, k: values[z, y, x, k // size, a, b, k % size],
        name="Y",
    )


def _input_matrix(axis: Axis) -> tuple[Sequence[Sequence[int]], list[Any]]:
    """Integer rows of B^T, and their float32 scales."""
    scales = axis.input_row_scale.astype(np.float32)
    rows = [[int(entry) for entry in row] for row in axis.input_matrix.rows]
    return rows, [float32(scale) for scale in scales]


def _output_matrix(axis: Axis) -> tuple[list[list[int]], Any]:
    """Integer rows of A^T S_A, and their float32 step."""
    integers, step = axis.output_integers
    return [[int(value) for value in row] for row in integers], float32(step)


def _kept_axes(work: WinogradWorkload) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of (z, y, x, group, row, column, channel) with steps of their own, for both passes."""
    # The scheme says which of (tile, row, column, group, channel) share one.
    place = {1: 4, 2: 5, 4: 6}
    first, second = (
        tuple(axis for axis in range(7) if axis not in {place[shared] for shared in axes})
        for axes in SHARED_AXES[work.scheme.steps]
    )
    return first, second


@dataclass(frozen=True)
class _Quantized:
    """An int8 tensor, its steps, and the axes along which they differ."""

    tensor: te.Tensor
    steps: Steps
    kept: tuple[int, ...]

    def step(self, index: Index) -> Any:
        """The step of the tensor's value at index."""
        return self.steps.step(*(index[axis] for axis in self.kept))


def _quantize(name: str, source: te.Tensor, kept: tuple[int, ...]) -> _Quantized:
    """Quantize to int8 with a step along the kept axes, shared along the others."""
    shape = source.shape
    shared = [axis for axis in range(len(shape)) if axis not in kept]
    reduced = [te.reduce_axis((0, shape[axis]), f"r{axis}") for axis in shared]

    def largest(*index: Any) -> Any:
        at = dict(zip((*kept, *shared), (*index, *reduced), strict=True))
        value = source(*(at[axis] for axis in range(len(shape))))
        return te.max(absolute_bits(value), axis=reduced)

    amax = te.compute([shape[axis] for axis in kept], largest, name=f"{name}_amax")
    steps = steps_of(name, amax)
    tensor = te.compute(
        shape,
        lambda *at: steps.quantize(source(*at), [at[axis] for axis in kept]).astype("int8"),
        name=f"{name}_quantized",
    )
    return _Quantized(tensor, steps, kept)


def _scaled(name: str, sums: te.Tensor, factor: Callable[[Index], Any]) -> te.Tensor:
    """Integers times a float32 factor."""
    return te.compute(sums.shape, lambda *at: sums(*at).astype("float32") * factor(at), name=name)
