"""The schedule of the direct convolution that all CPUs share; an ISA gives it its numbers.

First every pixel is quantized, once; then a parallel task sums up a panel of output channels for
some rows of the output:

    for each row of the image, in parallel:
        for each group of channels: zeros around it, largest magnitude, step      -> V
    for a panel of output channels, an image and a block of rows, in parallel (of a kernel of one
    tap, whose U is small, for an image and a block of rows and a panel):
        for each group of channels:
            for some pixels:                            accumulators, in registers
                for each tap: integer products, scaled and added
                M += their sum
        epilogue, result

V (z, g, y, x, s) has a plane for each group, so that what a group's taps read lies together: with U
of one panel and group it stays in the L1 cache while all pixels of the task go by. M of a task
(outputs * panel floats) lies in the L2 cache, and is read and written once a group. U is streamed
once a task, in the order in which it lies, the next group's while this one is summed up. Nothing is
quantized twice, and no image is unfolded into a matrix.

What is reached of the dot product's peak: a tap of a group of 32 channels is 8 products, one
conversion and one multiply-add of each accumulator, 80 % with a weight's step for all taps; a step
a tap takes one multiplication more, 73 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from tvm import s_tir, tirx

from .direct_tile_kernel import (
    PRODUCTS,
    START,
    DirectTiles,
    pixels_of_a_register,
    write_direct_tiles,
)
from .expand import expand_functions
from .instructions import Instructions, TileInstructions
from .loops import inline_epilogue, largest_of_channels, unroll_and_vectorize
from .prefetch import PIXELS, TASKS, fetch_for_sums
from .quantize_kernel import LANES, write_quantization
from .space import Point, Space, Value, divisions, with_default
from .tile_product_kernel import ROWS

if TYPE_CHECKING:
    from ..topi.direct_workload import DirectWorkload


@dataclass(frozen=True)
class DirectBlocking:
    """The free choices of the schedule.

    Attributes
    ----------
    lanes : float32 lanes of a vector register.
    dot_lanes, dot_reduce : shape of the dot product.
    register_pixels : with one vector of output channels, with two and so on: the most pixels whose
        accumulators and sums, with the vectors of U and a broadcast of V, fit the register file.
    l1_bytes : of the cache from which U of one panel and group is read, if it fits.
    intrinsic : the tensor intrinsic of the dot product, or None to leave it to the compiler.
    functions : in LLVM's language, that the intrinsic calls.
    task_pixels : the most outputs of a task, of one channel, where it has more than a row.
    instructions : of the ISA, for kernels that are written out; None to leave all to the compiler.
    register_pixels_alone : as ``register_pixels`` without room for the sums, which are spilled, for
        groups of at least ``_LARGE_GROUP`` channels, where that is once in many products; None for
        the same.
    tiles : of the ISA's two-dimensional registers, on which the integer products are then computed;
        ``register_pixels`` does not count.
    panels_first : whether all pixels of a panel of output channels come before the next panel, or
        all panels of a block of pixels before the next block.
    fetch_weights : whether the next group's U and a task's results are fetched ahead.
    """

    lanes: int
    dot_lanes: int
    dot_reduce: int
    register_pixels: tuple[int, ...]
    l1_bytes: int
    intrinsic: str | None
    task_pixels: int
    functions: str = ""
    instructions: Instructions | None = None
    register_pixels_alone: tuple[int, ...] | None = None
    tiles: TileInstructions | None = None
    panels_first: bool = True
    fetch_weights: bool = True

    def chosen(self, choices: Point) -> DirectBlocking:
        """The same with some fields chosen, by their names."""
        return replace(self, **choices)  # type: ignore[arg-type]

    def divided(
        self, work: DirectWorkload, threads: int, point: Point | None = None
    ) -> DirectWorkload:
        """The workload in the blocks of a point of its space, of the default one if None."""
        if point is None:
            return self.blocked(work, threads)
        fields: dict[str, Any] = dict(point)
        block, (pixels, vectors) = fields.pop("block"), fields.pop("registers")
        return replace(
            work, block=block, pixels=pixels, vectors=vectors, choices=tuple(fields.items())
        )

    def space(self, work: DirectWorkload, threads: int) -> Space:
        """What may be chosen about a layer that so many threads compute."""
        chosen = self.blocked(work, threads)
        default: Point = {
            "block": chosen.block,
            "registers": (chosen.pixels, chosen.vectors),
            "panels_first": dict(chosen.choices).get("panels_first", 1),
            "fetch_weights": 1,
        }
        columns, rows = divisions(work.out_width), divisions(work.out_height)
        most = self.register_pixels_alone or self.register_pixels
        registers = {width: set(self._register_blocks(width, most)) for width in columns}
        knobs: dict[str, tuple[Value, ...]] = {
            "block": with_default(product(rows, columns), chosen.block),
            "registers": with_default(set().union(*registers.values()), default["registers"]),
            "panels_first": (0, 1),
            "fetch_weights": (0, 1) if self.instructions is not None else (1,),
        }

        def is_valid(point: Point) -> bool:
            fields: dict[str, Any] = dict(point)
            (height, width), (pixels, vectors) = fields["block"], fields["registers"]
            return (
                (pixels, vectors) in registers[width]
                and pixels * vectors >= _LEAST_ACCUMULATORS
                and height * width % pixels == 0
                and (height == 1 or height * width <= _MOST_PIXELS * self.task_pixels)
            )

        return Space(knobs, default, lambda point: point == default or is_valid(point))

    def blocked(self, work: DirectWorkload, threads: int) -> DirectWorkload:
        """Choose the outputs of a task, and the pixels and vectors of the accumulators.

        Tasks have up to ``task_pixels``, are of whole accumulator blocks, and leave no thread idle
        in the last round.
        """
        register_pixels = self.register_pixels
        if work.group_size >= _LARGE_GROUP and self.register_pixels_alone is not None:
            register_pixels = self.register_pixels_alone
        candidates = [
            replace(work, block=(rows, columns), pixels=pixels, vectors=vectors)
            for columns in divisions(work.out_width)
            for rows in range(1, work.out_height + 1)
            if rows == 1 or rows * columns <= self.task_pixels
            for pixels, vectors in self._register_blocks(columns, register_pixels)
            if rows * columns % pixels == 0
        ]

        def cost(choice: DirectWorkload) -> tuple[float, int]:
            panels = choice.packed_channels // choice.panel
            tasks = panels * choice.batch * math.prod(choice.blocks)
            one = choice.vectors * self._accumulator_cost(choice)
            # Wide blocks read and write longer runs.
            overhead = _TASK_OVERHEAD_PIXELS + _ROW_OVERHEAD_PIXELS * choice.block[0]
            time = math.ceil(tasks / threads) * (choice.block_pixels + overhead) * one
            return time, -choice.vectors  # of equals the one that reads V least often

        best = min(candidates, key=cost)
        return replace(best, choices=(("panels_first", 0),)) if _panels_are_near(best) else best

    def _register_blocks(
        self, columns: int, register_pixels: tuple[int, ...]
    ) -> list[tuple[int, int]]:
        """Pixels and vectors of the accumulators that there may be in rows of so many columns."""
        if self.tiles is not None:
            rows = pixels_of_a_register(columns)
            return [(rows * parts, vectors) for parts in (1, 2) for vectors in (1, 2)]
        return [
            (pixels, vectors)
            for vectors, most in enumerate(register_pixels, 1)
            for pixels in range(1, most + 1)
        ]

    def _accumulator_cost(self, choice: DirectWorkload) -> float:
        """Time of a product for one vector and pixel, that of others of its block besides.

        Its own, its share of what is loaded, and of the time in which the last products of a block
        are waited for.
        """
        accumulators = choice.pixels * choice.vectors
        if self.tiles is not None:
            # Registers are loaded whole, in half the time of a product of 16 rows, and stored and
            # scaled once a tap.
            rows = pixels_of_a_register(choice.block[1])
            loads = _LOAD * ROWS * (choice.pixels // rows + choice.vectors) / accumulators
            return 1 + loads
        weights = math.prod(choice.packed_shape[2:]) * choice.vectors
        near = weights <= _U_IN_L1 * self.l1_bytes
        from_u = choice.vectors * (_LOAD if near else _LOAD_L2)
        loads = (_LOAD * choice.pixels + from_u + 2) / accumulators
        return (1 + loads) * max(1, _LEAST_CHAINS / accumulators)


def _panels_are_near(work: DirectWorkload) -> bool:
    """Whether the panels of a block follow each other, not the blocks of a panel.

    So what is larger, V or U, is read once from afar, and the other again from L2. With more than
    one tap U is the larger one, or both are near, or there is much to do between.
    """
    return work.scheme.kernel == 1 and math.prod(work.packed_shape) < math.prod(work.input_shape)


_LARGE_GROUP = 256
# In products: a load of a vector, and one that comes from L2. V and the sums share L1 with U.
_LOAD, _LOAD_L2, _U_IN_L1 = 0.5, 1.5, 0.8
_TASK_OVERHEAD_PIXELS, _ROW_OVERHEAD_PIXELS = 4.0, 0.25
_LEAST_ACCUMULATORS = 4  # that may be chosen
_MOST_PIXELS = 4  # of ``task_pixels``, what tasks of more than a row may have if chosen
_LEAST_CHAINS = 10  # accumulators below which products wait for each other


def schedule_direct(function: tirx.PrimFunc, blocking: DirectBlocking) -> tirx.PrimFunc:
    """Schedule a direct convolution, with whatever is fused behind it, for a CPU."""
    sch = s_tir.Schedule(function)
    output = sch.get_sblock("output")
    annotations = sch.get(output).annotations
    block = [int(edge) for edge in annotations["wq.block"]]
    pixels, vectors = int(annotations["wq.pixels"]), int(annotations["wq.vectors"])
    choices = annotations.get("wq.choices", {})
    blocking = blocking.chosen({str(name): int(value) for name, value in choices.items()})
    inline_epilogue(sch, output)
    task = _divide_output(sch, blocking, output, block, vectors)
    _schedule_sums(sch, blocking, task, pixels, vectors)
    _schedule_quantization(sch, blocking)
    function = expand_functions(sch.mod["main"])  # those of the epilogue
    if blocking.instructions is None:
        return function
    if blocking.fetch_weights:
        function = fetch_for_sums(function, vectors, blocking.dot_lanes)
    if blocking.tiles is not None:
        rows = pixels_of_a_register(block[1])
        tiles = DirectTiles(
            rows, pixels // rows, vectors, int(annotations["wq.stride"]),
            blocking.dot_lanes, blocking.dot_reduce, blocking.tiles,
        )  # fmt: skip
        function = write_direct_tiles(function, tiles)
    return write_quantization(function, blocking.instructions)


def _divide_output(
    sch: s_tir.Schedule, blocking: DirectBlocking, output: Any, block: Sequence[int], vectors: int
) -> Any:
    """Divide the output into tasks; returns the loop over them."""
    image, height, width, channels = sch.get_loops(output)
    block_row, row = sch.split(height, [None, block[0]])
    block_column, column = sch.split(width, [None, block[1]])
    panel, vector, lane = sch.split(channels, [None, vectors, blocking.dot_lanes])
    blocks = (image, block_row, block_column)
    order = (panel, *blocks) if blocking.panels_first else (*blocks, panel)
    sch.reorder(*order, row, column, vector, lane)
    sch.vectorize(lane)
    task = sch.fuse(*order)
    sch.parallel(task)
    if blocking.instructions is not None:
        sch.annotate(task, TASKS, True)
    return task


def _schedule_sums(
    sch: s_tir.Schedule, blocking: DirectBlocking, task: Any, pixels: int, vectors: int
) -> None:
    """Budget: pixels x vectors accumulators of int32 stay in registers over a tap and group."""
    m, taps, products = (sch.get_sblock(name) for name in ("M", "taps", "products"))
    sch.compute_at(m, task, preserve_unit_loops=True)
    p, k, group = sch.get_loops(m)[-3:]
    pixel_blocks, inner = _register_block(sch, blocking, p, k, pixels, vectors)
    sch.reorder(group, pixel_blocks, *inner)
    unroll_and_vectorize(sch, inner)

    sch.compute_at(taps, pixel_blocks, preserve_unit_loops=True)
    p, _, k, row, column = sch.get_loops(taps)[-5:]
    _, inner = _register_block(sch, blocking, p, k, pixels, vectors)
    sch.reorder(row, column, *inner)
    unroll_and_vectorize(sch, inner)

    sch.compute_at(products, column, preserve_unit_loops=True)
    p, *_, k, s = sch.get_loops(products)[-6:]
    _, inner = _register_block(sch, blocking, p, k, pixels, vectors)
    step, pair = sch.split(s, [None, blocking.dot_reduce])
    sch.reorder(step, *inner, pair)
    if blocking.tiles is None:
        for loop in inner[:-1]:
            sch.unroll(loop)

    starts = [block for block in sch.get_producers(products) if _name(sch, block) == "start"]
    for start in starts if blocking.tiles is None else ():
        sch.compute_at(start, group, preserve_unit_loops=True)
        sch.vectorize(sch.split(sch.get_loops(start)[-1], [None, blocking.lanes])[1])
    for block, loop in ((m, group), (taps, row), (products, step)):
        init = sch.decompose_reduction(block, loop)
        loops = sch.get_loops(init)[-3:]
        if block is products and blocking.tiles is not None:
            sch.annotate(loops[0], START, True)
        else:
            unroll_and_vectorize(sch, loops)
    # Not before: the loops that set sums to zero, copies of these, would be marked as well.
    if blocking.instructions is not None:
        sch.annotate(pixel_blocks, PIXELS, True)
    if starts:
        # The sums' beginning reads it, their continuation no longer.
        reads = [region.source.name for region in sch.get(products).reads]
        sch.unsafe_hide_buffer_access(products, "read", [reads.index("start")])
    if blocking.tiles is not None:
        for start in starts:
            sch.compute_inline(start)  # a register is loaded from one vector, row by row
        sch.annotate(step, PRODUCTS, True)
        for block in (products, taps):
            sch.set_scope(block, 0, "local")  # of a block of pixels, 4 KiB at most
    elif blocking.intrinsic:
        sch.tensorize(inner[-1], blocking.intrinsic)


def _name(sch: s_tir.Schedule, block: Any) -> str:
    return str(sch.get(block).name_hint)


def _register_block(
    sch: s_tir.Schedule, blocking: DirectBlocking, p: Any, k: Any, pixels: int, vectors: int
) -> tuple[Any, tuple[Any, Any, Any]]:
    """Split pixels and channels: blocks of pixels, and within one pixel, vector and lane."""
    block, pixel = sch.split(p, [None, pixels])
    vector, lane = sch.split(k, [vectors, blocking.dot_lanes])
    return block, (pixel, vector, lane)


def _schedule_quantization(sch: s_tir.Schedule, blocking: DirectBlocking) -> None:
    """Quantize a row's pixels, group by group; a few operands of each in registers."""
    pixels = sch.get_sblock("pixels")
    image, group, row, column, channel = sch.get_loops(pixels)
    sch.reorder(image, row, group, column, channel)
    sch.parallel(sch.fuse(image, row))
    for name in ("V_amax", "V_step", "V_inverse", "V"):
        sch.reverse_compute_at(sch.get_sblock(name), group, preserve_unit_loops=True)
    for name in ("pixels", "V"):
        channel = sch.get_loops(sch.get_sblock(name))[-1]
        lanes = math.gcd(int(sch.get(channel).extent), blocking.lanes)
        lane = sch.split(channel, [None, lanes])[1]
        if name == "V" and blocking.instructions is not None and lanes == blocking.lanes:
            sch.annotate(lane, LANES, True)
        elif lanes > 1:
            sch.vectorize(lane)
    amax = sch.get_sblock("V_amax")
    largest_of_channels(sch, amax, sch.get_loops(amax)[-1:])
