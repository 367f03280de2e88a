"""Attention kernels: results, what is no number, memory around them, instructions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import tvm
from attention_layers import AttentionLayer, make_attention
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_assembly import assembly_of
from kernel_layers import X86_VECTORS, output_between_guards

from wqtvm.errors import ConfigError
from wqtvm.topi.attention import AXES, AttentionWorkload

SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (1, 1, 24, 32, 16, 16),
    (2, 3, 33, 77, 17, 40),
    (1, 2, 100, 513, 40, 3),
    (3, 1, 25, 1, 33, 100),
]


def assert_close(output: Any, layer: AttentionLayer) -> None:
    """Sums of some hundred products of values around 1, in float32, in another order."""
    np.testing.assert_allclose(output, layer.reference(), rtol=1e-5, atol=4e-6)


@pytest.mark.parametrize("target", X86_VECTORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_odd_shapes(target: str, shape: Any) -> None:
    layer = make_attention(target, shape)
    assert_close(layer.run(), layer)


@pytest.mark.isa("avx2")
@settings(max_examples=8, deadline=None)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 3), st.integers(1, 70), st.integers(1, 300),
        st.integers(1, 50), st.integers(1, 70),
    ),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(shape: Any, seed: int) -> None:
    layer = make_attention("wq/x86-avx2", shape, seed=seed)
    assert_close(layer.run(), layer)


@pytest.mark.isa("avx2")
@pytest.mark.parametrize("order", ["".join(each) for each in itertools.permutations(AXES)])
def test_axes_in_any_order(order: str) -> None:
    for at in range(4):
        orders: Any = tuple(order if each == at else AXES for each in range(4))
        layer = make_attention("wq/x86-avx2", (2, 3, 30, 40, 9, 10), orders=orders)
        assert_close(layer.run(), layer)


@pytest.mark.isa("avx512_vnni")
def test_keys_and_values_beyond_l2_are_read_by_more_queries_at_once() -> None:
    layer = make_attention("wq/x86-vnni", (1, 2, 3000, 3000, 60, 60))
    assert_close(layer.run(), layer)


@pytest.mark.isa("amx_bf16")
@pytest.mark.parametrize("shape", [*SHAPES, (1, 8, 256, 1024, 40, 40), (1, 1, 200, 700, 512, 512)])
def test_bfloat16(shape: Any) -> None:
    layer = make_attention("wq/x86-amx", shape, "bfloat16")
    most = float(np.abs(layer.values).max())
    output = layer.run()
    np.testing.assert_allclose(output, layer.reference(), rtol=0, atol=2**-9 * most + 1e-5)
    assert output.tobytes() == layer.run().tobytes()


@pytest.mark.parametrize("target", X86_VECTORS)
def test_large_scores_neither_overflow_nor_vanish(target: str) -> None:
    """Differences of scores of thousands: the largest takes all."""
    layer = make_attention(target, (1, 1, 40, 300, 16, 8), scale=1e4)
    assert_close(layer.run(), layer)
    layer = make_attention(target, (1, 1, 40, 300, 16, 8), scale=1e-4)
    assert_close(layer.run(), layer)


@pytest.mark.parametrize("target", X86_VECTORS)
def test_what_is_no_number_spreads_as_in_pytorch(target: str) -> None:
    layer = make_attention(target, (1, 2, 30, 300, 16, 8))
    layer.queries[0, 0, 3, 5] = np.nan
    layer.values[0, 1, 270, 2] = np.nan
    layer.values[0, 1, 10, 6] = np.inf
    output = layer.run()
    np.testing.assert_array_equal(np.isnan(output), np.isnan(layer.reference()))
    assert np.isnan(output).sum() == 8 + 30
    assert (output[0, 1, :, 6] == np.inf).all()
    layer = make_attention(target, (1, 2, 30, 300, 16, 8))
    layer.keys[0, 1, 299, 0] = np.nan  # each of its head's scores with it
    output = layer.run()
    assert np.isnan(output[0, 1]).all()
    assert np.isfinite(output[0, 0]).all()


@pytest.mark.parametrize("target", X86_VECTORS)
def test_nothing_is_written_outside(target: str) -> None:
    layer = make_attention(target, (2, 3, 50, 77, 17, 40), orders=("znh",) * 4)
    assert_close(output_between_guards(layer), layer)


@pytest.mark.isa("amx_bf16")
def test_nothing_is_written_outside_by_tile_registers() -> None:
    layer = make_attention("wq/x86-amx", (2, 3, 50, 77, 17, 40), "bfloat16")
    assert np.isfinite(output_between_guards(layer)).all()


@pytest.mark.parametrize(
    ("target", "instruction", "register", "sums"),
    [
        ("wq/x86-vnni", "vfmadd231ps", "zmm", 24),
        ("wq/x86-avx2", "vfmadd231ps", "ymm", 12),
        ("wq/arm-neon", "fmla", "v", 24),
    ],
)
def test_products_are_loops_of_multiply_adds(
    target: str, instruction: str, register: str, sums: int
) -> None:
    layer = make_attention(target, (1, 2, 96, 256, 64, 72))
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    loops = assembly_of(library).innermost_loops
    # The loop of powers has multiply-adds, too, among as many other instructions.
    products = [loop for loop in loops if len(loop) < 3 * len(loop.matching(instruction, register))]
    assert len(products) >= 2
    for loop in products:
        assert len(loop.matching(instruction, register)) % sums == 0
        assert not loop.matching("v.*|st.*|ld.*", r"\(%rsp|\[sp")  # nothing is spilled


def test_products_of_bfloat16_are_of_tile_registers() -> None:
    layer = make_attention("wq/x86-amx", (1, 2, 96, 256, 64, 64), "bfloat16")
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    blocks = [block for block in assembly_of(library).blocks if block.matching("tdpbf16ps")]
    assert len(blocks) >= 2
    for block in blocks:
        products, loads = block.matching("tdpbf16ps"), block.matching("tileloadd")
        assert len(products) % 4 == 0
        assert len(loads) <= len(products) + 8  # what is loaded is multiplied twice


def test_a_workload_refuses_what_it_is_not() -> None:
    with pytest.raises(ConfigError, match="extent below 1"):
        AttentionWorkload(1, 1, 0, 1, 1, 1, 1.0)
    with pytest.raises(ConfigError, match="precision is 'int8'"):
        AttentionWorkload(1, 1, 1, 1, 1, 1, 1.0, "int8")
    with pytest.raises(ConfigError, match="orders"):
        AttentionWorkload(1, 1, 1, 1, 1, 1, 1.0, orders=("zzz",) * 4)
