"""What a module of schedules has, ``KERNELS``: how a target computes its quantized operators."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from tvm import tirx

    from ..target import TargetRecord
    from .space import Point, Space


class Kernels(Protocol):
    """The quantized operators on one ISA. A workload is a ``DirectWorkload`` or a Winograd one."""

    def space(self, work: Any, threads: int) -> Space:
        """What may be chosen about a layer that so many threads compute."""

    def divided(self, work: Any, threads: int, point: Point | None = None) -> Any:
        """The workload in the sizes of a point of its space, of the default one if None."""

    def schedule(self, function: tirx.PrimFunc) -> tirx.PrimFunc:
        """Schedule a function that holds a quantized operator."""


def kernels_of(record: TargetRecord) -> Kernels:
    """The kernels of a target, from the module of ``wqtvm.schedules`` that its record names."""
    module = importlib.import_module(f"wqtvm.schedules.{record.schedule}")
    return cast(Kernels, module.KERNELS)
