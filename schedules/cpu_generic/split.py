"""Reductions cut in two stages, so that there are vectors and parallel tasks to be had.

A sum over neighbours in memory gets a sum for each lane of a vector; a long sum with few results
is cut into parts that threads share; a sum over a group of few channels is taken for each channel
first. The second stage adds up. The cuts depend on shapes and vectors, not on the number of
threads, and so do the results.
"""

from __future__ import annotations

import math
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import SBlockRealize

from .access import Access, BlockInfo, NotAnalysableError, axes_in_values, block_info
from .inline import top_blocks
from .machine import Machine
from .reshape import cut_axis, join_axes, join_results, stage_info
from .rewrite import stages, substitute, with_body

# Vectors that a lane-wise sum uses at once, to hide the latency of additions.
_VECTORS = 4

# Parts of a long sum, about.
_PARTS = 16

# Results that one task makes at most before they are shared among tasks.
_LONGEST_ROW = 4096


def split_reductions(function: tirx.PrimFunc, machine: Machine) -> tirx.PrimFunc:
    """Return the function with its reductions cut, into parts for threads and into lanes."""
    for name, _ in stages(function):
        try:
            function = _split(function, name, machine)
        except NotAnalysableError:
            continue  # The rules say what they make of it.
    return _guarded(function)


def main_read(info: BlockInfo) -> Access:
    """Return the read that moves most data.

    Raises
    ------
    NotAnalysableError
        If no read has a known stride.
    """
    known = [read for read in info.reads if read.strides is not None]
    if not known:
        raise NotAnalysableError(f"stage {info.name} reads memory without a known stride")

    def elements(read: Access) -> int:
        assert read.strides is not None
        pairs = zip(info.extents, read.strides, strict=True)
        return math.prod(extent for extent, stride in pairs if stride)

    return max(known, key=elements)


def contiguous_axis(info: BlockInfo, read: Access) -> int | None:
    """Return the axis along which a read goes from one element of memory to the next."""
    assert read.strides is not None
    for axis, stride in enumerate(read.strides):
        if stride == 1 and info.extents[axis] > 1:
            return axis
    return None


def inner_results(info: BlockInfo) -> list[int]:
    """Return the result axes for the innermost loop: those contiguous in every access."""
    accesses = [info.writes[0], *info.reads]
    written = info.writes[0].strides
    assert written is not None
    spatial = sorted(
        (axis for axis in info.spatial() if info.extents[axis] > 1),
        key=lambda axis: written[axis],
    )
    if not spatial:
        return [info.spatial()[-1]]
    inner = spatial[:1]
    for axis in spatial[1:]:
        last = inner[0]
        joined = all(
            access.strides is not None
            and access.strides[axis] == access.strides[last] * info.extents[last]
            for access in accesses
        )
        if not joined:
            break
        inner.insert(0, axis)
    return inner


def axis_loops(sch: s_tir.Schedule, block: Any) -> list[Any]:
    """Return a loop for each axis of a block that is not moved yet.

    A stage that ``rfactor`` made has its axes in another order than its loops.
    """
    loops = sch.get_loops(block)
    realize = sch.get(loops[-1]).body
    found = []
    for value in realize.iter_values:
        same = [loop for loop in loops if sch.get(loop).loop_var.same_as(value)]
        found.append(same[0] if same else sch.add_unit_loop(block))
    return found


