"""Group-wise, fully quantized int8 Winograd convolutions for PyTorch networks, on Apache TVM."""

from .target import register_targets

register_targets()
