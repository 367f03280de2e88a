"""Sums of products of two tensors: convolutions and matrix products of every layout.

One of the output's axes, f, is an axis of the weights alone (output channels, columns); another, x,
of the data alone (image columns, rows of a matrix). A tile of x by f is accumulated in registers:

    for tasks of other axes and blocks of rows, in parallel:
        padding of the rows, if the operator pads
        for each panel of f:
            for each row and tile of x:
                for every summed element: one broadcast of data a row of the tile, times the panel
                epilogue of the tile

Budget: with p pixels by v vectors of f, p * v accumulators, v vectors of weights and one broadcast
fit the register file (14 x 2 + 3 of 32 with AVX-512 and NEON, 6 x 2 + 3 of 16 with AVX2). A panel
of weights, summed elements times v vectors, streams from L2 once a tile; a task's rows of data
stay in L2. Tails: f is padded with zeros in the packed weights, x repeats its last row, and what
is computed too much is never stored.
"""

from __future__ import annotations

import math
from typing import Any

import tvm.target
from tvm import s_tir, tirx

from .access import BlockInfo, NotAnalysableError, block_info
from .contraction_match import Contraction, axes_of, match_contraction
from .contraction_stages import (
    ACCUMULATE,
    EPILOGUE,
    PACK,
    Tile,
    sum_shape,
    tiled_epilogue,
    tiled_sums,
)
from .injective import extent_of, schedule_injective
from .inline import top_blocks
from .machine import Machine, machine_of
from .reduction import find_epilogue, padding_at
from .rewrite import insert_stage, replace_nest, replace_stage, with_buffers
from .stages import schedule_stages, stage_names

# A core has two FMA units with a latency of four cycles, which takes eight sums in flight.
_UNITS = 2
_CHAINS = 8
# What loads cost beside the products that hide most of them, in cycles for each summed element: a
# vector of weights comes from L2, a broadcast of data from L1.
_WEIGHT_CYCLES = 0.3
_DATA_CYCLES = 0.1
_PACKING_CYCLES = 1.5

# Products that take as long as an element of an elementwise stage.
_PRODUCTS_AN_ELEMENT = 8

# Fewer rows than this do not pay for packing the weights.
_ROWS_WORTH_PACKING = 16
_SHORTEST_VECTOR = 4


def choose_tile(work: Contraction, machine: Machine) -> Tile:
    """Return the register tile that costs the fewest cycles by a simple model of a core."""
    contiguous = work.weights.strides is not None and work.weights.strides[work.f] == 1
    passes = math.prod(work.info.extents[a] for a in work.outer) * work.rows
    # Vectors of few columns are short; so are those of weights that are read as they are because
    # there are too few rows to pay for packing.
    lanes = min(machine.lanes, 1 << (work.columns - 1).bit_length())
    common = math.gcd(work.columns, lanes)
    if contiguous and passes < _ROWS_WORTH_PACKING and common >= _SHORTEST_VECTOR:
        lanes = common
    candidates = [
        Tile(rows, vectors, lanes, packed=not contiguous or work.columns % (vectors * lanes) != 0)
        for vectors in (1, 2, 3, 4, 6, 8)
        for rows in range(1, machine.registers)
        if rows * vectors + vectors + 1 < machine.registers
    ]

    def cycles(tile: Tile) -> tuple[float, int]:
        tiles = math.ceil(work.rows / tile.rows) * math.ceil(work.columns / tile.columns)
        products = max(tile.rows * tile.vectors, _CHAINS) / _UNITS
        step = products + _WEIGHT_CYCLES * tile.vectors + _DATA_CYCLES * tile.rows
        packing = _PACKING_CYCLES * work.columns / lanes * work.rows / passes
        return tiles * step + (packing if tile.packed else 0), -tile.columns

    return min(candidates, key=cycles)


def apply(function: tirx.PrimFunc, target: tvm.target.Target, name: str) -> tirx.PrimFunc | None:
    """Schedule a function that has a contraction; None if it has none."""
    sch = s_tir.Schedule(function)
    for block in top_blocks(sch):
        try:
            info = block_info(sch.get(block))
        except NotAnalysableError:
            continue
        work = match_contraction(info)
        if work is not None:
            machine = machine_of(target)
            sch, rest = schedule_contraction(function, info.name, work, machine)
            schedule_stages(sch, machine, rest)
            return sch.mod["main"]
    return None


