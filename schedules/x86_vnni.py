"""AVX-512 VNNI: sixteen dot products of four u8 x s8 pairs an instruction (``vpdpbusd``)."""

from __future__ import annotations

from .cpu import CpuKernels
from .direct_cpu import DirectBlocking
from .vnni import dot_intrinsic, instructions_512
from .winograd_blocking import CpuBlocking

_LANES = 16
_INSTRUCTIONS = instructions_512()

# Thirty-two zmm registers: 8 x 2 accumulators, two vectors of U, a broadcast of V, and the sums as
# far as they fit. More accumulators would only wait longer where a group ends. L2 is 1 MiB or more;
# a panel of U streams through it as well.
_WINOGRAD = CpuBlocking(
    lanes=_LANES,
    dot_lanes=16,
    dot_reduce=4,
    register_tiles=8,
    register_vectors=3,
    intrinsic=None,
    l2_bytes=600 * 1024,
    instructions=_INSTRUCTIONS,
    # Of 4 tiles, 4 x 5 accumulators at most, with 5 vectors of U and a broadcast of V: 26
    # registers; 1.03 to 1.39 times as fast on maps of 8x8 as 4 x 2.
    few_tiles=4,
)

# 7 x 2 accumulators at most, and as many sums of taps: with two vectors of U, a broadcast of V and
# a converted count all 32 registers; 3 x 4 take 30. Twice the accumulators would load less for a
# product, but spill the sums, and the stack is not aligned for whole registers. Ten hide the
# latency of a product. In L1, with 4 vectors: U of a group 18 KiB, what accumulators start at
# 7 KiB, V of a block of 192 outputs about 12 KiB; M of such a block, 48 KiB, passes through from
# L2 once a group. Groups of 256 channels and more read U from L2: 24 accumulators read it half as
# often, and sums are spilled once in 64 products or more.
_DIRECT = DirectBlocking(
    lanes=_LANES,
    dot_lanes=16,
    dot_reduce=4,
    register_pixels=(12, 7, 4, 3),
    l1_bytes=48 * 1024,
    intrinsic=dot_intrinsic(_LANES),
    task_pixels=192,
    instructions=_INSTRUCTIONS,
    register_pixels_alone=(24, 12, 8, 6),
)

KERNELS = CpuKernels(_WINOGRAD, _DIRECT)
