"""Give every quantized operator its target's schedule.

Ordering: after FuseTIR, which puts epilogues behind the operators; before
`schedule_generic_cpu`, which takes what is left, and before the lowering to the virtual machine.
"""

from __future__ import annotations

from tvm import ir, tirx

from ..schedules.kernels import kernels_of
from ..schedules.operators import operator_of
from ..target import TargetRecord


def schedule_operators(module: ir.IRModule, record: TargetRecord) -> ir.IRModule:
    """Schedule each function that holds a quantized operator."""
    kernels = kernels_of(record)
    scheduled = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and operator_of(function):
            result = kernels.schedule(function).with_attr("tirx.is_scheduled", True)
            scheduled.update_func(name, result.with_attrs(_kept_attributes(function)))
    return scheduled


def _kept_attributes(function: tirx.PrimFunc) -> dict[str, object]:
    return {key: value for key, value in (function.attrs or {}).items() if key != "op_pattern"}
