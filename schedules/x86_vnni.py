"""AVX-512 VNNI: sixteen dot products of four u8 x s8 pairs an instruction (``vpdpbusd``)."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from ..topi.direct_workload import DirectWorkload
from ..topi.workload import WinogradWorkload
from .cpu import schedule_cpu
from .direct_cpu import DirectBlocking
from .instructions import Instructions
from .winograd_cpu import CpuBlocking

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


_DOT = "wq_dot_16x4_u8s8s32_vnni"


@T.prim_func(s_tir=True)
def _description(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        for i in T.serial(0, 16):
            for k in T.serial(0, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")


@T.prim_func(s_tir=True)
def _implementation(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        C[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
            C.vload([0], dtype="int32x16"),
            T.reinterpret(
                T.broadcast(T.reinterpret(A.vload([0], "uint8x4"), dtype="int32"), 16),
                dtype="int8x64",
            ),
            B.vload([0, 0], dtype="int8x64"),
            dtype="int32x16",
        )


TensorIntrin.register(_DOT, _description, _implementation, override=True)

_INSTRUCTIONS = Instructions(_dot, _quantize)

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
    instructions=_INSTRUCTIONS,
)

# 7 x 2 accumulators at most, and as many sums of taps: with two vectors of U, a broadcast of V and
# a converted count all 32 registers; 3 x 4 take 30. Twice the accumulators would load less for a
# product, but spill the sums, and the stack is not aligned for whole registers. Ten hide the
# latency of a product. In L1, with 4 vectors: U of a group 18 KiB, what accumulators start at
# 7 KiB, V of a block of 192 outputs about 12 KiB; M of such a block, 48 KiB, passes through from
# L2 once a group.
_DIRECT = DirectBlocking(
    lanes=_LANES,
    dot_lanes=16,
    dot_reduce=4,
    register_pixels=(12, 7, 4, 3),
    intrinsic=_DOT,
    task_pixels=192,
    instructions=_INSTRUCTIONS,
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
