"""Schedule everything on a CPU that has no schedule yet, by the rules of `schedules.cpu_generic`.

A function that no rule fits still compiles, to serial loops. It is slow, so it is not passed over
in silence: the pass warns, and lists it in the module attribute `UNSCHEDULED`.

Ordering: after FuseTIR and `schedule_operators`, whose functions it leaves alone; before the
lowering to the virtual machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import tvm_ffi
from tvm import ir, target, tirx, transform
from tvm.s_tir import SBlock

from ..errors import UnscheduledOperatorError
from ..schedules.cpu_generic import schedule_function

UNSCHEDULED = "wq.unscheduled"
SCHEDULED = "tirx.is_scheduled"

_OWN_SCHEDULED = "wq.is_scheduled"
_OPERATOR = "wq.operator"


class UnscheduledOperatorWarning(UserWarning):
    """A function runs as serial loops, or by a slower rule than it should."""


@transform.module_pass(opt_level=0, name="wq.ScheduleGenericCpu")
def schedule_generic_cpu(module: ir.IRModule, _: transform.PassContext) -> ir.IRModule:
    """Schedule the functions that are not scheduled, for the current target."""
    current = target.Target.current(allow_none=False)
    result = module.clone()
    remarks: list[str] = []
    for name, function in module.functions_items():
        if not isinstance(function, tirx.PrimFunc) or not _is_ours(function):
            continue
        try:
            scheduled = schedule_function(function, current, name.name_hint)
        except UnscheduledOperatorError as error:
            remarks.append(str(error))
            continue
        result.update_func(name, scheduled.function.with_attr(SCHEDULED, True))
        if scheduled.problems:
            problems = "; ".join(scheduled.problems)
            remarks.append(f"{name.name_hint} is left to the rule {scheduled.rule} ({problems})")
    for remark in remarks:
        warnings.warn(remark, UnscheduledOperatorWarning, stacklevel=2)
    return result.with_attr(UNSCHEDULED, remarks)


def unscheduled(module: ir.IRModule) -> Sequence[str]:
    """Return the pass's remarks: name and reason of each function that it could not do well."""
    return [str(remark) for remark in (module.attrs or {}).get(UNSCHEDULED, ())]


def _is_ours(function: tirx.PrimFunc) -> bool:
    """Say whether a function is to be scheduled here: it has none, and no operator of ours."""
    attributes = function.attrs or {}
    if any(bool(attributes.get(key, False)) for key in (SCHEDULED, _OWN_SCHEDULED)):
        return False
    operators: list[SBlock] = []

    def visit(block: SBlock) -> None:
        if _OPERATOR in block.annotations:
            operators.append(block)

    tvm_ffi.structural_walk(function.body, (SBlock, visit))
    return not operators
