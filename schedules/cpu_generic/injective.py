"""Stages without a sum: elementwise, broadcast and every movement of data.

Budget: one vector of the result and of each operand, so three or four registers; the tiles of a
transposition are 16 x 16 values, 2 KB on both sides together, and stay in L1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

from .access import BlockInfo, NotAnalysableError, axes_in_values, block_info
from .inline import is_padding
from .machine import Machine
from .rewrite import nest_of, replace_nest, substitute

# Edge of the tiles in which a strided read is turned into a contiguous write.
_TRANSPOSE_TILE = 16

# Vectors that one iteration of the innermost loop may hold, so that short loops have no overhead.
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
    if not outer:
        chunk = _chunk(extent_of(sch, inner), machine.lanes)
        outer_loop, inner = sch.split(inner, [None, chunk])
        outer = [outer_loop]
    vectorize_inner(sch, inner, machine, conditional=is_padding(info))
    if info.size >= machine.parallel_elements:
        sch.parallel(sch.fuse(*outer))


def vectorize_inner(
    sch: s_tir.Schedule, loop: Any, machine: Machine, conditional: bool = False
) -> None:
    """Vectorise an innermost loop of any extent; what is left of the last vector runs alone."""
    extent = extent_of(sch, loop)
    if extent % machine.lanes == 0 and not conditional:
        _, lane = sch.split(loop, [None, machine.lanes])
        sch.vectorize(lane)
    elif conditional:
        # Pieces on which the condition does not change; LLVM vectorises each.
        sch.annotate(loop, "pragma_loop_partition_hint", 1)
    # Otherwise LLVM vectorises the loop and its tail.


def flatten_stage(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """Return the function with axes of an injective stage joined that run through memory as one.

    An access gets its offset as the last index, with zeros before. Loops that are fused by the
    schedule instead leave quotients and remainders in the indices, which the simplifier does not
    always cancel, and then a vector is gathered lane by lane. Buffers inside of the function keep
    their indices, since their shape may still be shrunk to what is accessed.
    """
    sch = s_tir.Schedule(function)
    info = block_info(sch.get(sch.get_sblock(name)))
    inside = function.body.block.alloc_buffers
    groups = _joined_axes(info, inside)
    if len(groups) == len(info.extents):
        return function
    variables = [tirx.Var(f"v{i}", info.variables[0].ty.dtype) for i in range(len(groups))]
    extents = [math.prod(info.extents[axis] for axis in group) for group in groups]
    values = {
        info.variables[axis]: variable if len(group) == 1 else tirx.const(0, variable.ty.dtype)
        for group, variable in zip(groups, variables, strict=True)
        for axis in group
    }

    def indices(buffer: Any, old: Sequence[Any]) -> list[Any]:
        if any(buffer.same_as(b) for b in inside):
            return [substitute(index, values) for index in old]
        access = next(
            a
            for a in (*info.reads, *info.writes)
            if a.buffer.same_as(buffer) and tvm_ffi.structural_equal(a.indices, tuple(old))
        )
        assert access.strides is not None
        offset = tirx.const(access.origin, variables[0].ty.dtype)
        for group, variable in zip(groups, variables, strict=True):
            offset = offset + variable * access.strides[group[-1]]
        return [*(tirx.const(0, offset.ty.dtype) for _ in old[1:]), offset]

    def on_load(load: Any) -> Any:
        return tirx.BufferLoad(load.source, indices(load.source, load.indices))

    def on_store(store: Any) -> Any:
        return tirx.BufferStore(store.buffer, store.value, indices(store.buffer, store.indices))

    body = tvm_ffi.structural_map(
        info.node.body, [(ir.TensorLoad, on_load), (tirx.BufferStore, on_store)]
    )
    body = substitute(body, values)
    return replace_nest(function, name, nest_of(name, variables, extents, body))


def _joined_axes(info: BlockInfo, inside: Sequence[Any]) -> list[list[int]]:
    """Return the axes in groups along which every access runs as along one axis."""
    accesses = [*info.reads, *info.writes]
    count = len(info.extents)
    named = axes_in_values(info)
    if any(access.strides is None for access in accesses):
        return [[axis] for axis in range(count)]

    def joined(axis: int) -> bool:
        if axis in named or axis - 1 in named:
            return False
        for access in accesses:
            assert access.strides is not None
            outer, inner = access.strides[axis - 1], access.strides[axis]
            kept = any(access.buffer.same_as(b) for b in inside)
            if kept and (outer or inner):
                return False
            if info.extents[axis - 1] > 1 and outer != inner * info.extents[axis]:
                return False
        return True

    groups = [[0]] if count else []
    for axis in range(1, count):
        if joined(axis):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


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
    return min(_LONGEST_CHUNK // 2, extent) if extent > _SHORTEST_CHUNK else math.gcd(extent, extent)
