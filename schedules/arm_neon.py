"""64-bit Arm with NEON, plainly: no intrinsic, LLVM chooses the instructions."""

from __future__ import annotations

from tvm import tirx

from ..topi.direct_workload import DirectWorkload
from ..topi.workload import WinogradWorkload
from .cpu import schedule_cpu
from .direct_cpu import DirectBlocking
from .winograd_cpu import CpuBlocking

# Thirty-two 128-bit registers: 4 x 2 accumulators and room for the widened products of bytes. L2 is
# 128 KiB a core on the smallest boards; U streams through it as well.
_BLOCKING = CpuBlocking(
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


def tile_block(work: WinogradWorkload, threads: int) -> tuple[int, int]:
    """Choose the tile rows and columns that are computed together."""
    return _BLOCKING.tile_block(work, threads)


def direct_block(work: DirectWorkload, threads: int) -> DirectWorkload:
    """Choose what a task of a direct convolution computes."""
    return _DIRECT.blocked(work, threads)


def schedule(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Schedule a function that holds a quantized operator."""
    return schedule_cpu(function, _BLOCKING, _DIRECT)
