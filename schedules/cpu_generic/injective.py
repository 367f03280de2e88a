"""Stages without a sum: elementwise, broadcast and every movement of data.

Budget: one vector of the result and of each operand, so three or four registers; the tiles of a
transposition are 16 x 16 values, 2 KB on both sides together, and stay in L1.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from .access import BlockInfo, NotAnalysableError, axes_in_values, block_info
from .machine import Machine
from .reshape import cut_axis, stage_info
from .segments import boundaries, mark_segments

# Edge of the tiles in which a strided read is turned into a contiguous write.
_TRANSPOSE_TILE = 16

# Elements of a flat stage that one task takes.
_LONGEST_CHUNK = 8192
_SHORTEST_CHUNK = 512


def schedule_injective(sch: s_tir.Schedule, block: Any, machine: Machine) -> None:
    """Schedule a stage of its own: vectors inside, threads outside.

    Raises
    ------
    NotAnalysableError
        If the block is no injective stage.
    """
    info = block_info(sch.get(block))
    if info.is_reduction or any(write.strides is None for write in info.writes):
        raise NotAnalysableError(f"stage {info.name} is not injective")
    loops = list(sch.get_loops(block))
    inner = loops[-1]
    outer = loops[:-1]
    transposed = _transposed_axis(info)
    if transposed is not None:
        _schedule_transposition(sch, loops, transposed, machine, info)
        return
    if extent_of(sch, inner) == machine.lanes and len(loops) == 2:
        # A flat stage that is cut into vectors already.
        sch.vectorize(inner)
        if info.size >= machine.parallel_elements:
            sch.parallel(loops[0])
        return
    if not outer:
        chunk = _chunk(extent_of(sch, inner), machine.lanes)
        outer_loop, inner = sch.split(inner, [None, chunk])
        outer = [outer_loop]
    last = len(info.extents) - 1
    places = boundaries(info, last) if last in axes_in_values(info) else None
    if places is not None and len(places) > 2 and outer == loops[:-1]:
        mark_segments(sch, inner, places, machine.lanes)
    elif places is None or len(places) == 2:
        vectorize_inner(sch, inner, machine)
    if info.size >= machine.parallel_elements:
        sch.parallel(sch.fuse(*outer))


def vectorize_inner(sch: s_tir.Schedule, loop: Any, machine: Machine) -> None:
    """Vectorise an innermost loop; LLVM does it, tail and all, where vectors do not fill it."""
    extent = sch.get(loop).extent
    if isinstance(extent, tirx.IntImm) and int(extent) % machine.lanes == 0:
        _, lane = sch.split(loop, [None, machine.lanes])
        sch.vectorize(lane)


def whole_vectors(function: tirx.PrimFunc, name: str, machine: Machine) -> tirx.PrimFunc:
    """Return the function with the last axis of an injective stage cut into whole vectors.

    Raises
    ------
    NotAnalysableError
        If the stage is outside of what the schedules understand.
    """
    info = stage_info(function, name)
    last = len(info.extents) - 1
    if last < 0 or info.extents[last] < machine.lanes or info.is_reduction:
        return function
    plain = all(a.strides and a.strides[last] in (0, 1) for a in (*info.reads, *info.writes))
    whole = info.extents[last] % machine.lanes == 0
    if whole or not plain or last in axes_in_values(info):
        return function
    if any(w.buffer.same_as(b) for w in info.writes for b in function.body.block.alloc_buffers):
        return function  # See cut_axis.
    return cut_axis(function, name, last, machine.lanes) or function


def extent_of(sch: s_tir.Schedule, loop: Any) -> int:
    """Return a loop's extent."""
    return int(sch.get(loop).extent)


def _transposed_axis(info: BlockInfo) -> int | None:
    """Return the axis along which a read is contiguous where the write is not, if there is one."""
    last = len(info.extents) - 1
    for read in info.reads:
        strides = read.strides
        if strides is None or strides[last] in (0, 1) or info.extents[last] == 1:
            continue
        for axis in range(last):
            if strides[axis] == 1 and info.extents[axis] > 1:
                return axis
    return None


def _schedule_transposition(
    sch: s_tir.Schedule, loops: list[Any], axis: int, machine: Machine, info: BlockInfo
) -> None:
    tile = [_TRANSPOSE_TILE, _TRANSPOSE_TILE]
    read_outer, read_inner = sch.split(loops[axis], [None, tile[0]])
    write_outer, write_inner = sch.split(loops[-1], [None, tile[1]])
    others = [loop for i, loop in enumerate(loops[:-1]) if i != axis]
    sch.reorder(*others, read_outer, write_outer, read_inner, write_inner)
    if info.size >= machine.parallel_elements:
        sch.parallel(sch.fuse(*others, read_outer))


def _chunk(extent: int, lanes: int) -> int:
    """Return how much of a flat loop one task takes: a divisor of it if there is a fair one."""
    for chunk in range(_LONGEST_CHUNK, _SHORTEST_CHUNK - 1, -lanes):
        if extent % chunk == 0:
            return chunk
    return min(_LONGEST_CHUNK // 2, extent)
