"""What is the same for both operators: a layer's workload, its definition, its packed weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from tvm import tirx

from ..errors import ConfigError
from .direct import direct_conv2d
from .direct_bfloat16 import direct_bfloat16_conv2d
from .direct_image import direct_image_conv2d
from .direct_workload import DirectWorkload, pack_direct_weights
from .winograd import winograd_conv2d
from .workload import WinogradWorkload, pack_weights

if TYPE_CHECKING:
    from ..quantization import QuantizedWeights
    from ..quantization.plan import LayerPlan
    from ..target import TargetRecord

Work = DirectWorkload | WinogradWorkload


def workload_of(layer: LayerPlan, record: TargetRecord) -> Work:
    """The workload of a layer that is not float, not divided into blocks.

    Raises
    ------
    NotEligibleError
        If the layer is computed in float.
    ConfigError
        If the target has no products of its precision.
    """
    scheme = layer.scheme()
    dot = record.bfloat16 if scheme.is_bfloat16 else record.dot
    if dot is None:
        raise ConfigError(
            f"layer {layer.name}: precision is 'bfloat16', of which {record.name} has no "
            "products; give target 'wq/x86-amx' or 'wq/x86-bf16', or algorithm 'float'"
        )
    images, channels, height, width = layer.input_shape
    shape = (images, height, width, channels, layer.weight_shape[0], layer.padding[0])
    if scheme.is_direct:
        return DirectWorkload(scheme, *shape, dot, layer.stride[0])
    return WinogradWorkload(scheme, *shape, dot)


def definition_of(work: Work) -> tirx.PrimFunc:
    """What a workload computes, without a schedule."""
    if not isinstance(work, DirectWorkload):
        return winograd_conv2d(work)
    if work.scheme.is_bfloat16:
        return direct_bfloat16_conv2d(work)
    if work.is_image:
        return direct_image_conv2d(work)
    return direct_conv2d(work)


def packed_weights(weights: QuantizedWeights, work: Work) -> dict[str, NDArray[Any]]:
    """Quantized weights as the operator reads them, in the order of its parameters."""
    if isinstance(work, DirectWorkload):
        return pack_direct_weights(weights, work)
    return pack_weights(weights, work)
