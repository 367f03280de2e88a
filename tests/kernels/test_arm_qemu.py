"""Kernels for Arm run under qemu, without a TVM runtime, and equal the reference to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from attention_layers import make_attention
from kernel_driver import Driver
from kernel_layers import Kernel, make_layer
from numpy.typing import NDArray

COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64"
ARM = Driver(COMPILER, link=["-static"], emulator=[EMULATOR])

pytestmark = [
    pytest.mark.skipif(not shutil.which(tool), reason=f"{tool} is not installed ({package})")
    for tool, package in ((COMPILER, "gcc-aarch64-linux-gnu"), (EMULATOR, "qemu-user"))
]


def emulated(layer: Kernel, folder: Path, tasks: int = 3) -> NDArray[np.float32]:
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    return ARM.run(layer, library, folder, tasks)


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("precision", ["hadamard", "full"])
@pytest.mark.parametrize(
    ("shape", "out_channels", "padding", "tile"),
    [
        ((1, 11, 7, 17), 33, 1, 4),
        ((2, 9, 14, 40), 19, 0, 6),
        ((1, 6, 5, 3), 5, 1, 2),
        ((2, 7, 9, 40), 19, 1, 1),
    ],
)
def test_odd_shapes(
    precision: str,
    shape: tuple[int, int, int, int],
    out_channels: int,
    padding: int,
    tile: int,
    tmp_path: Path,
) -> None:
    layer = make_layer(
        "wq/arm-neon", shape, out_channels, precision=precision, padding=padding, tile=tile
    )
    assert_same_bits(emulated(layer, tmp_path), layer.reference().output)


@pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((2, 7, 9, 40), 19, {"taps": 1, "padding": 0}),
        ((1, 7, 9, 33), 17, {"taps": 1, "stride": 2, "padding": 0, "weight_steps": "filter"}),
        ((1, 17, 23, 3), 17, {"stride": 2}),
        ((1, 11, 8, 17), 3, {"taps": 5, "stride": 2, "padding": 2}),
        ((2, 7, 9, 100), 19, {"activation_steps": "image"}),
        ((1, 9, 8, 3), 17, {"activation_steps": "image", "stride": 2}),
    ],
)
def test_direct_by_stride_and_kernel(
    shape: tuple[int, int, int, int], out_channels: int, options: dict[str, Any], tmp_path: Path
) -> None:
    layer = make_layer("wq/arm-neon", shape, out_channels, tile=1, **options)
    assert_same_bits(emulated(layer, tmp_path), layer.reference().output)


@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_nan_and_infinity(precision: str, tmp_path: Path) -> None:
    """Conversions and comparisons of what is no number differ between ISAs; results must not."""
    layer = make_layer("wq/arm-neon", (1, 12, 12, 36), 20, precision=precision)
    layer.x[0, 1, 1, 5] = np.nan
    layer.x[0, 10, 10, 33] = -np.inf
    output, expected = emulated(layer, tmp_path), layer.reference().output
    finite = np.isfinite(expected)
    assert 0 < finite.mean() < 1
    np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
    assert_same_bits(output[finite], expected[finite])


@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_denormals(precision: str, tmp_path: Path) -> None:
    layer = make_layer("wq/arm-neon", (1, 9, 9, 36), 20, precision=precision, tile=2)
    # Row by row from ordinary floats to groups that count as zero, denormals on the way.
    scale = np.ldexp(np.float32(1), -100 - 6 * np.arange(9)).astype(np.float32)
    layer.x[:] *= scale[:, None, None]
    expected = layer.reference().output
    assert 0 < np.count_nonzero(expected) < expected.size
    assert_same_bits(emulated(layer, tmp_path), expected)


@pytest.mark.parametrize(
    ("shape", "orders"),
    [
        ((1, 2, 50, 77, 40, 40), ("znh", "znh", "znh", "znh")),
        ((2, 1, 33, 9, 3, 17), ("zhn",) * 4),
    ],
)
def test_attention(shape: Any, orders: Any, tmp_path: Path) -> None:
    layer = make_attention("wq/arm-neon", shape, orders=orders)
    output = emulated(layer, tmp_path)
    # As on x86: a few roundings of float32 of values around 1.
    np.testing.assert_allclose(output, layer.reference(), rtol=1e-5, atol=2e-6)
    assert_same_bits(emulated(layer, tmp_path, tasks=7), output)


def test_tasks_divide_the_work_in_any_number(tmp_path: Path) -> None:
    layer = make_layer("wq/arm-neon", (2, 13, 18, 36), 12)
    expected = layer.reference().output
    for tasks in (1, 7):
        assert_same_bits(emulated(layer, tmp_path, tasks), expected)
