"""The only table that names ISAs."""

from __future__ import annotations

from dataclasses import replace

from .machine import Machine
from .record import DotProduct, TargetRecord

# The psABI levels x86-64-v3 and x86-64-v4 promise no more than the flags that are listed here, so
# that the code runs on AMD and Intel alike; LLVM's "haswell" and "cascadelake" generate the same
# instructions from the same scheduling models, but promise flags that other makers lack.
_X86_V3 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
_X86_V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

# Machines typical of the targets, for predicted times. Other peaks: WinogradConfig(peaks=...).
_XEON_VNNI = Machine(
    source="python -m benchmarks.peaks --threads 1, Xeon of the Emerald Rapids class, 3.0 GHz, "
    "the best of two runs on a machine that others used",
    dot="vnni",
    float32="float32",
    dot_gops=766,
    float32_gflops=179,
    l1_gbps=271,
    l2_gbps=140,
    l3_gbps=26.8,
    memory_gbps=12.6,
    l1_bytes=48 << 10,
    l2_bytes=2 << 20,
    l3_bytes=32 << 20,  # of 260 MiB that many share: its l3_core_bytes
)
_XEON_AMX = replace(
    _XEON_VNNI,
    source="as wq/x86-vnni; tdpbssd by the same program on another Xeon of that class, 2.9 GHz, in "
    "the faster of its two states: in the other 1300 to 1500 GOPS",
    tile_dot="amx",
    tile_gops=4660,
)
_ZEN_4 = Machine(
    source="never measured: AMD Zen 4 at 3.7 GHz: a zmm multiply-add, dot product or load a cycle, "
    "as AMD's Software Optimization Guide for the family 19h has them, half of that from L2; L3 "
    "and memory are guesses",
    dot="vnni",
    float32="float32",
    dot_gops=474,
    float32_gflops=118,
    l1_gbps=237,
    l2_gbps=118,
    l3_gbps=40,
    memory_gbps=15,
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    l3_bytes=4 << 20,  # of 32 MiB that eight cores share
    bfloat16="bfloat16",
    bfloat16_gflops=237,
)
_XEON_AVX_VNNI = replace(
    _XEON_VNNI,
    source="the same core and program, vectors of 256 bits",
    dot="avx_vnni",
    float32="float32_ymm",
    dot_gops=382,
    float32_gflops=95.8,
)
_XEON_AVX2 = replace(
    _XEON_VNNI,
    source="the same core and program, vectors of 256 bits",
    dot="avx2",
    float32="float32_ymm",
    dot_gops=136,
    float32_gflops=95.8,
)
_NEOVERSE_N1 = Machine(
    source="never measured: Neoverse N1 at 2.5 GHz by Arm's Software Optimization Guide: two "
    "128-bit multiply-adds of float32 and two 128-bit loads a cycle; without sdot one smull and "
    "one sadalp, 8 products of bytes; a core's share of eight channels of DDR4-3200 among 64 "
    "cores, a few of which are busy; L2 and L3 are guesses at half and a quarter of L1",
    dot="neon",
    float32="float32",
    dot_gops=40,
    float32_gflops=40,
    l1_gbps=80,
    l2_gbps=40,
    l3_gbps=20,
    memory_gbps=10,
    l1_bytes=64 << 10,
    l2_bytes=1 << 20,
    l3_bytes=4 << 20,
)
_A100 = Machine(
    source="never measured: NVIDIA's A100 Tensor Core GPU Architecture whitepaper, SXM 40 GB, a "
    "multiprocessor's share: 19.5 TFLOPS float32, dp4a four times that, 1555 GB/s of memory, 5120 "
    "bytes of L2 a cycle at 1.41 GHz, 40 MB of it; what is L2 here is its L1, 192 KB and 128 "
    "bytes a cycle",
    dot="dp4a",
    float32="float32",
    dot_gops=722,
    float32_gflops=181,
    l1_gbps=180,
    l2_gbps=180,
    l3_gbps=67,
    memory_gbps=14.4,
    l1_bytes=192 << 10,
    l2_bytes=192 << 10,
    l3_bytes=40 << 20,
    cores=108,
)

# The best of an architecture first: ``Target("wq")`` is the first one that the host can run.
TABLE: tuple[TargetRecord, ...] = (
    TargetRecord(
        name="wq/x86-amx",
        summary="x86-64 with AMX int8: Sapphire Rapids and later",
        architecture="x86_64",
        mtriple="x86_64-linux-gnu",
        mcpu="x86-64-v4",
        mattr=("+avx512vnni", "+amx-tile", "+amx-int8", "+amx-bf16", "-prefer-256-bit"),
        features=(*_X86_V3, *_X86_V4, "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"),
        vector_lanes=16,
        # vpdpbusd, and tdpbusd where there is enough to do: both read the same packing.
        dot=DotProduct(16, 4, "uint8", "int8", zero_point=128),
        schedule="x86_amx",
        machine=_XEON_AMX,
        bfloat16=DotProduct(16, 2, "bfloat16", "bfloat16", zero_point=0),  # tdpbf16ps
        has_tiles=True,
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
        machine=_XEON_VNNI,
    ),
    # Behind the former, since Xeons take twice as long for vdpbf16ps as for the multiply-adds of
    # float32 that it stands for: it is to be chosen by name, where it is fast.
    TargetRecord(
        name="wq/x86-bf16",
        summary="x86-64 with AVX-512 VNNI and BF16: Zen 4 and later, Cooper Lake",
        architecture="x86_64",
        mtriple="x86_64-linux-gnu",
        mcpu="x86-64-v4",
        mattr=("+avx512vnni", "+avx512bf16", "-prefer-256-bit"),
        features=(*_X86_V3, *_X86_V4, "avx512_vnni", "avx512_bf16"),
        vector_lanes=16,
        dot=DotProduct(16, 4, "uint8", "int8", zero_point=128),  # vpdpbusd zmm
        schedule="x86_bf16",
        machine=_ZEN_4,
        bfloat16=DotProduct(16, 2, "bfloat16", "bfloat16", zero_point=0),  # vdpbf16ps zmm
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
        machine=_XEON_AVX_VNNI,
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
        machine=_XEON_AVX2,
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
        machine=_NEOVERSE_N1,
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
        machine=_A100,
    ),
)
