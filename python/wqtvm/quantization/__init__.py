"""Group-wise int8: the arithmetic, the numpy reference of every stage, and the per-layer plan."""

from __future__ import annotations

from .arithmetic import Quantized, dequantize, fma32, quantize
from .bfloat16_reference import Bfloat16Stages
from .direct_reference import DirectStages, direct_reference
from .image_reference import ImageStages
from .metrics import psnr_db, sqnr_db
from .plan import LayerPlan, Plan, Reason
from .reference import (
    FullStages,
    HadamardStages,
    convolution_reference,
    full_reference,
    hadamard_reference,
)
from .scheme import Scheme
from .weights import QuantizedWeights, quantize_weights

__all__ = [
    "Bfloat16Stages",
    "DirectStages",
    "FullStages",
    "HadamardStages",
    "ImageStages",
    "LayerPlan",
    "Plan",
    "Quantized",
    "QuantizedWeights",
    "Reason",
    "Scheme",
    "convolution_reference",
    "dequantize",
    "direct_reference",
    "fma32",
    "full_reference",
    "hadamard_reference",
    "psnr_db",
    "quantize",
    "quantize_weights",
    "sqnr_db",
]
