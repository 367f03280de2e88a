"""What is tuned: a layer by one algorithm, on one target, by so many threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm import tirx

from ..quantization.plan import LayerPlan, Plan
from ..schedules.kernels import Kernels, kernels_of
from ..schedules.narrow_parameters import WIDE, narrow_parameters
from ..schedules.space import Point, Space
from ..schedules.tuned import key_of, records_of
from ..target import TargetRecord, usable_cpus
from ..topi.direct_workload import DirectWorkload
from ..topi.layer import Work, definition_of, workload_of


@dataclass(frozen=True)
class Task:
    """One layer to tune.

    Attributes
    ----------
    work : the layer, not divided yet.
    record : of the target.
    threads : that compute it.
    images : dtype of what the layer takes and gives.
    """

    work: Work
    record: TargetRecord
    threads: int
    images: str = WIDE

    def __reduce__(self) -> tuple[Any, ...]:
        # Not what is cached: a space's points may be many, and it has functions.
        return Task, (self.work, self.record, self.threads, self.images)

    @cached_property
    def key(self) -> str:
        """What its records are found by."""
        return key_of(self.work, self.record, self.threads, self.images)

    @cached_property
    def space(self) -> Space:
        """What may be chosen."""
        return self._kernels.space(self.work, self.threads)

    @property
    def _kernels(self) -> Kernels:
        return kernels_of(self.record)

    @property
    def name(self) -> str:
        """For people: "F(4,3) g64 320->320@64x64"."""
        work, scheme = self.work, self.work.scheme
        is_direct = isinstance(work, DirectWorkload)
        words = ["direct" if is_direct else scheme.name]
        if scheme.precision == "full":
            words.append("full")
        if scheme.activation_steps == "image":
            words.append("image")
        else:
            words.append(f"g{scheme.group_size}" if scheme.group_size else "one group")
        if is_direct and scheme.kernel != 3:
            words.append(f"{scheme.kernel}x{scheme.kernel}")
        if isinstance(work, DirectWorkload) and work.stride != 1:
            words.append(f"stride {work.stride}")
        channels = f"{work.in_channels}->{work.out_channels}"
        batch = f" x{work.batch}" if work.batch != 1 else ""
        images = f" {self.images}" if self.images != WIDE else ""
        return f"{' '.join(words)} {channels}@{work.height}x{work.width}{batch}{images}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct convolution."""
        work = self.work
        outputs = work.batch * work.out_height * work.out_width * work.out_channels
        return outputs * work.in_channels * work.scheme.kernel**2

    def divided(self, point: Point) -> Work:
        """The workload in the sizes of a point."""
        divided: Work = self._kernels.divided(self.work, self.threads, point)
        return divided

    def scheduled(self, point: Point) -> tirx.PrimFunc:
        """The kernel at a point: a function ``main`` of the input, the weights and the output."""
        function = self._kernels.schedule(definition_of(self.divided(point)))
        if self.images == WIDE:
            return function
        return narrow_parameters(function, (0, len(function.params) - 1), self.images)


def tasks_of(
    layers: Iterable[LayerPlan], record: TargetRecord, threads: int, images: str = WIDE
) -> list[tuple[Task, int]]:
    """The tasks of int8 layers, each once, with the number of layers that it is of."""
    counted = Counter(_works(layers, record))
    return [(Task(work, record, threads, images), count) for work, count in counted.items()]


def tuned_layers(plan: Plan, record: TargetRecord, records: str) -> str:
    """Say how many int8 layers of a plan have records, compiled for all usable CPUs."""
    found, threads = records_of(record, records), usable_cpus()
    works = _works(plan.layers, record)
    count = sum(found.winner(work, record, threads, plan.images) is not None for work in works)
    return (
        f"{count} of {len(works)} int8 layers have a tuned kernel for {threads} threads "
        f"(records: {records})"
    )


def _works(layers: Iterable[LayerPlan], record: TargetRecord) -> list[Work]:
    """The workloads of the int8 layers."""
    return [workload_of(layer, record) for layer in layers if layer.is_int8]
