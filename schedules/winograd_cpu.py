"""The schedule of the Winograd convolution that all CPUs share; an ISA gives it its numbers.

One parallel task computes a block of tiles from the image to the result:

    for a block of tiles, in parallel:
        for each tile and input group: cut, transform, quantize       -> V of the block
        for each panel of output channels:
            for each tap: integer products, scaled and added          -> M of the block and panel
            for each tile: output transform, epilogue, result

so that V (taps * tiles * channels integers) and M (taps * tiles * panel floats) stay in the L2
cache and no layer ever lies whole in the Winograd domain. ``CpuBlocking`` chooses the sizes.

U is read once a block. Where it comes from far, threads share large blocks, one after the other:
tiles are transformed in parallel, and after that panels are computed in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import s_tir, tirx
from tvm.tirx import IterVar

from .expand import expand_functions
from .inner_tiles import read_inner_tiles
from .loops import inline_epilogue, largest_of_channels, unroll_and_vectorize
from .prefetch import TILES, VECTORS, fetch_next_tile
from .product_kernel import BLOCKS, MARK, write_products
from .quantize_kernel import LANES, write_quantization
from .tile_product_kernel import write_tile_products
from .winograd_blocking import CpuBlocking

_PAGE, _LINE = 4096, 64  # bytes


def schedule_winograd(function: tirx.PrimFunc, blocking: CpuBlocking) -> tirx.PrimFunc:
    """Schedule a Winograd convolution, with whatever is fused behind it, for a CPU."""
    sch = s_tir.Schedule(function)
    output = sch.get_sblock("output")
    annotations = sch.get(output).annotations
    tile_rows, tile_columns = (int(edge) for edge in annotations["wq.block"])
    block = (tile_rows, tile_columns)
    choices = annotations.get("wq.choices", {})
    blocking = blocking.chosen({str(name): int(value) for name, value in choices.items()})
    precision = str(annotations["wq.precision"])
    inline_epilogue(sch, output)
    for name in _INLINED[precision]:
        sch.compute_inline(sch.get_sblock(name))

    group = int(annotations["wq.out_group_size"])
    panel = blocking.panel(precision, _extent(sch, "M", -1), group)
    edges = tuple(int(edge) for edge in annotations["wq.output_tile"])
    blocks, panels, tile = _block_output(sch, output, edges, block, panel)
    sch.parallel(panels if blocking.by_panels else blocks)
    _place_output_transform(sch, blocking, precision, group, tile)
    for name in ("M", "products"):
        _compute_at(sch, name, panels)
    _place_input_transform(sch, precision, blocks, blocking.by_panels)
    # Taps that lie a power of two apart would share a few sets of the caches.
    for name in ("V", "M"):
        item = np.dtype(str(sch.get(sch.get_sblock(name)).writes[0].source.dtype)).itemsize
        sch.storage_align(sch.get_sblock(name), 0, 1, _PAGE // item, _LINE // item)
    for name in (*_OUTPUT_STAGES[precision], *_INPUT_STAGES[precision], *_TAP_STAGES):
        _STAGES[name](sch, blocking, sch.get_sblock(name))
    # Last: once tensorized, a block's producers can no longer be moved.
    rows, vectors = blocking.rows(block), blocking.vectors(panel)
    _schedule_products(sch, blocking, rows, vectors)
    function = expand_functions(sch.mod["main"])  # those of the epilogue
    if precision == "hadamard":
        function = read_inner_tiles(function)
    if blocking.instructions is None:
        return function
    lanes, reduce = blocking.dot_lanes, blocking.dot_reduce
    if blocking.tiles is None:
        function = write_products(
            function, rows, vectors, lanes, reduce, blocking.instructions, blocking.fetch_weights,
            blocking.unroll_steps,
        )  # fmt: skip
    else:
        function = write_tile_products(
            function, rows, vectors, lanes, reduce, blocking.tiles, blocking.fetch_weights
        )
    return write_quantization(fetch_next_tile(function), blocking.instructions)


def _extent(sch: s_tir.Schedule, block: str, axis: int) -> int:
    return int(sch.get(sch.get_sblock(block)).writes[0].source.shape[axis])


def _compute_at(sch: s_tir.Schedule, name: str, loop: Any) -> None:
    sch.compute_at(sch.get_sblock(name), loop, preserve_unit_loops=True)


def _block_output(
    sch: s_tir.Schedule,
    output: Any,
    edges: tuple[int, ...],
    block: tuple[int, ...],
    panel: int,
) -> tuple[Any, Any, Any]:
    """Walk the image in blocks of tiles; returns the loops over blocks, panels and tiles."""
    image, height, width, channels = sch.get_loops(output)
    block_row, row, row_in = sch.split(height, [None, block[0], edges[0]])
    block_column, column, column_in = sch.split(width, [None, block[1], edges[1]])
    panels, channel = sch.split(channels, [None, panel])
    sch.reorder(image, block_row, block_column, panels, row, column, row_in, column_in, channel)
    return sch.fuse(image, block_row, block_column), panels, sch.fuse(row, column)


def _place_output_transform(
    sch: s_tir.Schedule, blocking: CpuBlocking, precision: str, group: int, tile: Any
) -> None:
    """Compute a tile's output transform where its results are stored."""
    output = sch.get_sblock("output")
    row, column, channel = sch.get_loops(output)[-3:]
    outer, lanes = sch.split(channel, [None, blocking.lanes])
    sch.reorder(outer, row, column, lanes)
    sch.vectorize(lanes)
    # A vector of channels is independent of the next, unless groups that share steps are others.
    loop = outer if precision == "hadamard" or blocking.lanes == group else tile
    if blocking.instructions is not None and precision == "hadamard" and blocking.fetch_tiles:
        sch.annotate(tile, TILES, True)
        sch.annotate(outer, VECTORS, True)
    for name in _OUTPUT_STAGES[precision]:
        _compute_at(sch, name, loop)


