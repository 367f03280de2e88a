"""The schedule of the Winograd convolution that all CPUs share; an ISA gives it its numbers.

One parallel task computes a block of tiles from the image to the result:

    for a block of tiles, in parallel:
        for each tile and input group: cut, transform, quantize       -> V of the block
        for each panel of output channels:
            for each tap: integer products, scaled and added          -> M of the block and panel
            for each tile: output transform, epilogue, result

so that V (n * n * tiles * channels integers) and M (n * n * tiles * panel floats) stay in the L2
cache and no layer ever lies whole in the Winograd domain. ``CpuBlocking`` chooses the sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import s_tir, tirx

from .amax import amax_intrinsic

if TYPE_CHECKING:
    from ..topi.winograd import WinogradWorkload


@dataclass(frozen=True)
class CpuBlocking:
    """The free choices of the schedule.

    Attributes
    ----------
    lanes : float32 lanes of a vector register.
    dot_lanes, dot_reduce : shape of the dot product.
    register_tiles, register_vectors : accumulators of the integer product, tiles by at most so many
        vectors of output channels; their product, the vectors of U and a broadcast of V must fit
        the register file.
    intrinsic : the tensor intrinsic of the dot product, or None to leave it to the compiler.
    l2_bytes : what V and M of one block may occupy.
    """

    lanes: int
    dot_lanes: int
    dot_reduce: int
    register_tiles: int
    register_vectors: int
    intrinsic: str | None
    l2_bytes: int

    def vectors(self, packed_channels: int) -> int:
        """Vectors of output channels in a panel: the most that divide the channels."""
        available = packed_channels // self.dot_lanes
        return max(v for v in range(1, self.register_vectors + 1) if available % v == 0)

    def rows(self, block: tuple[int, int]) -> int:
        """Tiles of an accumulator block: the most that walk a block of tiles without a remainder."""
        tiles, columns = math.prod(block), block[1]
        return max(
            rows
            for rows in range(1, self.register_tiles + 1)
            if tiles % rows == 0 and (columns % rows == 0 or rows % columns == 0)
        )

    def tile_block(self, work: WinogradWorkload, threads: int) -> tuple[int, int]:
        """Tile rows and columns that one task computes.

        They fit ``l2_bytes``, fill the accumulators, and leave no thread idle in the last round.
        """
        taps = work.scheme.algorithm.n ** 2
        activation = np.dtype(work.dot.activation_dtype).itemsize
        panel = self.panel(work)
        bytes_a_tile = taps * (work.groups * work.group_size * activation + 4 * panel)
        most = max(self.register_tiles, self.l2_bytes // bytes_a_tile)
        candidates = [
            (rows, columns)
            for rows in range(1, min(work.tile_rows, most) + 1)
            for columns in range(1, min(work.tile_columns, most // rows) + 1)
        ]

        def cost(block: tuple[int, int]) -> float:
            rows, columns = block
            tasks = work.batch * math.ceil(work.tile_rows / rows)
            tasks *= math.ceil(work.tile_columns / columns)
            # A row of accumulators costs its own load, a block the streaming of U.
            one = rows * columns * (1 + 1 / self.rows(block)) + _BLOCK_OVERHEAD_TILES
            return math.ceil(tasks / threads) * one

        return min(candidates, key=cost)

    def panel(self, work: WinogradWorkload) -> int:
        """Output channels whose M lies in the cache together."""
        return self.vectors(work.packed_channels) * self.dot_lanes


_BLOCK_OVERHEAD_TILES = 2.0


def schedule_winograd(function: tirx.PrimFunc, blocking: CpuBlocking) -> tirx.PrimFunc:
    """Schedule a Winograd convolution, with whatever is fused behind it, for a CPU."""
    sch = s_tir.Schedule(function)
    output = sch.get_sblock("output")
    annotations = sch.get(output).annotations
    block = tuple(int(edge) for edge in annotations["wq.block"])
    precision = str(annotations["wq.precision"])
    inline_epilogue(sch, output)

    panel = blocking.vectors(_extent(sch, "M", -1)) * blocking.dot_lanes
    blocks, panels, tile = _block_output(sch, output, _extent(sch, "Y", -2), block, panel)
    sch.parallel(blocks)
    _OUTPUT_TRANSFORMS[precision](sch, blocking, tile)
    for name in ("M", "products"):
        _compute_at(sch, sch.get_sblock(name), panels)
    _INPUT_TRANSFORMS[precision](sch, blocking, blocks)
    # Last: once tensorized, a block's producers can no longer be moved.
    _schedule_products(sch, blocking, blocking.rows(block))
    return sch.mod["main"]


def inline_epilogue(sch: s_tir.Schedule, output: Any) -> Any:
    """Move the elementwise operators behind a block into it."""
    consumers = sch.get_consumers(output)
    while consumers:
        inner = [block for block in consumers if sch.get_consumers(block)]
        for block in inner:
            sch.compute_inline(block)
        if not inner:
            (last,) = consumers
            sch.reverse_compute_inline(last)
        consumers = sch.get_consumers(output)
    return output


def _extent(sch: s_tir.Schedule, block: str, axis: int) -> int:
    return int(sch.get(sch.get_sblock(block)).writes[0].source.shape[axis])


def _compute_at(sch: s_tir.Schedule, block: Any, loop: Any) -> None:
    sch.compute_at(block, loop, preserve_unit_loops=True)


def _block_output(
    sch: s_tir.Schedule, output: Any, edge: int, block: tuple[int, ...], panel: int
) -> tuple[Any, Any, Any]:
    """Walk the image in blocks of tiles; returns the loops over blocks, panels and tiles."""
    image, height, width, channels = sch.get_loops(output)
    block_row, row, row_in = sch.split(height, [None, block[0], edge])
    block_column, column, column_in = sch.split(width, [None, block[1], edge])
    panels, channel = sch.split(channels, [None, panel])
    sch.reorder(image, block_row, block_column, panels, row, column, row_in, column_in, channel)
    return sch.fuse(image, block_row, block_column), panels, sch.fuse(row, column)


def _vectorize(sch: s_tir.Schedule, loop: Any, lanes: int) -> None:
    """Vectorize a loop by the most lanes that divide it; a loop too odd stays scalar."""
    extent = int(sch.get(loop).extent)
    width = math.gcd(extent, lanes)
    if width > 1:
        sch.vectorize(sch.split(loop, [None, width])[1])


def _schedule_output_hadamard(sch: s_tir.Schedule, blocking: CpuBlocking, tile: Any) -> None:
    """Budget: a vector of channels at a time; n * n of M pass through n registers a column."""
    output = sch.get_sblock("output")
    row, column, channel = sch.get_loops(output)[-3:]
    outer, lanes = sch.split(channel, [None, blocking.lanes])
    sch.reorder(outer, row, column, lanes)
    sch.vectorize(lanes)
    y = sch.get_sblock("Y")
    rows = sch.get_sblock("output_rows")
    _compute_at(sch, y, outer)
    _compute_at(sch, rows, outer)
    for block in (y, rows):
        _unroll_and_vectorize(sch, block)


def _unroll_and_vectorize(sch: s_tir.Schedule, block: Any) -> None:
    """Vectorize a block's innermost loop, as wide as a vector, and unroll the two around it."""
    *_, outer, inner, lane = sch.get_loops(block)
    sch.unroll(outer)
    sch.unroll(inner)
    sch.vectorize(lane)


