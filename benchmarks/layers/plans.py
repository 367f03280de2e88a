"""Layers of the race as wqtvm plans them."""

from __future__ import annotations

from wqtvm import WinogradConfig
from wqtvm.quantization.plan import LayerPlan, Reason
from wqtvm.transform.plan_convolutions import plan_layers

from .layers import Layer


def planned(layer: Layer, config: WinogradConfig) -> LayerPlan:
    """A layer as a configuration that names an algorithm has it."""
    absent = ("tile", "points", "precision", "group_size", "scales", "steps", "weight_steps")
    eligible = LayerPlan(
        name=layer.name,
        input_shape=(layer.batch, layer.in_channels, layer.height, layer.width),
        weight_shape=(layer.out_channels, layer.in_channels, layer.kernel, layer.kernel),
        stride=(layer.stride,) * 2,
        padding=(layer.kernel // 2,) * 2,
        dilation=(1, 1),
        groups=1,
        algorithm="float",
        reason=Reason.ELIGIBLE,
        **dict.fromkeys(absent),  # type: ignore[arg-type]
    )
    (found,) = plan_layers([eligible], config)
    return found
