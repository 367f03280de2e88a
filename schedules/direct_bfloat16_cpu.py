"""The schedule of the direct convolution in bfloat16, on tile registers or in vectors.

That of ``direct_image_cpu``, but nothing is looked for in the image before it is rounded, and the
sums are results as they are:

    for each row, zeros around the image, in parallel: rounded                       -> V
    for a block of the image and a panel, or a panel and a block, in parallel:
        for some pixels:                            accumulators, in registers
            for all taps and channels: products of bfloat16, 32 channels at a time, or 2
            epilogue, result

Budget: that of ``image_tile_kernel`` or ``direct_image_cpu``, whose loads are of as many bytes, and
whose products take as many cycles, for half the channels.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from .direct_cpu import DirectBlocking
from .direct_image_cpu import schedule_one_sum, schedule_v


def schedule_direct_bfloat16(function: tirx.PrimFunc, numbers: DirectBlocking) -> tirx.PrimFunc:
    """Schedule a direct convolution in bfloat16, and what is fused behind it."""
    return schedule_one_sum(function, numbers, _schedule_rounding)


def _schedule_rounding(sch: s_tir.Schedule, numbers: DirectBlocking, task: Any) -> None:
    lane, _ = schedule_v(sch, numbers, task)
    sch.vectorize(lane)
