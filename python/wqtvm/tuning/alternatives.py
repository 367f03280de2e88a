"""Other algorithms for a network's layers, to be tuned beside their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..config import WinogradConfig
from ..planning.candidates import candidates
from ..planning.cost import predict
from ..quantization.plan import LayerPlan, Reason
from ..target import TargetRecord, usable_cpus


def with_alternatives(
    layers: Iterable[LayerPlan], record: TargetRecord, threads: int | None, count: int
) -> list[LayerPlan]:
    """The layers, and after each the int8 ways that are predicted to be fastest.

    Accuracy is not asked for: algorithm "auto" does, which then takes the measured times.

    Parameters
    ----------
    threads : that compute a layer; all usable CPUs if None.
    count : of other ways for a layer.
    """
    threads = threads or usable_cpus()
    found: list[LayerPlan] = []
    for layer in layers:
        found.append(layer)
        if layer.algorithm == "float" and layer.reason is not Reason.BUDGET:
            continue
        own = layer.is_int8
        config = WinogradConfig(
            algorithm="auto",
            precision=layer.precision if own else WinogradConfig.precision,  # type: ignore[arg-type]
            group_size=layer.group_size or 0 if own else WinogradConfig.group_size,
        )
        direct = replace(
            layer, algorithm="direct", tile=None, points=None, column_points=None, s_b=None,
            s_g=None, precision=config.precision, group_size=config.group_size,
            scales="correlated", steps=config.steps, weight_steps="tap", activation_steps="pixel",
            reason=Reason.ELIGIBLE,
        )  # fmt: skip
        offered = candidates(direct, config, lambda each: predict(each, record, threads).ms)
        others = [
            candidate.layer
            for candidate in sorted(offered, key=lambda c: c.layer.predicted_ms or 0.0)
            if candidate.layer.algorithm != "float"
        ]
        found += others[:count]
    return found
