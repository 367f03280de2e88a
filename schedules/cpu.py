"""The quantized operators on a CPU, by the numbers that an ISA gives their schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from ..topi.direct_workload import DirectWorkload
from ..topi.workload import WinogradWorkload
from .aligned_stack import with_aligned_stack
from .attention_cpu import schedule_attention
from .direct_bfloat16_cpu import schedule_direct_bfloat16
from .direct_cpu import DirectBlocking, schedule_direct
from .direct_image_cpu import ImageBlocking, schedule_direct_image
from .operators import ATTENTION, DIRECT, DIRECT_BFLOAT16, DIRECT_IMAGE, operator_of
from .space import Point, Space
from .winograd_blocking import CpuBlocking
from .winograd_cpu import schedule_winograd


@dataclass(frozen=True)
class CpuKernels:
    """The operators; see ``kernels.Kernels``. Those of bfloat16 where the target has them."""

    winograd: CpuBlocking
    direct: DirectBlocking
    bfloat16: DirectBlocking | None = None

    def space(self, work: WinogradWorkload | DirectWorkload, threads: int) -> Space:
        """What may be chosen about a layer that so many threads compute."""
        space: Space = self._blocking(work).space(work, threads)
        return space

    def divided(
        self, work: WinogradWorkload | DirectWorkload, threads: int, point: Point | None = None
    ) -> WinogradWorkload | DirectWorkload:
        """The workload in the sizes of a point of its space, of the default one if None."""
        divided: WinogradWorkload | DirectWorkload
        divided = self._blocking(work).divided(work, threads, point)
        return divided

    def _blocking(self, work: WinogradWorkload | DirectWorkload) -> Any:
        if not isinstance(work, DirectWorkload):
            return self.winograd
        if work.scheme.is_bfloat16:
            return ImageBlocking(self._bfloat16)
        return ImageBlocking(self.direct) if work.is_image else self.direct

    @property
    def _bfloat16(self) -> DirectBlocking:
        assert self.bfloat16 is not None  # or no workload would have such a precision
        return self.bfloat16

    def schedule(self, function: tirx.PrimFunc) -> tirx.PrimFunc:
        """Schedule a function that holds a quantized operator."""
        return with_aligned_stack(self._scheduled(function), self.winograd.lanes)

    def _scheduled(self, function: tirx.PrimFunc) -> tirx.PrimFunc:
        operator = operator_of(function)
        if operator == ATTENTION:
            tiles = None if self.bfloat16 is None else self.bfloat16.tiles
            return schedule_attention(function, self.winograd.lanes, tiles)
        if operator == DIRECT:
            return schedule_direct(function, self.direct)
        if operator == DIRECT_IMAGE:
            return schedule_direct_image(function, self.direct)
        if operator == DIRECT_BFLOAT16:
            return schedule_direct_bfloat16(function, self._bfloat16)
        return schedule_winograd(function, self.winograd)
