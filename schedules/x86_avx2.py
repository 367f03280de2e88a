"""AVX2: eight dot products of two s16 x s16 pairs an instruction (``vpmaddwd``)."""

from __future__ import annotations

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from .cpu import CpuKernels
from .direct_cpu import DirectBlocking
from .winograd_blocking import CpuBlocking

_DOT = "wq_dot_8x2_s16s16s32_avx2"


@T.prim_func(s_tir=True)
def _description(
    A: T.Buffer((2,), "int16", offset_factor=1),
    B: T.Buffer((8, 2), "int16", offset_factor=1),
    C: T.Buffer((8,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:8], A[0:2], B[0:8, 0:2])
        T.writes(C[0:8])
        for i in T.serial(0, 8):
            for k in T.serial(0, 2):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")


@T.prim_func(s_tir=True)
def _implementation(
    A: T.Buffer((2,), "int16", offset_factor=1),
    B: T.Buffer((8, 2), "int16", offset_factor=1),
    C: T.Buffer((8,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:8], A[0:2], B[0:8, 0:2])
        T.writes(C[0:8])
        # vpmaddubsw would take bytes, but saturates its int16 sums: wrong numbers without a word.
        C[T.ramp(T.int32(0), 1, 8)] = C.vload([0], dtype="int32x8") + T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx2.pmadd.wd"),
            T.reinterpret(
                T.broadcast(T.reinterpret(A.vload([0], "int16x2"), dtype="int32"), 8),
                dtype="int16x16",
            ),
            B.vload([0, 0], dtype="int16x16"),
            dtype="int32x8",
        )


TensorIntrin.register(_DOT, _description, _implementation, override=True)

# Sixteen ymm registers: 4 x 2 accumulators, two vectors of U, a broadcast of V, a product. L2 is
# 256 KiB on the oldest of these CPUs; U streams through it as well.
_WINOGRAD = CpuBlocking(
    lanes=8,
    dot_lanes=8,
    dot_reduce=2,
    register_tiles=4,
    register_vectors=2,
    intrinsic=_DOT,
    l2_bytes=160 * 1024,
)

# 3 x 2 accumulators, as many sums of taps, two vectors of U, a broadcast of V, a product.
_DIRECT = DirectBlocking(
    lanes=8,
    dot_lanes=8,
    dot_reduce=2,
    register_pixels=(6, 3),
    l1_bytes=32 * 1024,
    intrinsic=_DOT,
    task_pixels=96,
)

KERNELS = CpuKernels(_WINOGRAD, _DIRECT)
