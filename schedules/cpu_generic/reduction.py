"""Stages that sum, or take a maximum, over axes: reductions, pooling, depthwise convolutions.

Two shapes of loop cover them all:

* Neighbours in memory are results of their own (pooling, depthwise convolution, a sum over the
  rows of an image, the lane-wise sums of ``split``): the innermost loop runs over results, vector
  by vector, the sums are around it, and the accumulators of a few vectors stay in registers.
* Neighbours in memory are summed, and few (the second stage of ``split``): plain loops.

Budget: at most four accumulator vectors, four vectors of data and of weights; a row of
accumulators that is longer, or no multiple of a vector, stays in L1.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from tvm import s_tir

from .access import BlockInfo, NotAnalysableError, block_info
from .injective import extent_of, vectorize_inner
from .inline import is_padding
from .machine import Machine
from .pairwise import mark_pairwise
from .segments import guarded_from, mark_segments
from .split import axis_loops, contiguous_axis, fused, inner_results, main_read

_VECTORS = 4

# Accumulators of a task where they do not stay in registers: 8 KB.
_ROW = 2048


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
    if any(write.strides is None for write in info.writes):
        raise NotAnalysableError(f"stage {info.name} does not write one result at each place")
    last = contiguous_axis(info, main_read(info))
    if last is not None and info.reductions[last]:
        return _sums_inside(sch, block, info, machine)
    return _results_inside(sch, block, info, machine)


def _results_inside(sch: s_tir.Schedule, block: Any, info: BlockInfo, machine: Machine) -> set[str]:
    inner = inner_results(info)
    epilogue = find_epilogue(sch, block, info)
    if epilogue is not None or info.extents[inner[-1]] >= machine.lanes:
        # TVM cannot tell the region of a fused loop that is split again, and fused indices may
        # turn a vector into a gather.
        inner = inner[-1:]
    target = block if epilogue is None else epilogue
    loops = axis_loops(sch, target)
    if epilogue is None:
        place_of = {axis: axis for axis in info.spatial()}
        sums = [loops[axis] for axis in info.reduced()]
    else:
        place_of = {axis: place for place, axis in enumerate(info.spatial())}
        sums = []
    outside = [loops[place_of[axis]] for axis in info.spatial() if axis not in inner]
    row_loops = [loops[place_of[axis]] for axis in inner]
    sch.reorder(*outside, *sums, *row_loops)
    row = fused(sch, row_loops)
    size = _row_size(extent_of(sch, row), machine)
    if size < extent_of(sch, row):
        chunk, row = sch.split(row, [None, size])
        sch.reorder(chunk, *sums, row)
        outside.append(chunk)
    if not outside:
        outside.append(sch.add_unit_loop(sums[0] if sums else row))
    outside = _parallel(sch, outside, info, machine)
    names = {info.name}
    if epilogue is not None:
        names.add(str(sch.get(epilogue).name_hint))
        vectorize_inner(sch, row, machine)
        axes = move_to(sch, block, outside[-1])
        sums = [axes[axis] for axis in info.reduced()]
        results = [axes[axis] for axis in info.spatial()]
        sch.reorder(*sums, *results)
        row = fused(sch, results)
    _vectorize_results(sch, row, machine)
    padding = padding_at(sch, block, outside[0], machine)
    _start(sch, block, sums[0], machine)
    return names | padding


def _sums_inside(sch: s_tir.Schedule, block: Any, info: BlockInfo, machine: Machine) -> set[str]:
    epilogue = find_epilogue(sch, block, info)
    names = {info.name}
    target = block
    if epilogue is not None:
        names.add(str(sch.get(epilogue).name_hint))
        target = epilogue
    loops = axis_loops(sch, target)
    target_info = block_info(sch.get(target))
    spatial = [loops[axis] for axis in target_info.spatial()]
    sums = [loops[axis] for axis in target_info.reduced()]
    if not spatial:
        spatial = [sch.add_unit_loop(sums[0] if sums else target)]
    sch.reorder(*spatial, *sums)
    task = fused(sch, spatial)
    partial = _lanes_stage(sch, block, info, machine)
    elements = info.size if partial is None else block_info(sch.get(partial)).size
    if elements >= machine.parallel_elements:
        sch.parallel(task)
    if epilogue is not None:
        sch.compute_at(block, task)
    if partial is None:
        return names | padding_at(sch, block, task, machine)
    names.add(str(sch.get(partial).name_hint))
    if len(sums) == 1 and epilogue is None:
        mark_pairwise(sch, block, sums[0])
    place_lanes(sch, partial, task, machine)
    return names | padding_at(sch, partial, task, machine)


def _lanes_stage(sch: s_tir.Schedule, block: Any, info: BlockInfo, machine: Machine) -> Any | None:
    """Return the stage of lane-wise sums that this one adds up, if it is such a one."""
    producers = sch.get_producers(block)
    if len(producers) != 1:
        return None
    producer = block_info(sch.get(producers[0]))
    rows = math.prod(info.extents[axis] for axis in info.spatial())
    results = math.prod(producer.extents[axis] for axis in producer.spatial())
    lanes = math.prod(info.extents[axis] for axis in info.reduced())
    if not producer.is_reduction or results != rows * lanes or lanes % machine.lanes:
        return None
    along = contiguous_axis(producer, main_read(producer))
    return producers[0] if along is not None and not producer.reductions[along] else None


def place_lanes(sch: s_tir.Schedule, partial: Any, task: Any, machine: Machine) -> None:
    """Move a stage of lane-wise sums to its row and vectorise it."""
    info = block_info(sch.get(partial))
    axes = move_to(sch, partial, task)
    written = info.writes[0].strides
    assert written is not None
    lanes = next(axes[a] for a in info.spatial() if written[a] == 1 and info.extents[a] > 1)
    sums = [axes[axis] for axis in info.reduced()]
    sch.reorder(*(axes[a] for a in info.spatial() if axes[a] is not lanes), *sums, lanes)
    _vectorize_results(sch, lanes, machine)
    _start(sch, partial, sums[0], machine)
    guarded = guarded_from(info, info.reduced()[-1])
    if guarded is not None:
        extent = info.extents[info.reduced()[-1]]
        mark_segments(sch, sums[-1], [0, guarded, extent] if guarded < extent else [0, extent], 0)


def padding_at(
    sch: s_tir.Schedule,
    block: Any,
    task: Any,
    machine: Machine,
    apart: Collection[str] = (),
) -> set[str]:
    """Compute the padding that a block reads in the task that reads it; return what is done.

    The stages named ``apart`` stay where they are.
    """
    done = set()
    for producer in sch.get_producers(block):
        info = block_info(sch.get(producer))
        if info.is_reduction or info.name in apart:
            continue
        if is_padding(info) and len(sch.get_consumers(producer)) == 1:
            sch.compute_at(producer, task)
            vectorize_inner(sch, sch.get_loops(producer)[-1], machine)
            done.add(info.name)
    return done


def move_to(sch: s_tir.Schedule, block: Any, loop: Any) -> list[Any]:
    """Compute a block at a loop; return its loops, one for each of its axes, in their order."""
    count = len(sch.get(block).iter_vars)
    sch.compute_at(block, loop, preserve_unit_loops=True)
    return list(sch.get_loops(block)[-count:])


def _row_size(width: int, machine: Machine) -> int:
    if width % machine.lanes:
        return _ROW
    vectors = width // machine.lanes
    return machine.lanes * max(v for v in range(1, _VECTORS + 1) if vectors % v == 0)


def _parallel(
    sch: s_tir.Schedule, outside: list[Any], info: BlockInfo, machine: Machine
) -> list[Any]:
    """Fuse as many outer loops as make tasks enough; return the task loop and those inside it."""
    count = 1
    while count < len(outside) and _extents(sch, outside[:count]) < machine.tasks:
        count += 1
    task = fused(sch, outside[:count])
    if info.size >= machine.parallel_elements:
        sch.parallel(task)
    return [task, *outside[count:]]


def _vectorize_results(sch: s_tir.Schedule, row: Any, machine: Machine) -> None:
    if extent_of(sch, row) % machine.lanes == 0:
        vector, lane = sch.split(row, [None, machine.lanes])
        if extent_of(sch, vector) <= _VECTORS:
            sch.unroll(vector)
        sch.vectorize(lane)


def _start(sch: s_tir.Schedule, block: Any, loop: Any, machine: Machine) -> None:
    """Set the accumulators to their start values before a loop, in vectors."""
    first = sch.get_loops(sch.decompose_reduction(block, loop))
    if extent_of(sch, first[-1]) == machine.lanes:
        sch.vectorize(first[-1])
        if len(first) > 1 and extent_of(sch, first[-2]) <= _VECTORS:
            sch.unroll(first[-2])


def _extents(sch: s_tir.Schedule, loops: list[Any]) -> int:
    return math.prod(extent_of(sch, loop) for loop in loops)


def find_epilogue(sch: s_tir.Schedule, block: Any, info: BlockInfo) -> Any | None:
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
