"""The schedule of a function on a CPU, by the operator that it holds."""

from __future__ import annotations

from tvm import tirx

from .direct_cpu import DirectBlocking, schedule_direct
from .operators import DIRECT, operator_of
from .winograd_cpu import CpuBlocking, schedule_winograd


def schedule_cpu(
    function: tirx.PrimFunc, winograd: CpuBlocking, direct: DirectBlocking
) -> tirx.PrimFunc:
    """Schedule a function that holds a quantized operator."""
    if operator_of(function) == DIRECT:
        return schedule_direct(function, direct)
    return schedule_winograd(function, winograd)
