"""The quantized operators on a CPU, by the numbers that an ISA gives their schedules."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ..topi.direct_workload import DirectWorkload
from ..topi.workload import WinogradWorkload
from .direct_cpu import DirectBlocking, schedule_direct
from .operators import DIRECT, operator_of
from .space import Point, Space
from .winograd_cpu import CpuBlocking, schedule_winograd


@dataclass(frozen=True)
class CpuKernels:
    """Both operators; see ``kernels.Kernels``."""

    winograd: CpuBlocking
    direct: DirectBlocking

    def space(self, work: WinogradWorkload | DirectWorkload, threads: int) -> Space:
        """What may be chosen about a layer that so many threads compute."""
        if isinstance(work, DirectWorkload):
            return self.direct.space(work, threads)
        return self.winograd.space(work, threads)

    def divided(
        self, work: WinogradWorkload | DirectWorkload, threads: int, point: Point | None = None
    ) -> WinogradWorkload | DirectWorkload:
        """The workload in the sizes of a point of its space, of the default one if None."""
        if isinstance(work, DirectWorkload):
            return self.direct.divided(work, threads, point)
        return self.winograd.divided(work, threads, point)

    def schedule(self, function: tirx.PrimFunc) -> tirx.PrimFunc:
        """Schedule a function that holds a quantized operator."""
        if operator_of(function) == DIRECT:
            return schedule_direct(function, self.direct)
        return schedule_winograd(function, self.winograd)
