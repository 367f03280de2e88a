"""Functions of several stages that no other rule joins: each stage gets loops of its own.

Budget: that of the stages' own schedules; what passes from one stage to the next goes through L2
or memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm.target
from tvm import s_tir, tirx

from .access import block_info
from .inline import is_padding, top_blocks
from .injective import flatten_stage, schedule_injective
from .machine import Machine, machine_of
from .reduction import find_epilogue, schedule_reduction
from .split import split_reductions


def apply(
    function: tirx.PrimFunc, target: tvm.target.Target, name: str
) -> tirx.PrimFunc | None:
    """Schedule any function all of whose stages can be understood."""
    machine = machine_of(target)
    function = split_reductions(function, machine)
    sch = s_tir.Schedule(function)
    for name in _injective_alone(sch):
        function = flatten_stage(function, name)
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
        block = sch.get_sblock(name) if name not in done else None
        if block is not None and block_info(sch.get(block)).is_reduction:
            done |= schedule_reduction(sch, block, machine)
    for name in names:
        if name not in done:
            schedule_injective(sch, sch.get_sblock(name), machine)


def stage_names(sch: s_tir.Schedule) -> list[str]:
    """Return the names of the stages of a function in which nothing is scheduled yet."""
    return [str(sch.get(block).name_hint) for block in top_blocks(sch)]


def _injective_alone(sch: s_tir.Schedule) -> list[str]:
    """Return the injective stages that no reduction takes along."""
    taken = set()
    alone = []
    for block in top_blocks(sch):
        info = block_info(sch.get(block))
        if info.is_reduction:
            epilogue = find_epilogue(sch, block, info)
            if epilogue is not None:
                taken.add(str(sch.get(epilogue).name_hint))
        elif not is_padding(info) or not sch.get_consumers(block):
            alone.append(info.name)
    return [name for name in alone if name not in taken]
