"""The kernels for AMX: their instructions, and their results with tile registers written in C.

No machine that runs these tests need have the tile registers: what the schedule writes is the same
but for the five instructions, which are calls of functions here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from attention_layers import make_attention
from kernel_assembly import assembly_of
from kernel_layers import Kernel, assert_close_sums, make_layer
from numpy.typing import NDArray
from tvm import tirx

from wqtvm.runtime.cpu import cpu_features
from wqtvm.schedules import x86_amx
from wqtvm.schedules.cpu import CpuKernels
from wqtvm.schedules.instructions import TileInstructions
from wqtvm.schedules.tile_product_kernel import chunk_of
from wqtvm.target import lookup

HERE = Path(__file__).parent.parent
TARGET = "wq/x86-amx"


def _call(name: str, *arguments: Any) -> Any:
    return tirx.Evaluate(tirx.call_extern("int32", f"wq_tile_{name}", *arguments))


each_layer_of_one_sum = pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((1, 8, 32, 64), 32, {}),
        ((1, 5, 9, 1), 3, {}),
        ((1, 20, 21, 32), 1, {}),
        ((2, 7, 7, 100), 33, {}),
        ((1, 10, 10, 70), 48, {"padding": 0}),
        ((1, 9, 4, 64), 20, {"taps": 5, "padding": 2}),
        ((3, 7, 10, 3), 17, {"padding": 0}),
        ((1, 14, 14, 128), 40, {}),
        ((2, 11, 13, 100), 48, {"stride": 2}),
        ((2, 7, 40, 64), 48, {"taps": 1, "stride": 2, "padding": 0}),
        ((1, 10, 7, 33), 33, {"taps": 5, "padding": 2}),
    ],
)


IN_C = TileInstructions(
    configure=lambda place: _call("configure", tirx.address_of(place)),
    release=lambda: _call("release"),
    load=lambda register, place, stride: _call("load", register, tirx.address_of(place), stride),
    store=lambda register, place, stride: _call("store", register, tirx.address_of(place), stride),
    zero=lambda register: _call("zero", register),
    multiply=lambda *registers: _call("multiply", *registers),
)
BFLOAT16_IN_C = replace(IN_C, multiply=lambda *registers: _call("multiply_bfloat16", *registers))


@pytest.fixture(scope="session")
def registers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tile registers in C, compiled."""
    out = tmp_path_factory.mktemp("tiles") / "tile_registers.o"
    source = HERE / "tile_registers.c"
    flags = ("-std=c11", "-O2", "-Wall", "-Werror", "-fPIC", "-c")
    subprocess.run(["cc", *flags, str(source), "-o", str(out)], check=True, timeout=60)
    return out


@pytest.fixture
def run(
    registers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Kernel], NDArray[np.float32]]:
    """Compiles a layer's schedule for AMX, the registers in C, and runs it on this machine."""
    kernels = x86_amx.KERNELS
    assert kernels.bfloat16 is not None
    in_c = CpuKernels(
        replace(kernels.winograd, tiles=IN_C),
        replace(kernels.direct, tiles=IN_C),
        replace(kernels.bfloat16, tiles=BFLOAT16_IN_C),
    )
    monkeypatch.setattr(x86_amx, "KERNELS", in_c)

    def result(layer: Kernel) -> NDArray[np.float32]:
        library = tvm.compile(layer.scheduled(), target=lookup("wq/x86-vnni").tvm_target())
        kernel, shared = tmp_path / "kernel.o", tmp_path / "kernel.so"
        library.mod.write_to_file(str(kernel), "o")
        command = ["cc", "-shared", str(kernel), str(registers), "-o", str(shared)]
        subprocess.run(command, check=True, timeout=60)
        output = tvm.runtime.tensor(np.full(layer.result_shape, np.nan, np.float32))
        tvm.runtime.load_module(str(shared))["main"](*layer.arguments(), output)
        array: NDArray[np.float32] = output.numpy()
        return array

    return result


