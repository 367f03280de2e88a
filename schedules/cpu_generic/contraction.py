"""Sums of products of two tensors: convolutions and matrix products of every layout.

One of the output's axes, f, is an axis of the weights alone (output channels, columns); another, x,
of the data alone (image columns, rows of a matrix). A tile of x by f is accumulated in registers:

    for tasks of other axes and blocks of rows, in parallel:
        padding of the rows, if the operator pads
        for each panel of f (in parallel, too, and the padding before, if tasks would be few):
            for each part of a long sum:
                for each row and tile of x:
                    for every summed element: a broadcast of data a row of the tile, times the panel
            epilogue of the tiles

Budget: with p pixels by v vectors of f, p * v accumulators, v vectors of weights and one broadcast
fit the register file (14 x 2 + 3 of 32 with AVX-512 and NEON, 6 x 2 + 3 of 16 with AVX2). A panel's
part of the weights, summed elements times v vectors, takes half of L2 at most, in the order of use;
a task's rows of data should stay there, too. Constant weights are packed before the network runs
(`CONSTANTS`). Tails: f is padded with zeros in the packed weights, x repeats its last row, and what
is computed too much is never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm.target
from tvm import s_tir, tirx

from .access import BlockInfo, NotAnalysableError, block_info
from .contraction_blocks import choose_blocks
from .contraction_match import Contraction, match_contraction
from .contraction_stages import (
    ACCUMULATE,
    EPILOGUE,
    PACK,
    PARTIAL,
    Rows,
    Tile,
    sum_shape,
    tiled_epilogue,
    tiled_sums,
)
from .injective import schedule_injective
from .inline import top_blocks
from .machine import Machine, machine_of
from .reduction import find_epilogue, move_to, padding_at
from .rewrite import insert_stage, replace_nest, replace_stage, with_buffers
from .stages import schedule_stages, stage_names

# Products that take as long as an element of an elementwise stage.
_PRODUCTS_AN_ELEMENT = 8

CONSTANTS = "wq.constants"
"""Attribute of a function: positions of parameters that are the same at each run."""


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
    blocks = choose_blocks(work, machine, _is_constant(function, work.weights.buffer))
    tile, rows = blocks.tile, blocks.rows
    epilogue = _epilogue_info(function, name, work)
    sums = tirx.decl_buffer(sum_shape(work, blocks), "float32", name=ACCUMULATE)
    written = work.info.writes[0].buffer
    rebuilt = replace_stage(
        function,
        name,
        tiled_sums(work, blocks),
        [work.data.buffer, work.weights.buffer, sums],
        [sums],
    )
    if epilogue is None:
        copy = tiled_epilogue(work, blocks, sums, None)
        rebuilt = insert_stage(rebuilt, ACCUMULATE, copy)
    else:
        rebuilt = replace_nest(rebuilt, epilogue.name, tiled_epilogue(work, blocks, sums, epilogue))
        kept = [b for b in rebuilt.body.block.alloc_buffers if not b.same_as(written)]
        rebuilt = with_buffers(rebuilt, kept)
    sch = s_tir.Schedule(rebuilt)
    names = stage_names(sch)
    loops = _tile_loops(sch, work, tile, rows, machine)
    sums_of_tile = _schedule_sums(sch, loops, tile)
    done = {ACCUMULATE, PARTIAL, EPILOGUE, PACK}
    if tile.packed:
        schedule_injective(sch, sch.get_sblock(PACK), machine)
    if rows.tasks >= machine.tasks:
        done |= padding_at(sch, sums_of_tile, loops.task, machine, apart=done)
    return sch, [name for name in names if name not in done]


def _is_constant(function: tirx.PrimFunc, buffer: Any) -> bool:
    """Say whether a buffer is a parameter that is the same whenever the network runs."""
    constants = (function.attrs or {}).get(CONSTANTS, ())
    return any(function.params[int(position)].same_as(buffer) for position in constants)


def _epilogue_info(function: tirx.PrimFunc, name: str, work: Contraction) -> BlockInfo | None:
    sch = s_tir.Schedule(function)
    block = find_epilogue(sch, sch.get_sblock(name), work.info)
    return None if block is None else block_info(sch.get(block))


@dataclass(frozen=True)
class _Loops:
    """Loops around a tile: of parallel tasks, of a panel in a task, of a tile in a panel."""

    task: Any
    panel: Any
    tile: Any


def _tile_loops(
    sch: s_tir.Schedule, work: Contraction, tile: Tile, rows: Rows, machine: Machine
) -> _Loops:
    """Order the loops of the epilogue."""
    loops = sch.get_loops(sch.get_sblock(EPILOGUE))
    count = len(work.outer)
    outer, (x_tile, group, panel), per_tile = (
        loops[:count],
        loops[count : count + 3],
        loops[count + 3 :],
    )
    if rows.axis is None:
        blocks, inside = sch.split(x_tile, [None, rows.count])
        blocked, in_task = [*outer, blocks], [inside]
    else:
        position = work.outer.index(rows.axis)
        blocks, inside = sch.split(outer[position], [None, rows.count])
        blocked = [*outer[:position], blocks, *outer[position + 1 :]]
        in_task = [inside, x_tile]
    sch.reorder(*blocked, group, panel, *in_task, *per_tile)
    if rows.tasks < machine.tasks:
        task = panel = sch.fuse(*blocked, group, panel)
    else:
        task = sch.fuse(*blocked)
    if work.info.size >= _PRODUCTS_AN_ELEMENT * machine.parallel_elements:
        sch.parallel(task)
    if work.columns % tile.lanes == 0:
        *unrolled, lane = per_tile
        for loop in unrolled:
            sch.unroll(loop)  # So that sums go from registers to the result.
        sch.vectorize(lane)  # Otherwise LLVM does it, with masks.
    return _Loops(task, panel, in_task[-1])


def _schedule_sums(sch: s_tir.Schedule, loops: _Loops, tile: Tile) -> Any:
    """Schedule the sums of a tile, and of parts if there are any; return the block of products."""
    total = sch.get_sblock(ACCUMULATE)
    products = sch.get_producers(total)
    if not any(sch.get(producer).name_hint == PARTIAL for producer in products):
        _accumulate(sch, total, loops.tile, tile)
        return total
    partial = sch.get_sblock(PARTIAL)
    if tile.summed is not None:
        move_to(sch, total, loops.tile)
        _accumulate(sch, partial, loops.tile, tile)
        return partial
    axes = move_to(sch, total, loops.panel)
    info = block_info(sch.get(total))
    outer = [axes[a] for a in info.spatial()[:-2]]
    row, column = (axes[a] for a in info.spatial()[-2:])
    parts = [axes[a] for a in info.reduced()]
    vector, lane = sch.split(column, [None, tile.lanes])
    sch.reorder(*parts, *outer, row, vector, lane)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    _accumulate(sch, partial, outer[-1], tile)
    start = sch.decompose_reduction(total, parts[0])
    sch.vectorize(sch.get_loops(start)[-1])
    return partial


def _accumulate(sch: s_tir.Schedule, block: Any, tile_loop: Any, tile: Tile) -> None:
    """Sum products in registers, at the loop of a tile."""
    axes = move_to(sch, block, tile_loop)
    info = block_info(sch.get(block))
    sums = [axes[a] for a in info.reduced()]
    row, column = (axes[a] for a in info.spatial()[-2:])
    vector, lane = sch.split(column, [None, tile.lanes])
    sch.reorder(*sums, row, vector, lane)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    start = sch.decompose_reduction(block, sums[0])
    row, vector, lane = sch.get_loops(start)[-3:]
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
