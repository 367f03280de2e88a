"""The schedule of the direct convolution with one step an image that all CPUs share.

The image is read twice before anything is multiplied, for its extremes and to quantize it; then a
parallel task computes a panel of output channels of some register blocks:

    for each row of the image, in parallel: its extremes
    for each row, zeros around the image, in parallel: levels                        -> V
    for a block of the image and a panel, or a panel and a block, in parallel:
        for some pixels:                            accumulators, in registers
            for all taps and channels: integer products
            scaled, epilogue, result

or all panels of some rows, whose pixels it quantizes itself, so that V comes from its own L2 and is
never in memory:

    for a block of the image, in parallel:
        for each of its rows, and those around it: levels                   -> V of the task
        for each panel, for some pixels: as above

Nothing but the accumulators lies between V and the result. V has a plane for each 64 channels, so
that a register block's pixels are a few kilobytes of L1 for all taps; a panel of U streams from L2
once a register block, in the order in which it lies. V of a block stays in L2 while panels go by,
or V of the whole image where that is no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from tvm import DataType, s_tir, tirx

from ..quantization.arithmetic import round_up
from .direct_cpu import DirectBlocking
from .expand import expand_functions
from .image_tile_kernel import REDUCTION, ImageTiles, write_image_tiles
from .llvm_functions import with_llvm_functions
from .loops import inline_epilogue, unroll_and_vectorize
from .prefetch import TASKS
from .quantize_kernel import LANES, write_quantization
from .scratch import kept_by_tasks
from .space import Point, Space, Value, divisions, with_default
from .tile_product_kernel import ACCUMULATORS, ROWS

if TYPE_CHECKING:
    from ..topi.direct_workload import DirectWorkload


@dataclass(frozen=True)
class ImageBlocking:
    """The free choices of the schedule, by the numbers of the ISA's direct convolution."""

    numbers: DirectBlocking

    def divided(
        self, work: DirectWorkload, threads: int, point: Point | None = None
    ) -> DirectWorkload:
        """The workload in the blocks of a point of its space, of the default one if None."""
        point = self._default(work, threads) if point is None else point
        fields: dict[str, Any] = dict(point)
        block, (rows, columns) = fields["block"], fields["task"]
        choices = (
            ("task_rows", rows), ("task_columns", columns),
            ("panels_first", fields["panels_first"]), ("own_pixels", fields["own_pixels"]),
            ("fetch_pixels", fields["fetch_pixels"]),
        )  # fmt: skip
        return replace(
            work, block=block, pixels=math.prod(block), vectors=fields["vectors"],
            flat=bool(fields["flat"]), choices=choices,
        )  # fmt: skip

    def space(self, work: DirectWorkload, threads: int) -> Space:
        """What may be chosen about a layer that so many threads compute.

        ``block`` are the rows and columns of pixels, and ``vectors`` those of output channels, that
        are summed up together; ``task`` are rows and columns of such blocks, the same of each task.
        """
        default = self._default(work, threads)
        registers = set(self._register_blocks(work))
        tasks = product(divisions(work.out_height), divisions(work.out_width))
        knobs: dict[str, tuple[Value, ...]] = {
            "block": with_default({each[:2] for each in registers}, default["block"]),
            "vectors": with_default({each[2] for each in registers}, default["vectors"]),
            "flat": tuple(sorted({each[3] for each in registers})),
            "task": with_default(tasks, default["task"]),
            "panels_first": (0, 1),
            "own_pixels": (0, 1),
            "fetch_pixels": (0, 1) if self.numbers.tiles else (0,),
        }

        def is_valid(point: Point) -> bool:
            fields: dict[str, Any] = dict(point)
            rows, columns = fields["block"]
            blocks = math.ceil(work.out_height / rows), math.ceil(work.out_width / columns)
            return (
                (rows, columns, fields["vectors"], fields["flat"]) in registers
                and not (fields["flat"] and fields["fetch_pixels"])
                and not (fields["own_pixels"] and (fields["panels_first"] or fields["flat"]))
                and rows * columns * fields["vectors"] >= _LEAST_ACCUMULATORS
                and blocks[0] % fields["task"][0] == 0
                and blocks[1] % fields["task"][1] == 0
            )

        return Space(knobs, default, lambda point: point == default or is_valid(point))

    def _register_blocks(self, work: DirectWorkload) -> list[tuple[int, int, int, int]]:
        """Rows and columns of pixels, and vectors of output channels, of the accumulators.

        The last number says whether registers hold pixels of more than one row, see
        ``DirectWorkload.flat``.
        """
        vectors = math.ceil(work.out_channels / self.numbers.dot_lanes)
        return [each for each in self._all_register_blocks(work) if each[2] <= vectors]

    def _all_register_blocks(self, work: DirectWorkload) -> Iterator[tuple[int, int, int, int]]:
        rows, columns = work.out_height, work.out_width
        if self.numbers.tiles is not None:
            for vectors, parts in ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2)):
                for tall in (n for n in (4, 2, 1) if n <= min(parts, rows)):
                    across = parts // tall  # registers side by side
                    for wide in range(1, min(columns // across, ROWS) + 1):
                        yield tall, wide * across, vectors, 0
            if 2 * columns <= ROWS and work.quantized_stride == 1:
                for vectors in (1, 2):
                    pixels = len(ACCUMULATORS) // vectors * ROWS
                    yield min(rows, pixels // columns), columns, vectors, 1
            return
        most = self.numbers.register_pixels_alone or self.numbers.register_pixels
        for vectors, pixels in enumerate(most, 1):
            for tall in range(1, min(rows, pixels) + 1):
                for wide in range(1, min(columns, pixels // tall) + 1):
                    yield tall, wide, vectors, 0

    def _default(self, work: DirectWorkload, threads: int) -> Point:
        registers = min(
            self._register_blocks(work), key=lambda each: self._products_cost(work, each)
        )
        rows, columns, vectors, flat = registers
        blocks = math.ceil(work.out_height / rows), math.ceil(work.out_width / columns)
        panels = math.ceil(work.out_channels / (vectors * self.numbers.dot_lanes))

        def v_bytes(tall: int, wide: int = blocks[1]) -> int:
            """V of so many rows and columns of register blocks."""
            width = (wide * columns - 1) * work.quantized_stride + work.scheme.kernel
            height = tall * rows * work.quantized_stride + work.scheme.kernel - 1
            width *= work.scheme.kernel if flat else 1
            return work.activation_bytes * work.groups * work.group_size * width * height

        is_near = v_bytes(blocks[0]) <= _NEAR_BYTES
        # Rows are divided among threads where each may read all of U: V is then its own, mostly.
        by_rows = math.prod(work.packed_shape) * work.multiplied_bytes <= _NEAR_WEIGHT_BYTES
        equal = [n for n in range(1, blocks[0] + 1) if blocks[0] % n == 0]
        tall = [n for n in equal if is_near or n == 1 or v_bytes(n) <= _NEAR_BYTES]

        own = None
        if not is_near and not flat:
            own = _own_task(work, (rows, columns), blocks, threads, v_bytes)
        by_rows = by_rows or own is not None

        def time(task: int) -> float:
            tasks, together = work.batch * math.ceil(blocks[0] / task), 1
            if by_rows:
                together = panels
            else:
                tasks *= panels
            one = together * task * blocks[1] + _TASK_OVERHEAD_BLOCKS
            return math.ceil(tasks / threads) * one

        return {
            "block": (rows, columns),
            "vectors": vectors,
            "flat": flat,
            "task": own or (min(tall, key=time), blocks[1]),
            "panels_first": int(is_near and not by_rows),
            "own_pixels": int(own is not None),
            "fetch_pixels": int(
                self.numbers.tiles is not None and not flat and v_bytes(blocks[0]) > _L1_BYTES
            ),
        }

    def _products_cost(self, work: DirectWorkload, registers: tuple[int, int, int, int]) -> float:
        """Time of a step of the sums of all register blocks, those outside the image included."""
        rows, columns, vectors, flat = registers
        blocks = math.ceil(work.out_height / rows) * math.ceil(work.out_width / columns)
        blocks *= math.ceil(work.out_channels / (vectors * self.numbers.dot_lanes))
        pixels = round_up(rows * columns, ROWS) if flat else rows * columns
        if self.numbers.tiles is None:
            one = pixels * vectors + _LOAD * pixels + _LOAD_L2 * vectors
            return blocks * max(one, _LEAST_CHAINS)
        # Cycles of a tap of 64 bytes. A row of a register is loaded a cycle; U comes from L2.
        multiply = max(pixels * vectors, _TILE_LATENCY)
        panel_bytes = math.prod(work.packed_shape[1:]) * work.multiplied_bytes * vectors
        line = _L2_LINE if panel_bytes <= _PANEL_BYTES else _CROWDED_LINE
        load = pixels + vectors * ROWS * line
        return blocks * (max(multiply, load) + _NOT_HIDDEN * min(multiply, load))


# Of L2, what V may occupy while U streams through; and V of which L1 keeps enough, so that fetches
# only take the place of loads.
_NEAR_BYTES = 1 << 20
_L1_BYTES = 1 << 17
# V of a task that quantizes its own pixels, of whole rows or of parts of them, and rows and columns
# of outputs of it. How many tasks of each thread make it no matter whether they are divided evenly.
_OWN_BYTES, _OWN_PART_BYTES, _OWN_EDGES, _MANY = 9 << 17, 3 << 17, (16, 32), 4
_OWN_PART_CHANNELS = 256  # of outputs: with 128, parts of rows won by two threads and lost by one
# U that each thread's L2 holds beside V, and a panel of it that L2 holds beside V and the next one.
_NEAR_WEIGHT_BYTES, _PANEL_BYTES = 1 << 18, 320 << 10
_TASK_OVERHEAD_BLOCKS = 4
_LEAST_ACCUMULATORS = 4  # that may be chosen
# In products: loads of a vector from L1 and L2, and of products, below which they wait.
_LOAD, _LOAD_L2, _LEAST_CHAINS = 0.5, 1.0, 10
# Cycles: until a tile register is added to again, of a line from L2, and of one of a panel that L2
# holds for a while only; and the share of what is loaded, or multiplied, that is not hidden behind
# the other.
_TILE_LATENCY, _L2_LINE, _CROWDED_LINE, _NOT_HIDDEN = 52, 1.4, 2.2, 0.25


def _own_task(
    work: DirectWorkload,
    block: tuple[int, int],
    blocks: tuple[int, int],
    threads: int,
    v_bytes: Callable[[int, int], int],
) -> tuple[int, int] | None:
    """Rows and columns of register blocks of tasks that quantize their own pixels, or None.

    Those of which the fewest pixels are quantized twice, around them, and whose V stays in L2; of
    whole rows, if it holds enough of them.
    """

    def fits(task: tuple[int, int], most: int) -> bool:
        tasks = work.batch * math.prod(blocks) // math.prod(task)
        even = tasks % threads == 0 or tasks >= _MANY * threads
        edges = [n * edge for n, edge in zip(task, block, strict=True)]
        least = (_OWN_EDGES[0], min(_OWN_EDGES[1], work.out_width))
        return even and edges[0] >= least[0] and edges[1] >= least[1] and v_bytes(*task) <= most

    tall, wide = ([n for n in range(1, count + 1) if count % n == 0] for count in blocks)
    whole = [(n, blocks[1]) for n in tall if fits((n, blocks[1]), _OWN_BYTES)]
    parts = []
    if work.out_channels >= _OWN_PART_CHANNELS:
        parts = [each for each in product(tall, wide) if fits(each, _OWN_PART_BYTES)]
    return min(whole or parts, key=lambda task: v_bytes(*task) / math.prod(task), default=None)


def schedule_direct_image(function: tirx.PrimFunc, numbers: DirectBlocking) -> tirx.PrimFunc:
    """Schedule a direct convolution with one step an image, and what is fused behind it."""
    return schedule_one_sum(function, numbers, _schedule_quantization)


def schedule_one_sum(
    function: tirx.PrimFunc,
    numbers: DirectBlocking,
    schedule_image: Callable[[s_tir.Schedule, DirectBlocking, Any], None],
) -> tirx.PrimFunc:
    """Schedule a direct convolution whose products are one sum, what is fused behind it, and V.

    ``schedule_image`` does so with the stages from the image to V.
    """
    sch = s_tir.Schedule(function)
    output = sch.get_sblock("output")
    annotations = sch.get(output).annotations
    block = tuple(int(edge) for edge in annotations["wq.block"])
    vectors, stride = int(annotations["wq.vectors"]), int(annotations["wq.stride"])
    choices = {str(name): int(value) for name, value in annotations["wq.choices"].items()}
    inline_epilogue(sch, output)
    v = sch.get(sch.get_sblock("V")).writes[0].source
    task, registers = _divide_output(sch, numbers, output, block, vectors, choices)
    lane = _schedule_products(sch, numbers, registers, vectors)
    schedule_image(sch, numbers, task)
    if numbers.tiles is None and numbers.intrinsic:
        # Last: once tensorized, what bfloat16 is multiplied from can no longer be moved.
        sch.tensorize(lane, numbers.intrinsic)
    function = expand_functions(sch.mod["main"])  # those of the epilogue
    if numbers.instructions is not None:
        function = write_quantization(function, numbers.instructions)
    sums = math.prod(block), vectors * numbers.dot_lanes
    if numbers.tiles is None:
        return with_llvm_functions(kept_by_tasks(function, "products", sums), numbers.functions)
    flat = len(v.shape) == 6
    # Registers side by side are as few as hold a row of the block.
    rows = block[1] // next(n for n in (1, 2, 4) if block[1] % n == 0 and block[1] <= n * ROWS)
    if flat:
        rows = ROWS
        sums = round_up(math.prod(block), ROWS), sums[1]
    tiles = ImageTiles(
        block, flat, rows, vectors, stride, numbers.dot_lanes, numbers.dot_reduce, int(v.shape[-1]),
        DataType(str(v.ty.dtype)).itemsize, numbers.tiles, bool(choices["fetch_pixels"]),
    )  # fmt: skip
    return kept_by_tasks(write_image_tiles(function, tiles), "products", sums)


def _divide_output(
    sch: s_tir.Schedule,
    numbers: DirectBlocking,
    output: Any,
    block: tuple[int, ...],
    vectors: int,
    choices: dict[str, int],
) -> tuple[Any, Any]:
    """Divide the output into tasks and register blocks; returns the loops over both.

    None for the former, unless a task has pixels of its own.
    """
    image, height, width, channels = sch.get_loops(output)
    task_row, row, row_in = sch.split(height, [None, choices["task_rows"], block[0]])
    task_column, column, column_in = sch.split(width, [None, choices["task_columns"], block[1]])
    panel, vector, lane = sch.split(channels, [None, vectors, numbers.dot_lanes])
    blocks = (image, task_row, task_column)
    order = (panel, *blocks) if choices["panels_first"] else (*blocks, panel)
    sch.reorder(*order, row, column, row_in, column_in, vector, lane)
    sch.vectorize(lane)
    own = bool(choices["own_pixels"])
    task = sch.fuse(*(blocks if own else order))
    sch.parallel(task)
    sch.annotate(task, TASKS, True)
    return task if own else None, column


def _schedule_products(
    sch: s_tir.Schedule, numbers: DirectBlocking, registers: Any, vectors: int
) -> Any:
    """Budget: pixels x vectors accumulators of int32 stay in registers over all taps.

    Returns the loop over lanes, which the dot product takes the place of.
    """
    products = sch.get_sblock("products")
    sch.compute_at(products, registers, preserve_unit_loops=True)
    p, k, g, e, v, s = sch.get_loops(products)[-6:]
    vector, lane = sch.split(k, [vectors, numbers.dot_lanes])
    step, pair = sch.split(s, [None, numbers.dot_reduce])
    sch.reorder(g, e, v, step, p, vector, lane, pair)
    if numbers.tiles is not None:
        sch.annotate(g, REDUCTION, True)
        return lane
    for loop in (p, vector):
        sch.unroll(loop)
    init = sch.decompose_reduction(products, g)
    unroll_and_vectorize(sch, sch.get_loops(init)[-3:])
    # The sums' beginning reads it, their continuation no longer; in bfloat16 they begin at 0.
    reads = [region.source.name for region in sch.get(products).reads]
    if "start" in reads:
        sch.unsafe_hide_buffer_access(products, "read", [reads.index("start")])
    return lane


def _schedule_quantization(sch: s_tir.Schedule, numbers: DirectBlocking, task: Any) -> None:
    """Budget: extremes of both signs in two vectors; a vector of V at a time."""
    rows = sch.get_sblock("row_extremes")
    image, row, sign, lane, x, j = sch.get_loops(rows)
    sch.parallel(sch.fuse(image, row))
    sch.reorder(x, j, sign, lane)
    sch.unroll(sign)
    sch.vectorize(lane)
    init = sch.decompose_reduction(rows, x)
    unroll_and_vectorize(sch, sch.get_loops(init)[-2:])
    for name in ("start", "factor"):
        sch.vectorize(sch.split(sch.get_loops(sch.get_sblock(name))[-1], [None, numbers.lanes])[1])
    lane, count = schedule_v(sch, numbers, task)
    if numbers.instructions is not None and count == numbers.lanes:
        sch.annotate(lane, LANES, True)
    else:
        sch.vectorize(lane)


def schedule_v(sch: s_tir.Schedule, numbers: DirectBlocking, task: Any) -> tuple[Any, int]:
    """V and its pixels, a row at a time; returns the loop over V's lanes, and how many there are.

    Of the whole image, or of those that a task takes. Budget: a vector of V at a time.
    """
    if task is not None:
        sch.compute_at(sch.get_sblock("V"), task, preserve_unit_loops=True)
    axes = len(sch.get(sch.get_sblock("V")).iter_vars)
    image, group, *taps, row, column, channel = sch.get_loops(sch.get_sblock("V"))[-axes:]
    sch.reorder(image, row, *taps, column, group, channel)
    if task is None:
        sch.parallel(sch.fuse(image, row))
    sch.compute_at(sch.get_sblock("pixels"), group, preserve_unit_loops=True)
    lanes = math.gcd(int(sch.get(channel).extent), numbers.lanes)
    for name in ("pixels", "V"):
        outer, lane = sch.split(sch.get_loops(sch.get_sblock(name))[-1], [None, lanes])
        sch.unroll(outer)
        if name == "pixels":
            sch.vectorize(lane)
    return lane, lanes
