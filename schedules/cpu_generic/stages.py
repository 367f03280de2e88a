"""Functions of several stages that no other rule joins: each stage gets loops of its own.

Budget: that of the stages' own schedules; what passes from one stage to the next goes through L2
or memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm.target
from tvm import s_tir, tirx

from .access import block_info
from .inline import top_blocks
from .injective import schedule_injective
from .machine import Machine, machine_of
from .reduction import schedule_reduction
from .split import split_reductions


def apply(
    function: tirx.PrimFunc, target: tvm.target.Target, name: str
) -> tirx.PrimFunc | None:
    """Schedule any function all of whose stages can be understood."""
    machine = machine_of(target)
    sch = s_tir.Schedule(split_reductions(function, machine))
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
