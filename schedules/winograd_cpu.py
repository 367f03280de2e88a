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

What may be chosen, by the names of the fields of ``CpuBlocking``, and the tiles of a block, are the
knobs of a ``Space``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import s_tir, tirx
from tvm.tirx import IterVar

from .expand import expand_functions
from .instructions import Instructions, TileInstructions
from .loops import inline_epilogue, largest_of_channels, unroll_and_vectorize
from .prefetch import TILES, VECTORS, fetch_next_tile
from .product_kernel import BLOCKS, MARK, write_products
from .quantize_kernel import LANES, write_quantization
from .space import Point, Space, Value, divisions, with_default
from .tile_product_kernel import write_tile_products

if TYPE_CHECKING:
    from ..topi.workload import WinogradWorkload


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
    l2_bytes : what V and M of a block may occupy at their ease.
    instructions : of the ISA, for kernels that are written out; None to leave all to the compiler.
    tiles : of the ISA's two-dimensional registers, on which the integer product is then computed;
        None if it has none. An accumulator block of more than one tile row then spans its block of
        tiles, so that all its tiles lie at one distance.
    panel_blocks : accumulator blocks whose channels are a panel.
    by_panels : whether threads share a block's tiles, and then its panels, block after block.
    few_tiles : an accumulator block of no more tiles has as many vectors as may be chosen.
    fetch_weights, fetch_tiles : whether the next tap's U and the next tile's M are fetched ahead.
    """

    lanes: int
    dot_lanes: int
    dot_reduce: int
    register_tiles: int
    register_vectors: int
    intrinsic: str | None
    l2_bytes: int
    instructions: Instructions | None = None
    tiles: TileInstructions | None = None
    panel_blocks: int = 1
    by_panels: bool = False
    few_tiles: int = 0
    fetch_weights: bool = True
    fetch_tiles: bool = True

    def vectors(self, channels: int) -> int:
        """Vectors of output channels in an accumulator block: the most that divide a panel."""
        available = channels // self.dot_lanes
        return max(v for v in range(1, self.register_vectors + 1) if available % v == 0)

    def panel(self, precision: str, packed_channels: int, out_group_size: int) -> int:
        """Output channels whose M lies in the cache together; in ``full``, whole groups of them."""
        panel = self.vectors(packed_channels) * self.dot_lanes * self.panel_blocks
        if precision == "hadamard" or panel % out_group_size == 0:
            return panel
        panel = math.lcm(out_group_size, self.dot_lanes)
        return panel if packed_channels % panel == 0 else packed_channels

    def rows(self, block: tuple[int, int]) -> tuple[int, int]:
        """Tile rows and columns of an accumulator block: the most tiles that divide a block."""
        candidates = [
            (rows, columns)
            for rows in range(1, self.register_tiles + 1)
            for columns in range(1, self.register_tiles // rows + 1)
            if block[0] % rows == 0 and block[1] % columns == 0
            if self.tiles is None or rows == 1 or columns == block[1]
        ]
        return max(candidates, key=lambda shape: (math.prod(shape), shape[1]))

    def chosen(self, choices: Point) -> CpuBlocking:
        """The same with some fields chosen, by their names."""
        return replace(self, **choices)  # type: ignore[arg-type]

    def divided(
        self, work: WinogradWorkload, threads: int, point: Point | None = None
    ) -> WinogradWorkload:
        """The workload in the blocks of a point of its space, of the default one if None."""
        if point is None:
            block, choices = self._default(work, threads)
            return replace(work, block=block, choices=tuple(choices.items()))
        fields: dict[str, Any] = dict(point)
        return replace(work, block=fields.pop("block"), choices=_choices(fields))

    def space(self, work: WinogradWorkload, threads: int) -> Space:
        """What may be chosen about a layer that so many threads compute.

        ``registers`` are the tiles and vectors that an accumulator block has, not the most.
        """
        precision, channels = work.scheme.precision, work.packed_channels
        block, choices = self._default(work, threads)
        blocks = product(divisions(work.tile_rows), divisions(work.tile_columns))
        own = self.chosen(choices)
        vectors = own.vectors(own.panel(precision, channels, work.out_group_size))
        written, is_hadamard = self.instructions is not None, precision == "hadamard"
        default: Point = {
            "block": block,
            "registers": (math.prod(own.rows(block)), vectors),
            "panel_blocks": own.panel_blocks,
            "by_panels": int(own.by_panels),
            "fetch_weights": int(own.fetch_weights),
            "fetch_tiles": int(own.fetch_tiles),
        }
        registers = product((8, 16, 32), (1, 2)) if self.tiles else _REGISTERS[self.lanes]
        knobs: dict[str, tuple[Value, ...]] = {
            "block": with_default(blocks, block),
            "registers": with_default(registers, default["registers"]),
            "panel_blocks": (1, 2, 4) if is_hadamard else (1,),
            "by_panels": (0, 1),
            "fetch_weights": (0, 1) if written and self.tiles is None else (1,),
            "fetch_tiles": (0, 1) if written and is_hadamard else (1,),
        }

        def is_valid(point: Point) -> bool:
            fields: dict[str, Any] = dict(point)
            block = fields.pop("block")
            asked = self.chosen(dict(_choices(fields)))
            panel = asked.panel(precision, channels, work.out_group_size)
            most = _MOST_SHARED if asked.by_panels else _MOST
            return (
                channels % panel == 0
                and (asked.vectors(channels), asked.vectors(panel)) == (asked.register_vectors,) * 2
                and math.prod(asked.rows(block)) == asked.register_tiles
                and math.prod(block) * self._bytes_a_tile(work, panel) <= most * self.l2_bytes
            )

        return Space(knobs, default, lambda point: point == default or is_valid(point))

    def _default(
        self, work: WinogradWorkload, threads: int
    ) -> tuple[tuple[int, int], dict[str, int]]:
        """The block by default, and what else is chosen then, by the names of fields.

        Few tiles leave room for vectors of more channels: chains of products that hide each other's
        latency, and long runs of U, which the hardware foresees better than fetches do.
        """
        block, panel_blocks = self.tile_block(work, threads)
        choices = {"by_panels": 1, "panel_blocks": panel_blocks} if panel_blocks else {}
        tiles, available = math.prod(self.rows(block)), work.packed_channels // self.dot_lanes
        wide = [v for t, v in _REGISTERS[self.lanes] if t == tiles and available % v == 0]
        vectors = max([0, *wide])
        is_wider = vectors > self.vectors(work.packed_channels)
        if tiles > self.few_tiles or not is_wider or work.scheme.precision != "hadamard":
            return block, choices
        panels = available // vectors
        together = [
            n for n in (1, 2, 4)
            if panels % n == 0 and (not panel_blocks or panels // n % threads == 0)
        ]  # fmt: skip
        return block, choices | {
            "register_tiles": tiles, "register_vectors": vectors, "fetch_weights": 0,
            "panel_blocks": max([1, *together]),
        }  # fmt: skip

    def _bytes_a_tile(self, work: WinogradWorkload, panel: int) -> int:
        """What V and M of a tile take, of a panel's output channels."""
        activation = np.dtype(work.dot.activation_dtype).itemsize
        taps = math.prod(work.scheme.products)
        return taps * (work.groups * work.group_size * activation + 4 * panel)

    def tile_block(self, work: WinogradWorkload, threads: int) -> tuple[tuple[int, int], int]:
        """Tile rows and columns of a block by default, and ``panel_blocks`` where it is shared.

        Of blocks that are not, 0 ``panel_blocks``, each task has its own. Blocks fill the
        accumulators, leave no thread idle in the last round, and keep V and M near; but large ones
        read U less often. They are not shared where each thread's L2 holds U, and V of the other
        threads would have to come from theirs.
        """
        precision = work.scheme.precision
        panel = self.panel(precision, work.packed_channels, work.out_group_size)
        panels = work.packed_channels // panel
        bytes_a_tile = self._bytes_a_tile(work, panel)
        near = math.prod(work.packed_shape) <= self.l2_bytes

        def blocks(most: float) -> list[tuple[int, int]]:
            most = max(self.register_tiles, int(most * self.l2_bytes // bytes_a_tile))
            return [
                (rows, columns)
                for rows in range(1, min(work.tile_rows, most) + 1)
                for columns in range(1, min(work.tile_columns, most // rows) + 1)
            ]

        def is_crowded(block: tuple[int, int]) -> bool:
            return math.prod(block) * bytes_a_tile > self.l2_bytes

        def panel_blocks(block: tuple[int, int]) -> int:
            """Two where V comes from afar once a panel, if threads have as many then."""
            parts = panels // 2
            even = panels % 2 == 0 and (parts % threads == 0 or parts >= _MANY * threads)
            return 2 if precision == "hadamard" and even and is_crowded(block) else 1

        def cost(candidate: tuple[tuple[int, int], int]) -> float:
            block, together = candidate
            tasks = work.batch * math.ceil(work.tile_rows / block[0])
            tasks *= math.ceil(work.tile_columns / block[1])
            # A row of accumulators costs its own load, a block the streaming of U.
            one = math.prod(block) * (1 + 1 / math.prod(self.rows(block)))
            one += _STREAM_NEAR_TILES if near else _STREAM_FAR_TILES
            if together:
                parts = panels // together
                return _EXCHANGE * tasks * math.ceil(parts / threads) / parts * one
            return (_CROWDED if is_crowded(block) else 1) * math.ceil(tasks / threads) * one

        candidates = [(block, 0) for block in blocks(_OWN)]
        if not near:
            candidates += [(block, panel_blocks(block)) for block in blocks(_SHARED)]
        return min(candidates, key=cost)


# Tiles in whose products' time U is streamed, from L2 or from farther: a byte is a product of each
# tile, at 383 a nanosecond; L2 gives 140 bytes in that time, L3 25, half of which is hidden.
_STREAM_NEAR_TILES, _STREAM_FAR_TILES = 2.0, 8.0
# What a block takes more if V and M do not fit ``l2_bytes``, and if threads share it, for V comes
# from L3 or other threads' caches then; of ``l2_bytes``, the most of V and M of blocks of either
# kind; panels of each thread that make it no matter whether they are divided evenly.
_CROWDED, _EXCHANGE = 1.1, 1.2
_OWN, _SHARED = 1.5, 6.0
_MANY = 4
_PAGE, _LINE = 4096, 64  # bytes
# Tiles and vectors of accumulator blocks that may be chosen, by the lanes of a vector: of 32
# registers and of 16, sums that do not fit are spilled once a group.
_REGISTERS = {
    16: ((4, 2), (6, 2), (8, 2), (10, 2), (12, 2), (4, 3), (6, 3), (8, 3), (3, 4), (4, 4), (5, 4),
         (6, 4), (12, 1), (16, 1), (24, 1), (2, 5), (4, 5)),
    8: ((2, 2), (3, 2), (4, 2), (5, 2), (6, 2), (2, 3), (3, 3), (4, 3), (2, 4), (6, 1), (8, 1)),
    4: ((2, 2), (3, 2), (4, 2), (6, 2), (8, 2), (2, 4), (4, 4), (3, 4), (8, 1)),
}  # fmt: skip
# Of ``l2_bytes``, what V and M of a block may occupy, and where all threads share the block.
_MOST, _MOST_SHARED = 2, 16


def _choices(fields: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """What a point has besides a block, by the names of the fields that it chooses."""
    tiles, vectors = fields.pop("registers")
    return ("register_tiles", tiles), ("register_vectors", vectors), *fields.items()


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
    if blocking.instructions is None:
        return function
    lanes, reduce = blocking.dot_lanes, blocking.dot_reduce
    if blocking.tiles is None:
        function = write_products(
            function, rows, vectors, lanes, reduce, blocking.instructions, blocking.fetch_weights
        )
    else:
        function = write_tile_products(function, rows, vectors, lanes, reduce, blocking.tiles)
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
