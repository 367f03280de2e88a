"""What wqtvm plans for a network by running it."""

from __future__ import annotations

import sys

import torch

from wqtvm import WinogradConfig
from wqtvm.frontend import from_torch
from wqtvm.planning import plan_network
from wqtvm.quantization.plan import LayerPlan
from wqtvm.transform import pipeline

from .measure import Subject

_TARGET = "wq/x86-vnni"  # whose predicted times are minimized, wherever this runs


def planned_layers(
    subject: Subject, config: WinogradConfig, *, data: bool = False
) -> dict[str, LayerPlan]:
    """What wqtvm plans for the eligible layers, by name, and for all others that it has in int8.

    Parameters
    ----------
    data : whether the planner is given the network's first input, and the truth for it where it is
        known; else no more than single numbers of it, such as a level of noise.
    """
    imported = from_torch(subject.model, subject.inputs[0])
    plan = plan_network(
        pipeline.prepare(imported.module),
        config,
        target=_TARGET,
        inputs=subject.inputs[0] if data else None,
        examples=[x if x.numel() == 1 else torch.zeros_like(x) for x in subject.inputs[0]],
        targets=[subject.truth[0]] if data and subject.truth else None,
        progress=_say if sys.stderr.isatty() else None,
    )
    layers = {layer.name: layer for layer in plan.layers}
    missing = subject.layers.keys() - layers.keys()
    if missing:
        raise ValueError(f"the plan has no layer {min(missing)}; it has {sorted(layers)}")
    return {
        name: layer
        for name, layer in layers.items()
        if name in subject.layers or layer.algorithm != "float"
    }


def _say(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}/{total} ", end="", file=sys.stderr, flush=True)
