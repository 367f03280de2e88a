"""What algorithm "auto" plans for a network, as schemes for the emulation."""

from __future__ import annotations

import sys

import torch

from wqtvm import WinogradConfig
from wqtvm.frontend import from_torch
from wqtvm.planning import plan_network
from wqtvm.planning.candidates import saved
from wqtvm.quantization.plan import LayerPlan
from wqtvm.quantization.scheme import Scheme
from wqtvm.transform import pipeline

from .measure import Subject

LOSS_DB = 0.1


def automatic_schemes(
    subject: Subject, *, data: bool
) -> tuple[dict[str, Scheme | None], float, tuple[LayerPlan, ...]]:
    """Schemes by layer, their multiplications relative to direct convolutions, and the plan.

    Parameters
    ----------
    data : whether the planner is given the network's first input, and the truth for it where it is
        known; else no more than single numbers of it, such as a level of noise.
    """
    imported = from_torch(subject.model, subject.inputs[0])
    prepared = pipeline.prepare(imported.module)
    plan = plan_network(
        prepared,
        WinogradConfig(algorithm="auto", max_loss_db=LOSS_DB),
        inputs=subject.inputs[0] if data else None,
        examples=[x if x.numel() == 1 else torch.zeros_like(x) for x in subject.inputs[0]],
        targets=[subject.truth[0]] if data and subject.truth else None,
        progress=lambda stage, done, total: print(
            f"\r{stage} {done}/{total} ", end="", file=sys.stderr, flush=True
        ),
    )
    layers = {layer.name: layer for layer in plan.layers}
    missing = subject.layers.keys() - layers.keys()
    if missing:
        raise ValueError(f"the plan has no layer {min(missing)}; it has {sorted(layers)}")
    schemes = {
        name: None if layers[name].algorithm == "float" else layers[name].scheme()
        for name in subject.layers
    }
    chosen = tuple(layers[name] for name in subject.layers)
    return schemes, 1 / saved(list(chosen)), chosen