@pytest.mark.isa("avx512_vnni")
@pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((1, 5, 9, 1), 3, {}),
        ((3, 7, 10, 3), 17, {"padding": 0}),
        ((1, 21, 17, 17), 33, {"group_size": 64}),
        ((1, 30, 30, 100), 48, {"group_size": 64}),  # 8 x 8 tiles, 2 x 2 registers
        ((1, 13, 38, 96), 64, {"group_size": 96}),  # two products a group
        ((1, 18, 18, 128), 32, {"group_size": 128, "tile": 6, "precision": "full"}),
        ((2, 9, 9, 33), 100, {"tile": 2, "group_size": 0}),
        ((1, 24, 24, 64), 32, {"family": "sfc", "group_size": 32}),
    ],
)
def test_equals_the_reference(
    run: Callable[[Kernel], NDArray[np.float32]],
    shape: tuple[int, int, int, int],
    out_channels: int,
    options: dict[str, Any],
) -> None:
    layer = make_layer(TARGET, shape, out_channels, **options)
    np.testing.assert_array_equal(run(layer), layer.reference().output)


@pytest.mark.isa("avx512_vnni")
@pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((1, 5, 9, 1), 3, {}),
        ((3, 7, 10, 3), 17, {"padding": 0, "weight_steps": "filter"}),
        ((1, 8, 64, 64), 64, {"group_size": 64}),  # two registers of a row, by two
        ((1, 14, 14, 100), 33, {"group_size": 0}),  # two registers of a row each
        ((1, 11, 13, 40), 36, {"stride": 2, "weight_steps": "filter"}),
        ((2, 9, 11, 100), 33, {"taps": 1, "stride": 2, "padding": 0}),
        ((2, 8, 8, 320), 32, {"group_size": 0, "taps": 1, "padding": 0}),
        ((1, 9, 7, 96), 48, {"group_size": 48, "taps": 5, "padding": 2}),
    ],
)
def test_direct_equals_the_reference(
    run: Callable[[Kernel], NDArray[np.float32]],
    shape: tuple[int, int, int, int],
    out_channels: int,
    options: dict[str, Any],
) -> None:
    layer = make_layer(TARGET, shape, out_channels, tile=1, **options)
    np.testing.assert_array_equal(run(layer), layer.reference().output)


@pytest.mark.isa("amx_int8")
def test_equals_the_reference_on_amx() -> None:
    from wqtvm.runtime.amx import request_permission

    request_permission()
    layer = make_layer(TARGET, (1, 30, 30, 100), 48, group_size=64)
    np.testing.assert_array_equal(layer.run()["output"], layer.reference().output)


def test_tile_instructions_are_in_the_product() -> None:
    """Two by two accumulators, each operand loaded once, nothing configured between them."""
    layer = make_layer(TARGET, (1, 32, 64, 256), 64, group_size=64, threads=1)
    assembly = assembly_of(tvm.compile(layer.scheduled(), target=lookup(TARGET).tvm_target()))
    (loop,) = (loop for loop in assembly.innermost_loops if loop.matching("tdpbusd"))
    products = loop.matching("tdpbusd")
    groups, rest = divmod(len(products), 4)  # LLVM may unroll groups
    assert rest == 0
    assert len({product.operands.split(",")[-1] for product in products}) == 4
    assert len(loop.matching("tileloadd")) == groups * (4 + 4)  # the sums' start, too
    assert len(loop.matching("tilestored")) == groups * 4
    assert not loop.matching("ldtilecfg")
    assert len(assembly.code.matching("ldtilecfg")) == 1
    assert len(assembly.code.matching("tilerelease")) == 1


