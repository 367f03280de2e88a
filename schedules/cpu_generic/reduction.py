"""Stages that sum, or take a maximum, over axes: reductions, pooling, depthwise convolutions.

Two shapes of loop cover them all:

* Neighbours in memory are results of their own (pooling, depthwise convolution, a sum over the
  rows of an image): the innermost loop runs over results, vector by vector, the sums are inside,
  and the accumulators of a few vectors stay in registers.
* Neighbours in memory are summed (a sum over the last axis): every lane of a vector accumulates
  for itself, and the lanes are summed at the end of a row.

Budget: at most four accumulator vectors, four vectors of data and of weights; a row of
accumulators that is longer stays in L1.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import s_tir

from .access import Access, BlockInfo, NotAnalysableError, block_info
from .inline import is_padding
from .injective import extent_of, vectorize_inner
from .machine import Machine

_VECTORS = 4

# Accumulators that are kept in L1 rather than in registers: 16 KB.
_LONGEST_ROW = 4096

# Parts into which a long sum is cut when there is no other work to share among threads; a fixed
# number, so that results do not depend on how many threads there are.
_PARTS = 16


def schedule_reduction(sch: s_tir.Schedule, block: Any, machine: Machine) -> set[str]:
    """Schedule a reduction with the padding before and the elementwise stage behind it.

    Returns the names of the stages that are done.

    Raises
    ------
    NotAnalysableError
        If the block is no reduction, or reads memory in a way that has no known stride.
    """
    info = block_info(sch.get(block))
    if not info.is_reduction:
        raise NotAnalysableError(f"stage {info.name} sums over nothing")
    if not info.reads or any(write.strides is None for write in info.writes):
        raise NotAnalysableError(f"stage {info.name} does not write one result at each place")
    main = _main_read(info)
    last = _contiguous_axis(info, main)
    if last is None or not info.reductions[last]:
        inner = _inner_results(info)
        long = _axis_to_cut(info, machine, math.prod(info.extents[axis] for axis in inner))
        if long is not None:
            return _in_parts(sch, block, long, 0, machine)
        return _results_inside(sch, block, info, inner, machine)
    rank = len(info.spatial())
    others = [axis for axis in info.reduced() if axis != last and info.extents[axis] > 1]
    if others and info.extents[last] < machine.lanes and _spatial_run(info, main, last):
        # Groups of a few channels: sum them per channel first, the channels of a group at the end.
        return _two_stages(sch, block, axis_loops(sch, block)[last], rank, machine)
    long = _axis_to_cut(info, machine, 1)
    if long is not None:
        return _in_parts(sch, block, long, rank, machine)
    return _sums_inside(sch, block, info, main, machine)


def _axis_to_cut(info: BlockInfo, machine: Machine, width: int) -> int | None:
    """Return the summed axis to be cut into parallel parts, None if there is work enough as is.

    ``width`` is the number of results that one task makes.
    """
    tasks = math.prod(info.extents[axis] for axis in info.spatial()) // width
    if tasks >= machine.tasks or info.size < machine.parallel_elements or width > _LONGEST_ROW:
        return None
    longest = max(info.reduced(), key=lambda axis: info.extents[axis])
    return longest if _part(info.extents[longest]) > 1 else None


def _in_parts(
    sch: s_tir.Schedule, block: Any, axis: int, position: int, machine: Machine
) -> set[str]:
    loop = axis_loops(sch, block)[axis]
    parts, _ = sch.split(loop, [_part(extent_of(sch, loop)), None])
    return _two_stages(sch, block, parts, position, machine)


def _two_stages(
    sch: s_tir.Schedule, block: Any, loop: Any, position: int, machine: Machine
) -> set[str]:
    """Cut a reduction in two, the first of which keeps the loop's axis among its results."""
    name = str(sch.get(block).name_hint)
    partial = sch.rfactor(loop, position)
    done = schedule_reduction(sch, partial, machine)
    return done | schedule_reduction(sch, sch.get_sblock(name), machine)


