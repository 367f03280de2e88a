"""The instruction of AVX-512 BF16: sums of two products of bfloat16, in float32."""

from __future__ import annotations

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

_LANES = 16
_NAME = "wq_dot_16x2_bf16bf16f32"
# TVM computes with bfloat16 as float32, also where it is but an operand of a call.
FUNCTIONS = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float>, <32 x bfloat>, <32 x bfloat>)

define internal <16 x float> @{_NAME}(<16 x float> %sums, <16 x i32> %left, <16 x i32> %right)
    alwaysinline {{
  %a = bitcast <16 x i32> %left to <32 x bfloat>
  %b = bitcast <16 x i32> %right to <32 x bfloat>
  %more = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
      <16 x float> %sums, <32 x bfloat> %a, <32 x bfloat> %b)
  ret <16 x float> %more
}}
"""


def dot_intrinsic() -> str:
    """Register the dot product of bits of bfloat16, uint16, as a tensor intrinsic; its name.

    It takes numbers below 2**-126 for 0. Kernels have to bring ``FUNCTIONS``.
    """
    sums, pairs = f"float32x{_LANES}", f"int32x{_LANES}"

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((2,), "uint16", offset_factor=1),
        B: T.Buffer((_LANES, 2), "uint16", offset_factor=1),
        C: T.Buffer((_LANES,), "float32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:_LANES], A[0:2], B[0:_LANES, 0:2])
            T.writes(C[0:_LANES])
            for i in T.serial(0, _LANES):
                for k in T.serial(0, 2):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.reinterpret(
                            T.shift_left(T.cast(A[vk], "uint32"), T.uint32(16)), dtype="float32"
                        ) * T.reinterpret(
                            T.shift_left(T.cast(B[vi, vk], "uint32"), T.uint32(16)),
                            dtype="float32",
                        )

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((2,), "uint16", offset_factor=1),
        B: T.Buffer((_LANES, 2), "uint16", offset_factor=1),
        C: T.Buffer((_LANES,), "float32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:_LANES], A[0:2], B[0:_LANES, 0:2])
            T.writes(C[0:_LANES])
            C[T.ramp(T.int32(0), 1, _LANES)] = T.call_pure_extern(
                _NAME,
                C.vload([0], dtype=sums),
                T.broadcast(T.reinterpret(A.vload([0], "uint16x2"), dtype="int32"), _LANES),
                T.reinterpret(B.vload([0, 0], dtype=f"uint16x{2 * _LANES}"), dtype=pairs),
                dtype=sums,
            )

    TensorIntrin.register(_NAME, description, implementation, override=True)
    return _NAME
