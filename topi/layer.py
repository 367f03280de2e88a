"""The workload of a planned layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .direct_workload import DirectWorkload
from .workload import WinogradWorkload

if TYPE_CHECKING:
    from ..quantization.plan import LayerPlan
    from ..target import DotProduct


def workload_of(layer: LayerPlan, dot: DotProduct) -> DirectWorkload | WinogradWorkload:
    """The workload of an int8 layer, not divided into blocks.

    Raises
    ------
    NotEligibleError
        If the layer is computed in float.
    """
    scheme = layer.scheme()
    images, channels, height, width = layer.input_shape
    shape = (images, height, width, channels, layer.weight_shape[0], layer.padding[0])
    if scheme.is_direct:
        return DirectWorkload(scheme, *shape, dot, layer.stride[0])
    return WinogradWorkload(scheme, *shape, dot)
