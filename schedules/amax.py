"""Largest magnitude of a run of floats as one vector reduction, on every ISA that LLVM knows.

Left alone, LLVM vectorises this reduction across its outer loop, by gathers.
"""

from __future__ import annotations

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T


def amax_intrinsic(count: int) -> str:
    """Register, and name, the intrinsic for ``count`` contiguous float32 values.

    It updates the int32 bits of the largest magnitude so far; see ``topi.arithmetic``.
    """
    name = f"wq_amax_{count}_f32"
    if TensorIntrin.get(name, allow_missing=True) is None:
        TensorIntrin.register(name, *_definition(count))
    return name


def _definition(count: int):  # type: ignore[no-untyped-def]
    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((count,), "float32", offset_factor=1),
        C: T.Buffer((1,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0], A[0:count])
            T.writes(C[0])
            for i in T.serial(0, count):
                with T.sblock("update"):
                    vi = T.axis.remap("R", [i])
                    C[0] = T.max(C[0], T.bitwise_and(T.reinterpret("int32", A[vi]), 0x7FFFFFFF))

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((count,), "float32", offset_factor=1),
        C: T.Buffer((1,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0], A[0:count])
            T.writes(C[0])
            C[0] = T.max(
                C[0],
                T.call_llvm_pure_intrin(
                    T.llvm_lookup_intrinsic_id("llvm.vector.reduce.smax"),
                    T.bitwise_and(
                        T.reinterpret(f"int32x{count}", A.vload([0], f"float32x{count}")),
                        T.broadcast(T.int32(0x7FFFFFFF), count),
                    ),
                    dtype="int32",
                ),
            )

    return description, implementation
