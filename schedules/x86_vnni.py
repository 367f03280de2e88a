"""AVX-512 VNNI: sixteen dot products of four u8 x s8 pairs an instruction (``vpdpbusd``)."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from ..topi.workload import WinogradWorkload
from .instructions import Instructions
from .winograd_cpu import CpuBlocking, schedule_winograd

_LANES = 16


def _dot(counts: Any, activations: Any, weights: Any) -> Any:
    # TVM's own intrinsic passes v16i32 operands, which LLVM 22 refuses: bytes are wanted.
    return tirx.call_llvm_pure_intrin(
        f"int32x{_LANES}",
        "llvm.x86.avx512.vpdpbusd.512",
        counts,
        tirx.reinterpret(f"int8x{4 * _LANES}", activations),
        weights,
    )


def _quantize(values: Any) -> Any:
    """Round, narrow to int8 with saturation, flip the sign bit: plus 128, as uint8."""
    all_lanes = tirx.const(-1, "int16")
    integers = tirx.call_llvm_pure_intrin(
        f"int32x{_LANES}",
        "llvm.x86.avx512.mask.cvtps2dq.512",
        values,
        tirx.Broadcast(tirx.const(0, "int32"), _LANES),
        all_lanes,
        tirx.const(4, "int32"),  # in the current direction: to the nearest even
    )
    signed = tirx.call_llvm_pure_intrin(
        f"int8x{_LANES}",
        "llvm.x86.avx512.mask.pmovs.db.512",
        integers,
        tirx.Broadcast(tirx.const(0, "int8"), _LANES),
        all_lanes,
    )
    sign_bit = tirx.Broadcast(tirx.const(128, "uint8"), _LANES)
    return tirx.bitwise_xor(tirx.reinterpret(f"uint8x{_LANES}", signed), sign_bit)


# Thirty-two zmm registers: 8 x 2 accumulators, two vectors of U, a broadcast of V, and the sums as
# far as they fit. More accumulators would only wait longer where a group ends. L2 is 1 MiB or more;
# a panel of U streams through it as well.
_BLOCKING = CpuBlocking(
    lanes=_LANES,
    dot_lanes=16,
    dot_reduce=4,
    register_tiles=8,
    register_vectors=3,
    intrinsic=None,
    l2_bytes=600 * 1024,
    instructions=Instructions(_dot, _quantize),
)


def tile_block(work: WinogradWorkload, threads: int) -> tuple[int, int]:
    """Choose the tile rows and columns that are computed together."""
    return _BLOCKING.tile_block(work, threads)


def schedule(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Schedule a function that holds a quantized operator."""
    return schedule_winograd(function, _BLOCKING)