def schedule_contraction(
    function: tirx.PrimFunc, name: str, work: Contraction, machine: Machine
) -> tuple[s_tir.Schedule, list[str]]:
    """Rebuild the stage ``name`` with register tiles and schedule it with what is around it.

    Returns the schedule and the names of the stages that are still to be scheduled.
    """
    tile = choose_tile(work, machine)
    epilogue = _epilogue_info(function, name, work)
    sums = tirx.decl_buffer(sum_shape(work, tile), "float32", name=ACCUMULATE)
    written = work.info.writes[0].buffer
    rebuilt = replace_stage(
        function,
        name,
        tiled_sums(work, tile),
        [work.data.buffer, work.weights.buffer, sums],
        [sums],
    )
    if epilogue is None:
        copy = tiled_epilogue(work, tile, sums, None)
        rebuilt = insert_stage(rebuilt, ACCUMULATE, copy)
    else:
        rebuilt = replace_nest(rebuilt, epilogue.name, tiled_epilogue(work, tile, sums, epilogue))
        kept = [b for b in rebuilt.body.block.alloc_buffers if not b.same_as(written)]
        rebuilt = with_buffers(rebuilt, kept)
    sch = s_tir.Schedule(rebuilt)
    done = {ACCUMULATE, EPILOGUE, PACK}
    names = stage_names(sch)
    total = sch.get_sblock(ACCUMULATE)
    tasks, tile_loop = _tile_loops(sch, work, tile, machine)
    _schedule_sum(sch, total, tile_loop, tile)
    if tile.packed:
        schedule_injective(sch, sch.get_sblock(PACK), machine)
    done |= padding_at(sch, total, tasks, machine, apart=done)
    return sch, [name for name in names if name not in done]


def _epilogue_info(function: tirx.PrimFunc, name: str, work: Contraction) -> BlockInfo | None:
    sch = s_tir.Schedule(function)
    block = find_epilogue(sch, sch.get_sblock(name), work.info)
    return None if block is None else block_info(sch.get(block))


def _tile_loops(
    sch: s_tir.Schedule, work: Contraction, tile: Tile, machine: Machine
) -> tuple[Any, Any]:
    """Order the loops of the epilogue; return the parallel loop and the loop of one tile."""
    loops = sch.get_loops(sch.get_sblock(EPILOGUE))
    count = len(work.outer)
    outer, (x_tile, group, panel), per_tile = (
        loops[:count],
        loops[count : count + 3],
        loops[count + 3 :],
    )
    blocked, in_task = _row_block(sch, work, tile, machine, outer, x_tile)
    sch.reorder(*blocked, group, panel, *in_task, *per_tile)
    tasks = math.prod(extent_of(sch, loop) for loop in blocked)
    task = sch.fuse(*blocked, *([group, panel] if tasks < machine.tasks else []))
    if work.info.size >= _PRODUCTS_AN_ELEMENT * machine.parallel_elements:
        sch.parallel(task)
    if work.columns % tile.lanes == 0:
        sch.vectorize(per_tile[-1])  # Otherwise LLVM does it, with masks.
    return task, in_task[-1]


def _row_block(
    sch: s_tir.Schedule,
    work: Contraction,
    tile: Tile,
    machine: Machine,
    outer: list[Any],
    x_tile: Any,
) -> tuple[list[Any], list[Any]]:
    """Split rows into blocks whose data fit L2; return the loops outside and inside of a task."""
    info = work.info
    in_weights = axes_of(info, work.weights.indices)
    rows = [i for i, a in enumerate(work.outer) if a not in in_weights and info.extents[a] > 1]
    line = 4 * work.summed * tile.rows  # bytes of data that one tile reads, at most
    if rows:
        position = rows[-1]
        count = extent_of(sch, outer[position])
        line *= math.ceil(work.rows / tile.rows)
        others = math.prod(extent_of(sch, loop) for i, loop in enumerate(outer) if i != position)
        size = _block(count, others, machine, line)
        blocks, inside = sch.split(outer[position], [None, size])
        return [*outer[:position], blocks, *outer[position + 1 :]], [inside, x_tile]
    others = math.prod(extent_of(sch, loop) for loop in outer)
    size = _block(extent_of(sch, x_tile), others, machine, line)
    blocks, inside = sch.split(x_tile, [None, size])
    return [*outer, blocks], [inside]


def _block(count: int, others: int, machine: Machine, line_bytes: int) -> int:
    """Return the largest divisor that leaves enough tasks and fits L2."""
    best = 1
    for size in range(1, count + 1):
        enough = others * (count // size) >= machine.tasks
        if count % size == 0 and enough and size * line_bytes <= machine.l2_bytes:
            best = size
    return best


def _schedule_sum(sch: s_tir.Schedule, total: Any, tile_loop: Any, tile: Tile) -> None:
    sch.compute_at(total, tile_loop, preserve_unit_loops=True)
    info = block_info(sch.get(total))
    loops = sch.get_loops(total)[-len(info.extents) :]
    spatial, sums = loops[: len(info.spatial())], loops[len(info.spatial()) :]
    row, column = spatial[-2:]
    vector, lane = sch.split(column, [None, tile.lanes])
    sch.reorder(*sums, row, vector, lane)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    start = sch.decompose_reduction(total, sums[0])
    row, vector, lane = sch.get_loops(start)[-3:]
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
