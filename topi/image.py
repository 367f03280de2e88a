"""What the operators read of the image: its pixels, and zeros around it."""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx

from .arithmetic import float32
from .workload import Workload


def image_or_zero(
    work: Workload, image: te.Tensor, pixel: tuple[Any, Any, Any], g: Any, s: Any
) -> Any:
    """Channel s of group g of a pixel (z, row, column), or 0 outside the image or its channels."""
    size = work.group_size
    z, row, column = pixel
    inside = [row >= 0, row < work.height, column >= 0, column < work.width]
    if work.in_channels % size:
        # In units of a common divisor, so that whole vectors lie inside or outside.
        unit = math.gcd(work.in_channels, size)
        inside.append((g * size + s) // unit < work.in_channels // unit)
    return tirx.if_then_else(tirx.all(*inside), image[z, row, column, g * size + s], float32(0))