def _results_inside(
    sch: s_tir.Schedule, block: Any, info: BlockInfo, inner: list[int], machine: Machine
) -> set[str]:
    epilogue = _epilogue(sch, block, info)
    target = block if epilogue is None else epilogue
    loops = axis_loops(sch, target)
    place_of = list(range(len(info.extents)))
    if epilogue is not None:
        place_of = [info.spatial().index(a) if a in info.spatial() else -1 for a in place_of]
    outside = [loops[place_of[a]] for a in info.spatial() if a not in inner]
    row_loops = [loops[place_of[a]] for a in inner]
    sums = [] if epilogue is not None else [loops[a] for a in info.reduced()]
    sch.reorder(*outside, *sums, *row_loops)
    row = _fused(sch, row_loops)
    width = extent_of(sch, row)
    size = _LONGEST_ROW // 2
    if width % machine.lanes == 0:
        vectors = width // machine.lanes
        size = machine.lanes * max(v for v in range(1, _VECTORS + 1) if vectors % v == 0)
    if size < width:
        chunk, row = sch.split(row, [None, size])
        sch.reorder(chunk, *sums, row)
        outside.append(chunk)
    if not outside:
        outside.append(sch.add_unit_loop(sums[0] if sums else row))
    count = 1
    while count < len(outside) and _extents(sch, outside[:count]) < machine.tasks:
        count += 1
    task = _fused(sch, outside[:count])
    outside = [task, *outside[count:]]
    if info.size >= machine.parallel_elements:
        sch.parallel(task)
    names = {info.name}
    if epilogue is not None:
        names.add(str(sch.get(epilogue).name_hint))
        vectorize_inner(sch, row, machine)
        axes = move_to(sch, block, outside[-1])
        sums = [axes[axis] for axis in info.reduced()]
        results = [axes[axis] for axis in info.spatial()]
        sch.reorder(*sums, *results)
        row = _fused(sch, results)
    if extent_of(sch, row) % machine.lanes == 0:
        vector, lane = sch.split(row, [None, machine.lanes])
        if extent_of(sch, vector) <= _VECTORS:
            sch.unroll(vector)
        sch.vectorize(lane)
    padding = padding_at(sch, block, task, machine)
    _start(sch, block, sums[0], machine)
    return names | padding


def _sums_inside(
    sch: s_tir.Schedule, block: Any, info: BlockInfo, main: Access, machine: Machine
) -> set[str]:
    loops = axis_loops(sch, block)
    run = _summed_run(info, main)
    others = [axis for axis in info.reduced() if axis not in run]
    sch.reorder(*(loops[axis] for axis in (*info.spatial(), *others, *run)))
    row = _fused(sch, [loops[axis] for axis in run])
    epilogue = _epilogue(sch, block, info)
    names = {info.name}
    partial = lanes_apart(sch, block, row, machine)
    total = sch.get_sblock(info.name)
    target = total
    if epilogue is not None:
        names.add(str(sch.get(epilogue).name_hint))
        target = epilogue
    task = _fused(sch, _spatial_loops(sch, target))
    if info.size >= machine.parallel_elements:
        sch.parallel(task)
    if epilogue is not None:
        sch.compute_at(total, task)
    if partial is None:
        return names | padding_at(sch, total, task, machine)
    names.add(str(sch.get(partial).name_hint))
    place_lanes(sch, partial, task, machine)
    return names | padding_at(sch, partial, task, machine)


def _spatial_loops(sch: s_tir.Schedule, block: Any) -> list[Any]:
    info = block_info(sch.get(block))
    loops = axis_loops(sch, block)
    spatial = [loops[axis] for axis in info.spatial()]
    sch.reorder(*spatial, *(loops[axis] for axis in info.reduced()))
    return spatial


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


def lanes_apart(sch: s_tir.Schedule, block: Any, row: Any, machine: Machine) -> Any | None:
    """Give every lane of a vector a sum of its own; return that stage, None for a short row."""
    extent = extent_of(sch, row)
    if extent < machine.lanes:
        return None
    width = machine.lanes
    while width < _VECTORS * machine.lanes and extent % (2 * width) == 0 and extent >= 8 * width:
        width *= 2
    rank = len(block_info(sch.get(block)).spatial())
    _, lanes = sch.split(row, [None, width])
    return sch.rfactor(lanes, rank)


