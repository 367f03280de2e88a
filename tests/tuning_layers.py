"""What tests of tuning share: plans of small layers."""

from __future__ import annotations

from wqtvm.fastconv import bilinear_algorithm
from wqtvm.quantization.plan import LayerPlan, Plan, Reason
from wqtvm.target import lookup
from wqtvm.topi.layer import workload_of
from wqtvm.tuning.task import Task


def layer(
    name: str = "conv",
    *,
    algorithm: str = "winograd",
    tile: int | None = 4,
    channels: tuple[int, int] = (32, 48),
    size: tuple[int, int] = (11, 14),
    precision: str = "hadamard",
    group_size: int = 32,
    batch: int = 1,
) -> LayerPlan:
    points = bilinear_algorithm(algorithm, tile, "best", 3).points or None
    inputs, outputs = channels
    return LayerPlan(
        name, (batch, inputs, *size), (outputs, inputs, 3, 3), (1, 1), (1, 1), (1, 1), 1,
        algorithm, tile, points, precision, group_size, "standard", "channel", "tap",
        Reason.ELIGIBLE,
    )  # fmt: skip


def small_plan() -> Plan:
    return Plan((layer("body.0"), layer("body.1"), layer("tail", algorithm="direct", tile=None)))


def task(threads: int = 2, target: str = "wq", **options: object) -> Task:
    record = lookup(target)
    return Task(workload_of(layer(**options), record), record, threads)  # type: ignore[arg-type]
