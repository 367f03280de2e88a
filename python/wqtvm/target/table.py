"""The only table that names ISAs."""

from __future__ import annotations

from .record import DotProduct, TargetRecord

# The psABI levels x86-64-v3 and x86-64-v4 promise no more than the flags that are listed here, so
# that the code runs on AMD and Intel alike; LLVM's "haswell" and "cascadelake" generate the same
# instructions from the same scheduling models, but promise flags that other makers lack.
_X86_V3 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
_X86_V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

# The best of an architecture first: ``Target("wq")`` is the first one that the host can run.
TABLE: tuple[TargetRecord, ...] = (
    TargetRecord(
        name="wq/x86-amx",
        summary="x86-64 with AMX int8: Sapphire Rapids and later",
        architecture="x86_64",
        mtriple="x86_64-linux-gnu",
        mcpu="x86-64-v4",
        mattr=("+avx512vnni", "+amx-tile", "+amx-int8", "-prefer-256-bit"),
        features=(*_X86_V3, *_X86_V4, "avx512_vnni", "amx_tile", "amx_int8"),
        vector_lanes=16,
        # vpdpbusd, and tdpbusd where there is enough to do: both read the same packing.
        dot=DotProduct(16, 4, "uint8", "int8", zero_point=128),
        schedule="x86_amx",
    ),
    TargetRecord(
        name="wq/x86-vnni",
        summary="x86-64 with AVX-512 VNNI: Cascade Lake, Sapphire Rapids, Zen 4 and later",
        architecture="x86_64",
        mtriple="x86_64-linux-gnu",
        mcpu="x86-64-v4",
        # Without the last one LLVM vectorises loops by 256 bits only.
        mattr=("+avx512vnni", "-prefer-256-bit"),
        features=(*_X86_V3, *_X86_V4, "avx512_vnni"),
        vector_lanes=16,
        dot=DotProduct(16, 4, "uint8", "int8", zero_point=128),  # vpdpbusd zmm
        schedule="x86_vnni",
    ),
    TargetRecord(
        name="wq/x86-avx-vnni",
        summary="x86-64 with AVX-VNNI: Alder Lake, Sierra Forest, Zen 5 and later",
        architecture="x86_64",
        mtriple="x86_64-linux-gnu",
        mcpu="x86-64-v3",
        mattr=("+avxvnni",),
        features=(*_X86_V3, "avx_vnni"),
        vector_lanes=8,
        dot=DotProduct(8, 4, "uint8", "int8", zero_point=128),  # vpdpbusd ymm
        schedule="x86_avx_vnni",
    ),
    TargetRecord(
        name="wq/x86-avx2",
        summary="x86-64 with AVX2 and FMA: Haswell, Zen and later",
        architecture="x86_64",
        mtriple="x86_64-linux-gnu",
        mcpu="x86-64-v3",
        mattr=(),
        features=_X86_V3,
        vector_lanes=8,
        # vpmaddwd ymm on widened values: vpmaddubsw saturates its int16 sums.
        dot=DotProduct(8, 2, "int16", "int16", zero_point=0),
        schedule="x86_avx2",
    ),
    TargetRecord(
        name="wq/arm-neon",
        summary="64-bit Arm with NEON: every Armv8-A core",
        architecture="aarch64",
        mtriple="aarch64-linux-gnu",
        mcpu="",
        mattr=("+v8a", "+neon"),
        features=("asimd",),
        vector_lanes=4,
        dot=DotProduct(4, 4, "int8", "int8", zero_point=0),
        schedule="arm_neon",
    ),
    TargetRecord(
        name="wq/cuda-sm80",
        summary="NVIDIA GPUs of compute capability 8.0 (Ampere) and later",
        architecture="cuda",
        mtriple="",
        mcpu="sm_80",
        mattr=(),
        features=(),
        vector_lanes=4,
        dot=DotProduct(1, 4, "int8", "int8", zero_point=0),  # dp4a
        schedule="cuda_sm80",
    ),
)
