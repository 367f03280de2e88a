"""Each tensor intrinsic does what its description says, on the values where instructions differ.

Upstream has shipped intrinsics that nobody ran: one that saturates, one that does not compile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kernel_layers import X86, cpu_kernels
from numpy.typing import NDArray
from tvm import tirx
from tvm.s_tir import TensorIntrin

from wqtvm.schedules.amax import amax_intrinsic
from wqtvm.target import lookup

Array = NDArray[Any]

FLOAT_EDGES = np.array(
    [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1e-38,
        -1.1754944e-38,
        1.0,
        -1.5,
        127.0,
        3.4028235e38,
        -3.4028235e38,
    ],
    np.float32,
)
NOT_FINITE = np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001], np.uint32)


@functools.cache
def both(name: str, target: str) -> tuple[Callable[..., None], Callable[..., None]]:
    """An intrinsic's description and its implementation, each compiled as a function of its own."""
    intrinsic = TensorIntrin.get(name)
    tvm_target = lookup(target).tvm_target()
    description, implementation = (
        tvm.compile(function.with_attr("global_symbol", "main"), target=tvm_target)["main"]
        for function in (intrinsic.desc, intrinsic.impl)
    )
    return description, implementation


@functools.cache
def dot_functions(target: str) -> tuple[Callable[..., None], ...]:
    """Functions that add one dot product: of the intrinsic, and of the ISA's expression, if any."""
    schedules, dot = cpu_kernels(target), lookup(target).dot
    of_intrinsic = both(schedules.direct.intrinsic, target)
    blocking = schedules.winograd
    if blocking.instructions is None:
        return of_intrinsic
    a = tirx.decl_buffer((dot.reduce,), dot.activation_dtype, "a")
    b = tirx.decl_buffer((dot.lanes, dot.reduce), dot.weight_dtype, "b")
    c = tirx.decl_buffer((dot.lanes,), "int32", "c")
    activations = tirx.reinterpret("int32", a.vload([0], f"{dot.activation_dtype}x{dot.reduce}"))
    weights = b.vload([0, 0], f"{dot.weight_dtype}x{dot.lanes * dot.reduce}")
    counts = c.vload([0], f"int32x{dot.lanes}")
    broadcast = tirx.Broadcast(activations, dot.lanes)
    value = blocking.instructions.dot(counts, broadcast, weights)
    function = tirx.PrimFunc([a, b, c], c.vstore([0], value)).with_attr("global_symbol", "main")
    expression = tvm.compile(function, target=lookup(target).tvm_target())["main"]
    return (*of_intrinsic, expression)


def updated(
    functions: tuple[Callable[..., None], ...], operands: list[Array], start: Array
) -> Array:
    """What an implementation, the last function, makes of accumulators; the others must agree."""
    results = []
    for function in functions:
        accumulators = tvm.runtime.tensor(start)
        function(*(tvm.runtime.tensor(operand) for operand in operands), accumulators)
        results.append(accumulators.numpy())
    for result in results:
        np.testing.assert_array_equal(result, results[-1])
    return results[-1]


def check_dot(target: str, a: Array, b: Array, start: Array) -> None:
    expected = start.astype(np.int64) + b.astype(np.int64) @ a.astype(np.int64)
    assert np.abs(expected).max() < 2**31  # a sum that int32 cannot hold proves nothing
    np.testing.assert_array_equal(
        updated(dot_functions(target), [a, b], start), expected.astype(np.int32)
    )


def operand_range(dtype: str) -> tuple[int, int]:
    """All bytes; of int16 all but -32768, whose products alone can exceed int32."""
    limits = np.iinfo(dtype)
    return max(limits.min, -32767), limits.max


@pytest.mark.parametrize("target", X86)
def test_dot_of_extreme_values(target: str) -> None:
    dot = lookup(target).dot
    for a_value in operand_range(dot.activation_dtype):
        for b_value in operand_range(dot.weight_dtype):
            a = np.full(dot.reduce, a_value, dot.activation_dtype)
            b = np.full((dot.lanes, dot.reduce), b_value, dot.weight_dtype)
            check_dot(target, a, b, np.zeros(dot.lanes, np.int32))
            # Signs that alternate: the partial sums are extreme, the whole is not.
            alternating = b.copy()
            alternating[:, ::2] = -(alternating[:, ::2] + 1)
            check_dot(target, a, alternating, np.zeros(dot.lanes, np.int32))


@pytest.mark.parametrize("target", X86)
def test_dot_adds_to_its_accumulators_and_keeps_lanes_apart(target: str) -> None:
    dot = lookup(target).dot
    start = np.arange(dot.lanes, dtype=np.int32) * 100_000_000 % 1_999_999_973 - 999_999_937
    for lane in range(dot.lanes):
        for place in range(dot.reduce):
            a = np.zeros(dot.reduce, dot.activation_dtype)
            b = np.zeros((dot.lanes, dot.reduce), dot.weight_dtype)
            a[place], b[lane, place] = 101, -113
            check_dot(target, a, b, start)


@st.composite
def dot_operands(draw: st.DrawFn, target: str) -> tuple[Array, Array, Array]:
    """A broadcast operand, weights, and accumulators that leave room for any sum of products."""
    dot = lookup(target).dot
    a_range, b_range = operand_range(dot.activation_dtype), operand_range(dot.weight_dtype)
    room = 2**31 - 1 - dot.reduce * max(map(abs, a_range)) * max(map(abs, b_range))
    a = arrays(dot.activation_dtype, dot.reduce, elements=st.integers(*a_range))
    b = arrays(dot.weight_dtype, (dot.lanes, dot.reduce), elements=st.integers(*b_range))
    start = arrays(np.int32, dot.lanes, elements=st.integers(-room, room))
    return draw(a), draw(b), draw(start)


@pytest.mark.parametrize("target", X86)
@given(data=st.data())
def test_dot_of_any_values(target: str, data: st.DataObject) -> None:
    check_dot(target, *data.draw(dot_operands(target)))


def check_amax(target: str, values: Array, start: int) -> None:
    bits = values.view(np.int32) & 0x7FFFFFFF
    expected = max(int(bits.max()), start)
    functions = both(amax_intrinsic(len(values)), target)
    assert updated(functions, [values], np.array([start], np.int32)) == expected


# Groups of 4 and 12 channels, whole vectors of every register, and several of them.
COUNTS = [4, 8, 12, 16, 32, 36, 64, 100, 256]


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("count", COUNTS)
def test_amax_finds_the_largest_wherever_it_is(target: str, count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.standard_normal(count).astype(np.float32)
    for place in range(0, count, max(1, count // 16)):
        moved = values.copy()
        moved[place] = -1e6 - place
        check_amax(target, moved, 0)
    # What was largest so far stays.
    check_amax(target, values, int(np.float32(5.5).view(np.int32)))


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("count", COUNTS)
def test_amax_orders_magnitudes_as_their_bits(target: str, count: int) -> None:
    """Nothing, denormals, numbers, infinity, NaN: each above the one before, whatever its sign."""
    check_amax(target, np.full(count, -0.0, np.float32), 0)
    for edge in FLOAT_EDGES:
        check_amax(target, np.full(count, edge, np.float32), 0)
    for bits in NOT_FINITE:
        for place in {0, count // 2, count - 1}:
            values = np.resize(FLOAT_EDGES, count).copy()
            values.view(np.uint32)[place] = bits
            check_amax(target, values, 0)
    values = np.full(count, np.inf, np.float32)
    values[-1] = -np.nan
    check_amax(target, values, 0)
