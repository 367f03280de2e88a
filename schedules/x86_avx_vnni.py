"""AVX-VNNI: eight dot products of four u8 x s8 pairs an instruction (``vpdpbusd`` ymm)."""

from __future__ import annotations

from .cpu import CpuKernels
from .direct_cpu import DirectBlocking
from .vnni import dot_intrinsic, instructions_256
from .winograd_blocking import CpuBlocking

_LANES = 8
_INSTRUCTIONS = instructions_256()

# Sixteen ymm registers: 4 x 2 accumulators, two vectors of U, a broadcast of V, and the sums as far
# as they fit. L2 is 1.25 MiB or more a fast core; four small ones share 2 MiB.
_WINOGRAD = CpuBlocking(
    lanes=_LANES,
    dot_lanes=_LANES,
    dot_reduce=4,
    register_tiles=4,
    register_vectors=2,
    intrinsic=None,
    l2_bytes=320 * 1024,
    instructions=_INSTRUCTIONS,
)

# 3 x 2 accumulators, as many sums of taps, two vectors of U, a broadcast of V, a converted count.
_DIRECT = DirectBlocking(
    lanes=_LANES,
    dot_lanes=_LANES,
    dot_reduce=4,
    register_pixels=(6, 3),
    l1_bytes=32 * 1024,
    intrinsic=dot_intrinsic(_LANES),
    task_pixels=96,
    instructions=_INSTRUCTIONS,
)

KERNELS = CpuKernels(_WINOGRAD, _DIRECT)