def _place_input_transform(
    sch: s_tir.Schedule, precision: str, blocks: Any, in_parallel: bool
) -> None:
    """Compute the input transform of one tile and group at a time, within a block of tiles."""
    for name in (*reversed(_TAP_STAGES), "input_taps"):
        _compute_at(sch, name, blocks)
    group = sch.get_loops(sch.get_sblock("input_taps"))[-4]
    for name in _INPUT_STAGES[precision][1:]:
        _compute_at(sch, name, group)
    for name in _TAP_STAGES:
        sch.reverse_compute_at(sch.get_sblock(name), group, preserve_unit_loops=True)
    if in_parallel:
        sch.parallel(sch.fuse(*sch.get_loops(sch.get_sblock("input_taps"))[1:-4]))


def _schedule_products(
    sch: s_tir.Schedule, blocking: CpuBlocking, rows: tuple[int, int], vectors: int
) -> None:
    """Budget: tiles x vectors accumulators of int32 stay in registers over a group."""
    m = sch.get_sblock("M")
    e, v, image, row, column, k, g = sch.get_loops(m)[-7:]
    row, row_in = sch.split(row, [None, rows[0]])
    column, column_in = sch.split(column, [None, rows[1]])
    k, vector, lane = sch.split(k, [None, vectors, blocking.dot_lanes])
    sch.reorder(e, v, k, image, row, column, g, row_in, column_in, vector, lane)
    _compute_at(sch, "products", g)
    if blocking.instructions is not None:
        sch.annotate(g, MARK, True)
        for loop in (image, row, column):
            sch.annotate(loop, BLOCKS, True)
        return
    unroll_and_vectorize(sch, (row_in, column_in, vector, lane))
    init = sch.decompose_reduction(m, g)
    unroll_and_vectorize(sch, sch.get_loops(init)[-4:])

    products = sch.get_sblock("products")
    image, row, column, _, k, s = sch.get_loops(products)[-6:]
    vector, lane = sch.split(k, [None, blocking.dot_lanes])
    step, pair = sch.split(s, [None, blocking.dot_reduce])
    sch.reorder(step, image, row, column, vector, lane, pair)
    for loop in (row, column, vector):
        sch.unroll(loop)
    init = sch.decompose_reduction(products, step)
    unroll_and_vectorize(sch, sch.get_loops(init)[-4:])
    if blocking.intrinsic:
        sch.tensorize(lane, blocking.intrinsic)


def _matrix_pass(sch: s_tir.Schedule, blocking: CpuBlocking, block: Any) -> None:
    """Budget: a vector of channels at a time; unrolled, each row of the matrix is straight code."""
    row, column, channel = sch.get_loops(block)[-3:]
    lanes = math.gcd(int(sch.get(channel).extent), blocking.lanes)
    outer, lane = sch.split(channel, [None, lanes])
    sch.reorder(outer, row, column, lane)
    unroll_and_vectorize(sch, (row, column, lane))


def _elementwise(sch: s_tir.Schedule, blocking: CpuBlocking, block: Any) -> None:
    """Vectorize the channels by the most lanes that divide them."""
    channel = sch.get_loops(block)[-1]
    lanes = math.gcd(int(sch.get(channel).extent), blocking.lanes)
    if lanes > 1:
        sch.vectorize(sch.split(channel, [None, lanes])[1])


