"""Give a schedule to every function that has none yet: what stays float.

CPUs have schedules of our own, since TVM ships none; GPUs have TVM's DLight.

Ordering: after `schedule_operators`; before the lowering to the virtual machine.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import ir
from tvm.s_tir import dlight

from ..target import TargetRecord
from .schedule_generic_cpu import schedule_generic_cpu


def schedule_remainder(module: ir.IRModule, record: TargetRecord) -> ir.IRModule:
    """Schedule what is not scheduled, for the current target."""
    return _BY_ARCHITECTURE[record.architecture](module)


def _schedule_gpu(module: ir.IRModule) -> ir.IRModule:
    # Neither DLight's matrix product nor its GEMV: they import all of TVM's tensor intrinsics,
    # which takes minutes.
    rules = (dlight.gpu.Reduction(), dlight.gpu.GeneralReduction(), dlight.gpu.Fallback())
    return dlight.ApplyDefaultSchedule(*rules)(module)


_BY_ARCHITECTURE: dict[str, Callable[[ir.IRModule], ir.IRModule]] = {
    "x86_64": schedule_generic_cpu,
    "aarch64": schedule_generic_cpu,
    "cuda": _schedule_gpu,
}