def _schedule_products(sch: s_tir.Schedule, blocking: CpuBlocking, rows: int) -> None:
    """Budget: rows x vectors accumulators of int32 stay in registers over a group."""
    m = sch.get_sblock("M")
    e, v, image, row, column, k, g = sch.get_loops(m)[-7:]
    outer, p = sch.split(sch.fuse(image, row, column), [None, rows])
    vector, lane = sch.split(k, [None, blocking.dot_lanes])
    sch.reorder(e, v, outer, g, p, vector, lane)
    products = sch.get_sblock("products")
    _compute_at(sch, products, g)
    for loop in (p, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
    _unroll_and_vectorize(sch, sch.decompose_reduction(m, g))

    image, row, column, _, k, s = sch.get_loops(products)[-6:]
    p = sch.fuse(image, row, column)
    vector, lane = sch.split(k, [None, blocking.dot_lanes])
    step, pair = sch.split(s, [None, blocking.dot_reduce])
    sch.reorder(step, p, vector, lane, pair)
    for loop in (p, vector):
        sch.unroll(loop)
    _unroll_and_vectorize(sch, sch.decompose_reduction(products, step))
    if blocking.intrinsic:
        sch.tensorize(lane, blocking.intrinsic)


def _tensorize_amax(sch: s_tir.Schedule, amax: Any) -> None:
    """Reduce the innermost loop, over a group's channels, as one vector."""
    channels = sch.get_loops(amax)[-1]
    count = int(sch.get(channels).extent)
    sch.decompose_reduction(amax, channels)
    sch.tensorize(channels, amax_intrinsic(count))


def _schedule_input_hadamard(sch: s_tir.Schedule, blocking: CpuBlocking, blocks: Any) -> None:
    """Budget: one tile and group at a time; tile, rows and taps, 3 * n * n * group floats, in L1."""
    v, step, inverse, amax, taps, rows, tile = (
        sch.get_sblock(name)
        for name in ("V", "V_step", "V_inverse", "V_amax", "input_taps", "input_rows", "tile")
    )
    for block in (v, step, inverse, amax, taps):
        _compute_at(sch, block, blocks)
    group = sch.get_loops(taps)[-4]
    for block in (rows, tile):
        _compute_at(sch, block, group)
    for block in (amax, step, inverse, v):
        sch.reverse_compute_at(block, group, preserve_unit_loops=True)
    for block in (taps, rows):
        e, j, s = sch.get_loops(block)[-3:]
        s, lane = sch.split(s, [None, blocking.lanes])
        sch.reorder(s, e, j, lane)
        sch.unroll(e)
        sch.unroll(j)
        sch.vectorize(lane)
    for block in (tile, v):
        _vectorize(sch, sch.get_loops(block)[-1], blocking.lanes)
    for block in (step, inverse):
        sch.vectorize(sch.fuse(*sch.get_loops(block)[-2:]))
    _tensorize_amax(sch, amax)


_OUTPUT_TRANSFORMS = {"hadamard": _schedule_output_hadamard}
_INPUT_TRANSFORMS = {"hadamard": _schedule_input_hadamard}