def place_lanes(sch: s_tir.Schedule, partial: Any, task: Any, machine: Machine) -> None:
    """Move the stage of ``lanes_apart`` to its row and vectorise it."""
    info = block_info(sch.get(partial))
    axes = move_to(sch, partial, task)
    written = info.writes[0].strides
    assert written is not None
    lane_axis = next(a for a in info.spatial() if written[a] == 1 and info.extents[a] > 1)
    lanes = axes[lane_axis]
    sums = [axes[axis] for axis in info.reduced()]
    sch.reorder(*sums, lanes)
    if extent_of(sch, lanes) > machine.lanes:
        outer, lanes = sch.split(lanes, [None, machine.lanes])
        sch.unroll(outer)
    sch.vectorize(lanes)
    sch.annotate(sums[-1], "pragma_loop_partition_hint", 1)
    _start(sch, partial, sums[0], machine)


def padding_at(sch: s_tir.Schedule, block: Any, task: Any, machine: Machine) -> set[str]:
    """Compute the padding that a block reads in the task that reads it; return what is done."""
    done = set()
    for producer in sch.get_producers(block):
        info = block_info(sch.get(producer))
        if is_padding(info) and not info.is_reduction and not info.name.startswith("contraction"):
            sch.compute_at(producer, task)
            vectorize_inner(sch, sch.get_loops(producer)[-1], machine)
            done.add(info.name)
    return done


def move_to(sch: s_tir.Schedule, block: Any, loop: Any) -> list[Any]:
    """Compute a block at a loop; return its loops, one for each of its axes, in their order."""
    count = len(sch.get(block).iter_vars)
    sch.compute_at(block, loop, preserve_unit_loops=True)
    return list(sch.get_loops(block)[-count:])


def _start(sch: s_tir.Schedule, block: Any, loop: Any, machine: Machine) -> None:
    """Set the accumulators to their start values before a loop, in vectors."""
    first = sch.get_loops(sch.decompose_reduction(block, loop))
    if extent_of(sch, first[-1]) == machine.lanes:
        sch.vectorize(first[-1])
        if len(first) > 1 and extent_of(sch, first[-2]) <= _VECTORS:
            sch.unroll(first[-2])


def _fused(sch: s_tir.Schedule, loops: list[Any]) -> Any:
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def _extents(sch: s_tir.Schedule, loops: list[Any]) -> int:
    return math.prod(extent_of(sch, loop) for loop in loops)


def _main_read(info: BlockInfo) -> Access:
    """Return the read that moves most data."""
    known = [read for read in info.reads if read.strides is not None]
    if not known:
        raise NotAnalysableError(f"stage {info.name} reads memory without a known stride")

    def elements(read: Access) -> int:
        assert read.strides is not None
        return math.prod(
            extent for extent, stride in zip(info.extents, read.strides, strict=True) if stride
        )

    return max(known, key=elements)


def _contiguous_axis(info: BlockInfo, read: Access) -> int | None:
    assert read.strides is not None
    for axis, stride in enumerate(read.strides):
        if stride == 1 and info.extents[axis] > 1:
            return axis
    return None


def _spatial_run(info: BlockInfo, read: Access, last: int) -> bool:
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
        if read.strides[axis] == step or info.extents[axis] == 1:
            run.insert(0, axis)
            step *= info.extents[axis]
        else:
            break
    return run


def _inner_results(info: BlockInfo) -> list[int]:
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
        if all(
            access.strides is not None
            and access.strides[axis] == access.strides[last] * info.extents[last]
            for access in accesses
        ):
            inner.insert(0, axis)
        else:
            break
    return inner


def _epilogue(sch: s_tir.Schedule, block: Any, info: BlockInfo) -> Any | None:
    """Return the one elementwise stage that reads the result at its own place, if there is one."""
    consumers = sch.get_consumers(block)
    if len(consumers) != 1:
        return None
    try:
        other = block_info(sch.get(consumers[0]))
    except NotAnalysableError:
        return None
    written = info.writes[0].strides
    assert written is not None
    place = tuple(written[axis] for axis in info.spatial())
    buffers = [write.buffer for write in info.writes]
    reads = [read for read in other.reads if any(read.buffer.same_as(b) for b in buffers)]
    fits = (
        not other.is_reduction
        and other.extents == tuple(info.extents[axis] for axis in info.spatial())
        and all(read.strides == place for read in reads)
        and all(write.strides == place for write in other.writes)
    )
    return consumers[0] if fits else None


def _part(extent: int) -> int:
    """Return a divisor of the extent near the number of parts wanted, leaving parts to sum."""
    most = max(1, min(extent // 2, 2 * _PARTS))
    return max(d for d in range(1, most + 1) if extent % d == 0)
