"""The kernels for AVX-VNNI, vectors of 256 bits: their results and their instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from kernel_assembly import assembly_of
from kernel_layers import make_layer

from wqtvm.target import lookup

TARGET = "wq/x86-avx-vnni"


@pytest.mark.isa("avx_vnni")
@pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((1, 5, 9, 1), 3, {}),
        ((3, 7, 10, 3), 17, {"padding": 0}),
        ((1, 10, 7, 33), 100, {"precision": "full"}),
        ((2, 16, 16, 64), 48, {"tile": 6, "group_size": 64}),
        ((1, 13, 9, 40), 36, {"family": "sfc", "group_size": 12}),
        ((1, 11, 13, 100), 33, {"tile": 1}),
        ((1, 9, 6, 17), 8, {"tile": 1, "padding": 0}),
        ((1, 11, 13, 33), 17, {"tile": 2, "taps": 5, "padding": 2}),
    ],
)
def test_equals_the_reference(
    shape: tuple[int, int, int, int], out_channels: int, options: dict[str, Any]
) -> None:
    layer = make_layer(TARGET, shape, out_channels, **options)
    np.testing.assert_array_equal(layer.run()["output"], layer.reference().output)


@pytest.mark.parametrize("tile", [1, 4])
def test_dot_products_are_in_the_loop(tile: int) -> None:
    layer = make_layer(TARGET, (1, 32, 64, 64), 64, tile=tile)
    assembly = assembly_of(tvm.compile(layer.scheduled(), target=lookup(TARGET).tvm_target()))
    assert not assembly.code.matching(".*", r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b")
    products = [loop for loop in assembly.innermost_loops if loop.matching("vpdpbusd", "%ymm")]
    assert products
    for loop in products:
        dots = loop.matching("vpdpbusd")
        # Accumulators stay in registers: a product loads at most one operand from the stack.
        assert len(loop.between(dots).matching("vmov.*", r"\(%rsp\)")) <= len(dots) / 2
