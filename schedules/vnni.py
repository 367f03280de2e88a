"""The instructions of VNNI, in vectors of 512 and of 256 bits: u8 x s8 dot products of four."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from .instructions import Instructions

_ALL_LANES = tirx.const(-1, "int16")


def instructions_512() -> Instructions:
    """Those of AVX-512 VNNI, sixteen lanes."""
    return Instructions(lambda *operands: _dot(16, *operands), _quantize_512, _levels_512)


def instructions_256() -> Instructions:
    """Those of AVX-VNNI, eight lanes."""
    return Instructions(lambda *operands: _dot(8, *operands), _quantize_256, _levels_256)


def _dot(lanes: int, counts: Any, activations: Any, weights: Any) -> Any:
    # TVM's own intrinsic passes v16i32 operands, which LLVM 22 refuses: bytes are wanted.
    return tirx.call_llvm_pure_intrin(
        f"int32x{lanes}",
        f"llvm.x86.avx512.vpdpbusd.{32 * lanes}",  # selects the VEX form where there is no AVX-512
        counts,
        tirx.reinterpret(f"int8x{4 * lanes}", activations),
        weights,
    )


def _quantize_512(values: Any) -> Any:
    """Round, narrow to int8 with saturation, flip the sign bit: plus 128, as uint8."""
    return _flip_sign("uint8x16", _narrow_512("pmovs", _rounded_512(values)))


def _levels_512(values: Any, zero: Any) -> Any:
    """Round, add the level of zero, which is exact in either order, narrow with saturation."""
    levels = _rounded_512(values) + zero.astype("int32x16")
    return tirx.reinterpret("uint8x16", _narrow_512("pmovus", levels))


def _rounded_512(values: Any) -> Any:
    return tirx.call_llvm_pure_intrin(
        "int32x16",
        "llvm.x86.avx512.mask.cvtps2dq.512",
        values,
        tirx.Broadcast(tirx.const(0, "int32"), 16),
        _ALL_LANES,
        tirx.const(4, "int32"),  # in the current direction: to the nearest even
    )


def _narrow_512(name: str, integers: Any) -> Any:
    """Narrow int32 to 8 bits with saturation, signed or unsigned."""
    return tirx.call_llvm_pure_intrin(
        "int8x16",
        f"llvm.x86.avx512.mask.{name}.db.512",
        integers,
        tirx.Broadcast(tirx.const(0, "int8"), 16),
        _ALL_LANES,
    )


def _quantize_256(values: Any) -> Any:
    """Round in the current direction, to the nearest even; narrow, within +-127; plus 128."""
    return _flip_sign("uint8x8", _rounded_256(values).astype("int8x8"))


def _levels_256(values: Any, zero: Any) -> Any:
    """Round, add the level of zero, narrow where it does not saturate."""
    levels = _rounded_256(values) + zero.astype("int32x8")
    highest = tirx.Broadcast(tirx.const(255, "int32"), 8)
    return tirx.min(levels, highest).astype("uint8x8")


def _rounded_256(values: Any) -> Any:
    return tirx.call_llvm_pure_intrin("int32x8", "llvm.x86.avx.cvt.ps2dq.256", values)


def _flip_sign(dtype: str, signed: Any) -> Any:
    sign_bit = tirx.Broadcast(tirx.const(128, "uint8"), int(dtype.removeprefix("uint8x")))
    return tirx.bitwise_xor(tirx.reinterpret(dtype, signed), sign_bit)


def dot_intrinsic(lanes: int) -> str:
    """Register the dot product as a tensor intrinsic, and return its name."""
    name = f"wq_dot_{lanes}x4_u8s8s32_vnni"
    counts, pairs = f"int32x{lanes}", f"int8x{4 * lanes}"
    instruction = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((4,), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            C[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(instruction),
                C.vload([0], dtype=counts),
                T.reinterpret(
                    T.broadcast(T.reinterpret(A.vload([0], "uint8x4"), dtype="int32"), lanes),
                    dtype=pairs,
                ),
                B.vload([0, 0], dtype=pairs),
                dtype=counts,
            )

    TensorIntrin.register(name, description, implementation, override=True)
    return name