def _quantized(sch: s_tir.Schedule, blocking: CpuBlocking, block: Any) -> None:
    """Where vectors are whole, mark their lanes for ``write_quantization``."""
    channel = sch.get_loops(block)[-1]
    if blocking.instructions is None or int(sch.get(channel).extent) % blocking.lanes:
        _elementwise(sch, blocking, block)
        return
    _, lane = sch.split(channel, [None, blocking.lanes])
    sch.annotate(lane, LANES, True)


def _largest(sch: s_tir.Schedule, blocking: CpuBlocking, block: Any) -> None:
    """Reduce the channels of a group as one vector; with a step a channel, keep vectors of them."""
    iterations = _iterations(sch, block)
    reduced = [loop for loop, kind in iterations if kind == IterVar.CommReduce]
    if _reduces_channels(sch, block):
        largest_of_channels(sch, block, reduced)
        return
    (along,) = reduced
    channel = [loop for loop, kind in iterations if kind != IterVar.CommReduce][-1]
    lanes = math.gcd(int(sch.get(channel).extent), blocking.lanes)
    outer, lane = sch.split(channel, [None, lanes])
    sch.reorder(outer, along, lane)
    sch.unroll(along)
    sch.vectorize(lane)
    init = sch.decompose_reduction(block, along)
    sch.vectorize(sch.get_loops(init)[-1])


def _reduces_channels(sch: s_tir.Schedule, block: Any) -> bool:
    """Whether a reduction runs over the last axis of what it reads."""
    body = sch.get(block)
    last = body.reads[0].region[-1].min
    return any(
        axis.iter_type == IterVar.CommReduce and last.same_as(axis.var) for axis in body.iter_vars
    )


def _iterations(sch: s_tir.Schedule, block: Any) -> list[tuple[Any, int]]:
    """The loops of a block, one for each of its axes, with the axes' kinds."""
    axes = sch.get(block).iter_vars
    loops = sch.get_loops(block)[-len(axes) :]
    return [(loop, axis.iter_type) for loop, axis in zip(loops, axes, strict=True)]


def _steps(sch: s_tir.Schedule, blocking: CpuBlocking, block: Any) -> None:
    """Divide as one vector: the steps of a group are few; steps of channels, as other channels."""
    last = sch.get_loops(block)[-1]
    if int(sch.get(last).extent) <= blocking.lanes:
        sch.vectorize(last)
    else:
        _elementwise(sch, blocking, block)


def _tap_steps(sch: s_tir.Schedule, blocking: CpuBlocking, block: Any) -> None:
    """Divide as one vector over the taps."""
    sch.vectorize(sch.fuse(*sch.get_loops(block)[-2:]))


# Stages in the order in which they are placed, from the last to the first, by precision.
_OUTPUT_STAGES = {
    "hadamard": ("Y", "output_rows"),
    "full": (
        "Y_grouped", "A_quantized", "A_inverse", "A_step", "A_amax",
        "output_rows", "M_quantized", "M_inverse", "M_step", "M_amax", "M_grouped",
    ),
}  # fmt: skip
_INPUT_STAGES = {
    "hadamard": ("input_taps", "input_rows", "tile"),
    "full": (
        "input_taps", "rows_quantized", "rows_inverse", "rows_step", "rows_amax",
        "input_rows", "d_quantized", "d_inverse", "d_step", "d_amax", "tile",
    ),
}  # fmt: skip
_TAP_STAGES = ("V_amax", "V_step", "V_inverse", "V")
_INLINED = {"hadamard": (), "full": ("d_sums", "rows_sums", "M_sums", "A_sums", "Y")}

_STAGES: dict[str, Callable[[s_tir.Schedule, CpuBlocking, Any], None]] = {
    **dict.fromkeys(("input_rows", "input_taps", "output_rows", "Y", "Y_grouped"), _matrix_pass),
    **dict.fromkeys(
        ("tile", "d_quantized", "rows_quantized", "M_quantized", "A_quantized", "M_grouped"),
        _elementwise,
    ),
    "V": _quantized,
    **dict.fromkeys(("V_amax", "d_amax", "rows_amax", "M_amax", "A_amax"), _largest),
    **dict.fromkeys(("V_step", "V_inverse"), _tap_steps),
    **dict.fromkeys(
        ("d_step", "d_inverse", "rows_step", "rows_inverse", "M_step", "M_inverse", "A_step",
         "A_inverse"),
        _steps,
    ),
}  # fmt: skip