def fused(sch: s_tir.Schedule, loops: list[Any]) -> Any:
    """Fuse loops, if there are several."""
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def _channels_joined(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """Return the function with groups and the channels of a group as one axis of a stage."""
    info = stage_info(function, name)
    written = info.writes[0].strides
    assert written is not None
    by_stride = sorted((a for a in info.spatial() if info.extents[a] > 1), key=lambda a: written[a])
    return join_results(function, name, by_stride[1], by_stride[0])


def lanes_apart(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """Return the function with a sum for each value of a reduction's last axis, its lanes."""
    sch = _schedule(function)
    block = sch.get_sblock(name)
    rank = len(block_info(sch.get(block)).spatial())
    sch.rfactor(axis_loops(sch, block)[-1], rank)
    return sch.mod["main"]


def row_width(extent: int, machine: Machine) -> int:
    """Return how many lanes a row of sums uses at once: more vectors hide the latency of sums."""
    width = machine.lanes
    while width < _VECTORS * machine.lanes and extent >= 8 * width:
        width *= 2
    return width


def _split(function: tirx.PrimFunc, name: str, machine: Machine) -> tirx.PrimFunc:
    info = stage_info(function, name)
    if not info.is_reduction or any(write.strides is None for write in info.writes):
        return function
    if any(info.reductions[axis] for axis in axes_in_values(info)):
        return function  # An index is a result, as in argmax: of equal values the first has to win.
    function = join_axes(function, name)
    info = stage_info(function, name)
    read = main_read(info)
    last = contiguous_axis(info, read)
    rank = len(info.spatial())
    if last is None or not info.reductions[last]:
        long = _axis_to_cut(info, machine, math.prod(info.extents[a] for a in inner_results(info)))
        if long is not None:
            return _factored(function, name, long, _part(info.extents[long]), 0)[0]
        return function
    others = [a for a in info.reduced() if a != last and info.extents[a] > 1]
    if others and info.extents[last] < machine.lanes and _results_follow(info, read, last):
        function, partial = _factored(function, name, last, info.extents[last], rank)
        function = _channels_joined(function, partial)
        return _split(function, partial, machine)
    long = _axis_to_cut(info, machine, 1)
    if long is not None:
        function, partial = _factored(function, name, long, _part(info.extents[long]), rank)
        return _split(function, partial, machine)
    return _run_apart(function, name, info, _summed_run(info, read), machine)


def _run_apart(
    function: tirx.PrimFunc, name: str, info: BlockInfo, run: list[int], machine: Machine
) -> tirx.PrimFunc:
    """Give every lane of a vector a sum of its own."""
    long = [axis for axis in run if info.extents[axis] > 1]
    extent = math.prod(info.extents[axis] for axis in run)
    if extent < machine.lanes:
        return function
    width = row_width(extent, machine)
    rank = len(info.spatial())
    if len(long) == 1:
        cut = cut_axis(function, name, long[0], width)
        return function if cut is None else lanes_apart(cut, name)
    sch = _schedule(function)
    loops = axis_loops(sch, sch.get_sblock(name))
    rest = [axis for axis in info.reduced() if axis not in run]
    sch.reorder(*(loops[axis] for axis in (*info.spatial(), *rest, *run)))
    _, lanes = sch.split(fused(sch, [loops[axis] for axis in run]), [None, width])
    sch.rfactor(lanes, rank)
    return sch.mod["main"]


def _factored(
    function: tirx.PrimFunc, name: str, axis: int, parts: int, position: int
) -> tuple[tirx.PrimFunc, str]:
    """Cut a summed axis into parts with sums of their own; return the name of their stage."""
    sch = _schedule(function)
    loop = axis_loops(sch, sch.get_sblock(name))[axis]
    outer, _ = sch.split(loop, [parts, None])
    partial = sch.rfactor(outer, position)
    return sch.mod["main"], str(sch.get(partial).name_hint)


def _schedule(function: tirx.PrimFunc) -> s_tir.Schedule:
    sch = s_tir.Schedule(function)
    for block in top_blocks(sch):
        if not sch.get_loops(block):
            sch.add_unit_loop(block)  # rfactor fails beside a block without a loop.
    return sch


def _axis_to_cut(info: BlockInfo, machine: Machine, width: int) -> int | None:
    """Return the summed axis to be cut into parallel parts, None if there is work enough as is.

    ``width`` is the number of results that one task makes.
    """
    tasks = math.prod(info.extents[axis] for axis in info.spatial()) // width
    if tasks >= machine.tasks or info.size < machine.parallel_elements or width > _LONGEST_ROW:
        return None
    longest = max(info.reduced(), key=lambda axis: info.extents[axis])
    return longest if _part(info.extents[longest]) > 1 else None


def _part(extent: int) -> int:
    """Return a divisor of the extent near the number of parts wanted, leaving parts to sum."""
    most = max(1, min(extent // 2, 2 * _PARTS))
    return max(d for d in range(1, most + 1) if extent % d == 0)


def _results_follow(info: BlockInfo, read: Access, last: int) -> bool:
    """Say whether a result axis goes on in memory where the summed axis ``last`` ends."""
    assert read.strides is not None
    return any(
        read.strides[axis] == info.extents[last] and info.extents[axis] > 1
        for axis in info.spatial()
    )


def _summed_run(info: BlockInfo, read: Access) -> list[int]:
    """Return the summed axes that together are contiguous in memory, outermost first."""
    assert read.strides is not None
    run: list[int] = []
    step = 1
    for axis in reversed(info.reduced()):
        if read.strides[axis] != step and info.extents[axis] > 1:
            break
        run.insert(0, axis)
        step *= info.extents[axis]
    return run


def _guarded(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return the function with the predicates of blocks moved into their bodies.

    ``compute_at`` makes the loops of a block anew from what its readers need, and forgets a
    predicate over summed axes: the sum would run over the edge.
    """

    def move(realize: Any) -> Any:
        if isinstance(realize.predicate, tirx.IntImm):
            return realize
        values = dict(zip(realize.iter_values, realize.block.iter_vars, strict=True))
        values = {loop: axis.var for loop, axis in values.items() if isinstance(loop, tirx.Var)}
        guard = substitute(realize.predicate, values)
        body = tirx.IfThenElse(guard, realize.block.body, None)
        return SBlockRealize(realize.iter_values, True, with_body(realize.block, body))

    return function.with_body(tvm_ffi.structural_map(function.body, (SBlockRealize, move)))
