"""Functions of several stages that no other rule joins: each stage gets loops of its own.

Budget: that of the stages' own schedules; what passes from one stage to the next goes through L2
or memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm.target
from tvm import s_tir, tirx

from .access import NotAnalysableError, block_info
from .injective import extent_of, schedule_injective, whole_vectors
from .inline import is_padding, top_blocks
from .interleave import interleave
from .machine import Machine, machine_of
from .reduction import find_epilogue, schedule_reduction
from .reshape import join_axes
from .split import axis_loops, fused, split_reductions


def apply(function: tirx.PrimFunc, target: tvm.target.Target, name: str) -> tirx.PrimFunc | None:
    """Schedule any function all of whose stages can be understood."""
    machine = machine_of(target)
    function = split_reductions(function, machine)
    for name in _injective_alone(s_tir.Schedule(function)):
        woven = interleave(function, name, machine)
        function = woven or whole_vectors(join_axes(function, name), name, machine)
    sch = s_tir.Schedule(function)
    schedule_stages(sch, machine, stage_names(sch))
    return sch.mod["main"]


def schedule_stages(sch: s_tir.Schedule, machine: Machine, names: Sequence[str]) -> None:
    """Schedule these stages of a function.

    Raises
    ------
    NotAnalysableError
        If a stage is neither injective nor a reduction.
    """
    # Reductions first, the last of them before the others: each takes along the padding and the
    # lane-wise sums that it reads, and the elementwise stage behind it.
    done: set[str] = set()
    for name in reversed(names):
        if name not in done and _is_reduction(sch, sch.get_sblock(name)):
            try:
                done |= schedule_reduction(sch, sch.get_sblock(name), machine)
            except NotAnalysableError:
                _share_elements(sch, sch.get_sblock(name), machine)
                done.add(name)
    for name in names:
        block = sch.get_sblock(name) if name not in done else None
        if block is None or not sch.get_loops(block):
            continue  # The second: one scalar.
        try:
            schedule_injective(sch, block, machine)
        except NotAnalysableError:
            _share_elements(sch, block, machine)


def _share_elements(sch: s_tir.Schedule, block: Any, machine: Machine) -> None:
    """Share the elements of a stage among threads, whatever is done for each of them.

    Raises
    ------
    NotAnalysableError
        If the elements depend on each other.
    """
    axes = sch.get(block).iter_vars
    loops = axis_loops(sch, block)
    own = [
        loop
        for axis, loop in zip(axes, loops, strict=True)
        if axis.iter_type == tirx.IterVar.DataPar
    ]
    if not own:
        raise NotAnalysableError(f"stage {sch.get(block).name_hint} has to run in order")
    sch.reorder(*own, *(loop for loop in loops if loop not in own))
    count = 1
    while count < len(own) and _extents(sch, own[:count]) < machine.tasks:
        count += 1
    sch.parallel(fused(sch, own[:count]))


def _extents(sch: s_tir.Schedule, loops: list[Any]) -> int:
    return math.prod(extent_of(sch, loop) for loop in loops)


def stage_names(sch: s_tir.Schedule) -> list[str]:
    """Return the names of the stages of a function in which nothing is scheduled yet."""
    return [str(sch.get(block).name_hint) for block in top_blocks(sch)]


def _is_reduction(sch: s_tir.Schedule, block: Any) -> bool:
    return any(axis.iter_type == tirx.IterVar.CommReduce for axis in sch.get(block).iter_vars)


def _injective_alone(sch: s_tir.Schedule) -> list[str]:
    """Return the injective stages that no reduction takes along."""
    taken = set()
    alone = []
    for block in top_blocks(sch):
        try:
            info = block_info(sch.get(block))
        except NotAnalysableError:
            continue
        if info.is_reduction:
            epilogue = find_epilogue(sch, block, info)
            if epilogue is not None:
                taken.add(str(sch.get(epilogue).name_hint))
        elif not is_padding(info) or not sch.get_consumers(block):
            alone.append(info.name)
    return [name for name in alone if name not in taken]
