"""64-bit Arm with NEON, plainly: no intrinsic, LLVM chooses the instructions."""

from __future__ import annotations

from .cpu import CpuKernels
from .direct_cpu import DirectBlocking
from .winograd_blocking import CpuBlocking

# Thirty-two 128-bit registers: 4 x 2 accumulators and room for the widened products of bytes. L2 is
# 128 KiB a core on the smallest boards; U streams through it as well.
_WINOGRAD = CpuBlocking(
    lanes=4,
    dot_lanes=4,
    dot_reduce=4,
    register_tiles=4,
    register_vectors=2,
    intrinsic=None,
    l2_bytes=96 * 1024,
)

# 4 x 2 accumulators, as many sums of taps, and room for the widened products of bytes.
_DIRECT = DirectBlocking(
    lanes=4,
    dot_lanes=4,
    dot_reduce=4,
    register_pixels=(8, 4),
    l1_bytes=32 * 1024,
    intrinsic=None,
    task_pixels=96,
)

KERNELS = CpuKernels(_WINOGRAD, _DIRECT)
