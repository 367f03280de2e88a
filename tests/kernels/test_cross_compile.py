"""The same operators compile for machines that this one is not: 64-bit Arm, and NVIDIA GPUs."""

from __future__ import annotations

import functools
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from kernel_assembly import assembly_of
from kernel_driver import CUDA, HERE, INCLUDE, Driver, run
from kernel_layers import Layer, make_layer

each_precision = pytest.mark.parametrize("precision", ["hadamard", "full"])

ODD = ((2, 7, 10, 17), 33)
# "full" for CUDA takes TVM seconds a tap: the smallest Winograd tile is enough.
TILE = {"hadamard": 4, "full": 2, "direct": 1, "image": 1}


@functools.cache
def compiled(target: str, what: str) -> tuple[Layer, Any]:
    """A layer of odd shape and what ``tvm.compile`` makes of it."""
    shape, out_channels = ODD
    precision = "hadamard" if what in ("direct", "image") else what
    layer = make_layer(
        target, shape, out_channels, precision=precision, tile=TILE[what],
        activation_steps="image" if what == "image" else "pixel",
    )  # fmt: skip
    return layer, tvm.compile(layer.scheduled(), target=layer.record.tvm_target())


# 64-bit Arm


@each_precision
def test_arm_object_is_for_arm(precision: str, tmp_path: Path) -> None:
    _, library = compiled("wq/arm-neon", precision)
    target = tmp_path / "kernel.o"
    library.mod.write_to_file(str(target), "o")
    head = target.read_bytes()[:64]
    elf_class, data = head[4], head[5]
    kind, machine = struct.unpack_from("<HH", head, 16)
    # 64-bit, little-endian, relocatable, EM_AARCH64.
    assert (head[:4], elf_class, data, kind, machine) == (b"\x7fELF", 2, 1, 1, 183)


@each_precision
def test_arm_instructions_are_vectors(precision: str) -> None:
    _, library = compiled("wq/arm-neon", precision)
    code = assembly_of(library).code
    assert not code.matching(".*", r"%[a-z]|[xyz]mm\d")  # registers of x86
    # M's update and the float transforms; amax; quantizing. The schedule has no dot product yet.
    assert code.matching("fmla", r"v\d+\.4s")
    assert code.matching("smaxv", r"v\d+\.4s")
    assert code.matching("fcvtzs", r"v\d+\.4s")
    # What Armv8.0 does not have would be an illegal instruction on the oldest boards.
    assert not code.matching("sdot|udot|usdot|smmla|ummla|usmmla|bfdot")


@each_precision
def test_arm_leaves_no_float_stage_scalar(precision: str) -> None:
    layer = make_layer("wq/arm-neon", (1, 16, 32, 64), 64, precision=precision)
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    for loop in assembly_of(library).innermost_loops:
        scalars = loop.matching("fn?m(ul|add|sub)|fadd|fsub|fdiv|frint.|fcvtzs|scvtf", r"^[swx]\d")
        stores = loop.matching("strb|strh")
        assert not [str(instruction) for instruction in scalars + stores]


# NVIDIA GPUs: compiled by nvcc; and the source itself, run on the host, a thread after the other


@functools.cache
def ptx(precision: str) -> str:
    from tvm.support.nvcc import compile_cuda

    layer, library = compiled("wq/cuda-sm80", precision)
    (device,) = library.mod.imports
    with layer.record.tvm_target():
        code = compile_cuda(device.inspect_source(), target_format="ptx", compiler="nvcc")
    return bytes(code).decode()


needs_nvcc = pytest.mark.skipif(
    not shutil.which("nvcc"), reason="nvcc, the CUDA compiler, is not installed"
)


@needs_nvcc
@each_precision
def test_ptx_is_for_ampere_with_a_kernel_for_each_stage(precision: str) -> None:
    assert re.search(r"^\.target sm_80$", ptx(precision), re.MULTILINE)
    layer, _ = compiled("wq/cuda-sm80", precision)
    schedule = tvm.s_tir.Schedule(layer.scheduled())
    stages = schedule.get_child_blocks(schedule.get_sblock("root"))
    assert len(stages) > 3
    assert ptx(precision).count(".entry ") == len(stages)


@needs_nvcc
@each_precision
def test_ptx_rounds_correctly(precision: str) -> None:
    """TVM has nvcc use fast maths: what must not be approximated has to be spelt so."""
    code = ptx(precision)
    assert re.search(r"\bfma\.rn\.(ftz\.)?f32\b", code)
    assert re.search(r"\bdiv\.rn\.(ftz\.)?f32\b", code)
    assert re.search(r"\bcvt\.rni\.(ftz\.)?f32\.f32\b", code)
    assert not re.search(r"\b(div\.(full|approx)|rcp\.approx)", code)
    # A product that feeds a sum would be fused, or not, as nvcc likes; there is none to fuse.
    assert "mad.f32" not in code


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.parametrize("what", ["hadamard", "full", "direct", "image"])
def test_cuda_source_is_exact_when_run_on_the_host(what: str, tmp_path: Path) -> None:
    layer, library = compiled("wq/cuda-sm80", what)
    (device,) = library.mod.imports
    for header in ("cuda.h", "math_constants.h"):  # included, but for nothing that is used here
        (tmp_path / header).touch()
    source, kernels = tmp_path / "kernels.cu", tmp_path / "kernels.o"
    source.write_text(device.inspect_source())
    exact = ("-O1", "-fno-strict-aliasing", "-ffp-contract=off")
    includes = ("-I", INCLUDE, "-I", tmp_path, f'-DKERNELS="{source}"')
    run("g++", "-std=c++17", *exact, *includes, "-c", HERE / "cuda_on_host.cc", "-o", kernels)
    driver = Driver("gcc", link=[kernels, "-rdynamic", "-ldl", "-lstdc++"], device=CUDA)
    output, expected = driver.run(layer, library, tmp_path), layer.reference().output
    np.testing.assert_array_equal(output.view(np.int32), expected.view(np.int32))