def test_tile_instructions_are_in_the_products_of_a_tap() -> None:
    """Two by two accumulators; the registers of V and U are loaded once for each 64 channels."""
    options = {"group_size": 128, "weight_steps": "filter", "threads": 1}
    layer = make_layer(TARGET, (1, 32, 64, 256), 64, tile=1, **options)  # type: ignore[arg-type]
    assembly = assembly_of(tvm.compile(layer.scheduled(), target=lookup(TARGET).tvm_target()))
    (loop,) = (loop for loop in assembly.innermost_loops if loop.matching("tdpbusd"))
    taps, rest = divmod(len(loop.matching("tdpbusd")), 2 * 4)  # LLVM may unroll taps
    assert rest == 0
    assert len(loop.matching("tileloadd")) == taps * (4 + 2 * 4)
    assert len(loop.matching("tilestored")) == taps * 4
    assert not loop.matching("ldtilecfg")
    assert len(assembly.code.matching("ldtilecfg")) == 1
    assert len(assembly.code.matching("tilerelease")) == 1


@pytest.mark.parametrize(
    ("size", "chunk"), [(4, 4), (32, 32), (64, 64), (96, 48), (128, 64), (100, 20), (320, 64)]
)
def test_chunks_divide_a_group(size: int, chunk: int) -> None:
    assert chunk_of(size, 4) == chunk


@pytest.mark.skipif("amx_int8" in cpu_features(), reason="this CPU has AMX")
def test_without_amx_the_host_is_not_amx() -> None:
    assert lookup("wq").name != TARGET


@pytest.mark.isa("avx512_vnni")
@each_layer_of_one_sum
def test_images_of_one_step_equal_the_reference(
    run: Callable[[Kernel], NDArray[np.float32]],
    shape: tuple[int, int, int, int],
    out_channels: int,
    options: dict[str, Any],
) -> None:
    layer = make_layer(TARGET, shape, out_channels, tile=1, activation_steps="image", **options)
    np.testing.assert_array_equal(
        run(layer).view(np.int32), layer.reference().output.view(np.int32)
    )


@pytest.mark.isa("avx512_vnni")
@each_layer_of_one_sum
def test_bfloat16_equals_the_reference(
    run: Callable[[Kernel], NDArray[np.float32]],
    shape: tuple[int, int, int, int],
    out_channels: int,
    options: dict[str, Any],
) -> None:
    layer = make_layer(TARGET, shape, out_channels, tile=1, precision="bfloat16", **options)
    assert_close_sums(run(layer), layer)


def test_tile_instructions_of_bfloat16_are_in_the_products() -> None:
    """Accumulators that begin at zero; each register is loaded once for 32 channels."""
    layer = make_layer(TARGET, (1, 32, 64, 256), 64, tile=1, precision="bfloat16", threads=1)
    assembly = assembly_of(tvm.compile(layer.scheduled(), target=lookup(TARGET).tvm_target()))
    (loop,) = (loop for loop in assembly.innermost_loops if loop.matching("tdpbf16ps"))
    products = loop.matching("tdpbf16ps")
    taps, rest = divmod(len(products), 4)  # LLVM may unroll taps
    assert rest == 0
    assert len({product.operands.split(",")[-1] for product in products}) == 4
    assert len(loop.matching("tileloadd")) in (taps * 4, taps * 5)  # two by two, or four by one
    assert not loop.matching("ldtilecfg")
    assert len(assembly.code.matching("tilezero")) == 4
    assert len(assembly.code.matching("ldtilecfg")) == 1


@pytest.mark.isa("avx512_vnni")
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1, 1),
        (1, 2, 50, 77, 40, 40),
        (2, 1, 33, 300, 17, 100),
        (1, 3, 64, 64, 64, 16),
    ],
)
def test_attention_in_bfloat16(
    run: Callable[[Kernel], NDArray[np.float32]], shape: tuple[int, int, int, int, int, int]
) -> None:
    layer = make_attention(TARGET, shape, "bfloat16")
    # Powers are rounded to 8 bits: 2^-9 of the largest value, were all errors of one sign.
    most = float(np.abs(layer.values).max())
    np.testing.assert_allclose(run(layer), layer.reference(), rtol=0, atol=2**-9 * most + 1e-5)
