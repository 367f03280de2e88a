"""The TE arithmetic equals numpy's to the bit, on machines with and without fused instructions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import te, tirx

from wqtvm.fastconv import evaluate_rows, winograd
from wqtvm.quantization.arithmetic import NumpyRowOps, fma32, quantize
from wqtvm.topi.arithmetic import absolute_bits, contract_reduction, pick, steps_of, transform

# Of this machine's architecture, without and with its extensions.
MACHINE = platform.machine()
BASELINE = {"kind": "llvm", "mtriple": f"{MACHINE}-linux-gnu"}
TARGETS = [pytest.param(BASELINE, id="baseline")]
if MACHINE == "x86_64":
    best = {**BASELINE, "mcpu": "x86-64-v3"}
    TARGETS.append(pytest.param(best, id="avx2", marks=pytest.mark.isa("avx2")))

each_target = pytest.mark.parametrize("target", TARGETS)


def run(
    target: dict[str, str],
    function: tirx.PrimFunc,
    inputs: Sequence[NDArray[Any]],
    outputs: Sequence[NDArray[Any]],
) -> list[NDArray[Any]]:
    library = tvm.compile(function, target=tvm.target.Target(target))
    tensors = [tvm.runtime.tensor(array) for array in outputs]
    library["main"](*(tvm.runtime.tensor(array) for array in inputs), *tensors)
    return [tensor.numpy() for tensor in tensors]


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))


@each_target
def test_fma_rounds_once(target: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4096)).astype(np.float32)
    c = (-a * b * (1 + rng.integers(-2, 3, 4096) * 2.0**-24)).astype(np.float32)  # cancellation
    tensors = [te.placeholder((4096,), name=name) for name in "abc"]
    fused = te.compute((4096,), lambda i: tirx.op.fma(*(t[i] for t in tensors)), name="fused")
    function = te.create_prim_func([*tensors, fused])
    (actual,) = run(target, function, [a, b, c], [np.zeros(4096, np.float32)])
    assert_same_bits(actual, fma32(a, b, c))
    assert (actual != a * b + c).any()  # the data tell the difference


@each_target
def test_a_contracted_reduction_is_a_chain_of_fma(target: dict[str, str]) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 64, 12)).astype(np.float32)
    x, y = te.placeholder((64, 12), name="x"), te.placeholder((64, 12), name="y")
    k = te.reduce_axis((0, 12), "k")
    total = te.compute((64,), lambda i: te.sum(x[i, k] * y[i, k], axis=k), name="total")
    function = contract_reduction(te.create_prim_func([x, y, total]), "total")
    (actual,) = run(target, function, [a, b], [np.zeros(64, np.float32)])
    expected = np.zeros(64, np.float32)
    for i in range(12):
        expected = fma32(a[:, i], b[:, i], expected)
    assert_same_bits(actual, expected)


@each_target
@pytest.mark.parametrize("points", ["best", "lavin"])
@pytest.mark.parametrize("tile", [2, 4, 6])
def test_transforms_evaluate_rows_in_the_one_order(
    target: dict[str, str], tile: int, points: str
) -> None:
    matrix = [[float(value) for value in row] for row in winograd(tile, points).a_t]
    rng = np.random.default_rng(2)
    values = rng.standard_normal((len(matrix[0]), 32)).astype(np.float32)
    source = te.placeholder(values.shape, name="source")
    function = te.create_prim_func([source, transform("product", source, matrix, axis=0)])
    shape = (len(matrix), 32)
    (actual,) = run(target, function, [values], [np.zeros(shape, np.float32)])
    expected = np.stack(evaluate_rows(matrix, list(values), NumpyRowOps()))
    assert_same_bits(actual, expected)


def test_transform_permutes_its_result() -> None:
    values = np.random.default_rng(3).standard_normal((2, 3, 4)).astype(np.float32)
    source = te.placeholder(values.shape, name="source")
    identity = np.eye(3).tolist()
    product = transform("product", source, identity, axis=1, order=(2, 0, 1))
    assert [int(extent) for extent in product.shape] == [3, 4, 2]
    (actual,) = run(
        BASELINE, te.create_prim_func([source, product]), [values], [np.zeros((3, 4, 2), "f4")]
    )
    # result[index] = product[index[2], index[0], index[1]]
    np.testing.assert_array_equal(actual, values.transpose(1, 2, 0))


def edges() -> NDArray[np.float32]:
    """Groups of eight: ordinary, ties, zeros, denormals, the threshold of zero, not finite."""
    rng = np.random.default_rng(4)
    rows = [rng.standard_normal(8) * scale for scale in (1, 1e-30, 1e30, 2.0**-119, 1e-42)]
    rows.append(np.array([127, 0.5, 1.5, -2.5, -126.5, 126.5, -0.0, 1]))  # ties to even
    rows += [np.zeros(8), -np.zeros(8)]
    for largest in (2.0**-119, np.nextafter(np.float32(2.0**-119), np.float32(0)), 3.4028235e38):
        rows.append(np.array([largest, -largest / 3, 1e-45, 0, 0, 0, 0, 0]))
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        rows.append(np.array([1, bad, -1, 0, 3.4e38, 1e-45, -0.0, 2]))
    return np.array(rows, np.float32)


@each_target
def test_quantization_of_every_kind_of_float(target: dict[str, str]) -> None:
    values = edges()
    groups, size = values.shape
    source = te.placeholder(values.shape, name="source")
    r = te.reduce_axis((0, size), "r")
    amax = te.compute((groups,), lambda i: te.max(absolute_bits(source[i, r]), axis=r), name="amax")
    steps = steps_of("x", amax)
    integers = te.compute(
        values.shape, lambda i, j: steps.quantize(source[i, j], [i]).astype("int8"), name="integers"
    )
    function = te.create_prim_func([source, integers, steps.step])
    outputs = [np.zeros(values.shape, np.int8), np.zeros(groups, np.float32)]
    actual, step = run(target, function, [values], outputs)
    expected = quantize(values, (1,))
    np.testing.assert_array_equal(actual, expected.q)
    np.testing.assert_array_equal(np.isnan(step), np.isnan(expected.step[:, 0]))
    finite = np.isfinite(step)
    assert 0 < finite.sum() < groups
    assert_same_bits(step[finite], expected.step[finite, 0])


@each_target
def test_vectorized_rounding_is_no_loop_of_scalars(target: dict[str, str]) -> None:
    source = te.placeholder((64,), name="source")
    rounded = te.compute((64,), lambda i: tirx.nearbyint(source[i]), name="rounded")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([source, rounded]))
    (loop,) = schedule.get_loops(schedule.get_sblock("rounded"))
    schedule.vectorize(schedule.split(loop, [None, 4])[1])
    library = tvm.compile(schedule.mod["main"], target=tvm.target.Target(target))
    assert "<4 x float> @llvm.nearbyint.v4f32" in library.mod.inspect_source("ll")


def test_pick_is_one_of_its_choices() -> None:
    choices = [tirx.const(value, "int32") for value in (5, 7, 9)]
    for position, value in enumerate((5, 7, 9)):
        assert int(tvm.sym.Analyzer().simplify(pick(choices, tirx.const(position)))) == value
