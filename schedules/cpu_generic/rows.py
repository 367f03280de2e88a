"""Softmax, layer norm and whatever else works row by row: a row is read, reduced and rewritten.

    for each row, in parallel:
        every stage of the row, one after the other

Budget: a row and what is computed from it (twice or three times a row of a few KB) stays in L1,
or in L2 if it is long; a stage itself needs one to four vectors.
"""

from __future__ import annotations

import math

import tvm.target
from tvm import s_tir, tirx

from .access import BlockInfo, NotAnalysableError, block_info
from .injective import vectorize_inner
from .inline import top_blocks
from .machine import Machine, machine_of
from .pairwise import mark_pairwise
from .reduction import move_to, place_lanes
from .reshape import cut_rows
from .split import fused, lanes_apart, row_width


def apply(function: tirx.PrimFunc, target: tvm.target.Target, name: str) -> tirx.PrimFunc | None:
    """Schedule a function all of whose stages work row by row; None if it does not fit."""
    sch = schedule_rows(function, machine_of(target))
    return None if sch is None else sch.mod["main"]


def schedule_rows(function: tirx.PrimFunc, machine: Machine) -> s_tir.Schedule | None:
    """Schedule a function all of whose stages work row by row; None if it does not fit."""
    sch = s_tir.Schedule(function)
    try:
        infos = [block_info(sch.get(block)) for block in top_blocks(sch)]
    except NotAnalysableError:
        return None
    rank = _row_rank(infos)
    if rank is None:
        return None
    rows = math.prod(infos[-1].extents[:rank])
    if rows < machine.tasks and infos[-1].size >= machine.parallel_elements:
        return None  # Few long rows: each is better shared among threads.
    length = next(info.extents[info.reduced()[0]] for info in infos if info.is_reduction)
    if length > machine.lanes:
        cut = cut_rows(function, length, row_width(length, machine))
        if cut is not None:
            function = cut
            for info in infos:
                if info.is_reduction:
                    function = lanes_apart(function, info.name)
    sch = s_tir.Schedule(function)
    *stages, final = top_blocks(sch)
    loops = sch.get_loops(final)
    row = fused(sch, loops[:rank])
    if len(loops) > rank:
        vectorize_inner(sch, fused(sch, loops[rank:]), machine)
    if infos[-1].size >= machine.parallel_elements:
        sch.parallel(row)
    whole = {info.name for info in infos}
    for block in reversed(stages):
        info = block_info(sch.get(block))
        if info.is_reduction and info.name not in whole:
            place_lanes(sch, block, row, machine)
            continue
        loops = move_to(sch, block, row)
        if info.is_reduction:
            mark_pairwise(sch, block, loops[next(iter(info.reduced()))])
        elif len(loops) > rank:
            vectorize_inner(sch, fused(sch, loops[rank:]), machine)
    return sch


def _row_rank(infos: list[BlockInfo]) -> int | None:
    """Return how many leading axes count the rows, if every stage has the same ones."""
    reductions = [info for info in infos if info.is_reduction]
    if not reductions or len(infos) < 2 or infos[-1].is_reduction:
        return None
    rank = len(reductions[0].spatial())
    while rank > 1 and reductions[0].extents[rank - 1] == 1:
        rank -= 1
    head = reductions[0].extents[:rank]
    for info in infos:
        if info.extents[:rank] != head or any(info.reductions[:rank]):
            return None
        if info.is_reduction:
            summed = info.reduced()
            if len(summed) != 1 or any(info.extents[a] > 1 for a in info.spatial()[rank:]):
                return None
            # The row has to be contiguous, and the same for all.
            if not any(r.strides and r.strides[summed[0]] == 1 for r in info.reads):
                return None
        for access in [*info.reads, *info.writes]:
            if access.strides is None:
                return None
    return rank
