"""Convolutions and matrix products of every shape, against exact ones; and their instructions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from float_functions import compiled, functions, random, run, scheduled, tolerance
from kernel_assembly import assembly_of
from kernel_layers import X86
from tvm import relax

from wqtvm.runtime.threads import get_num_threads, set_num_threads
from wqtvm.schedules.cpu_generic import machine_of
from wqtvm.target import lookup

R, N = relax.op, relax.op.nn

each_target = pytest.mark.parametrize("target", X86)
ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}

# channels, outputs, height, width, kernel, stride, padding, dilation, groups
CONVOLUTIONS = [
    (16, 32, 8, 28, 3, 1, 1, 1, 1),
    (1, 3, 5, 7, 3, 1, 1, 1, 1),
    (3, 17, 19, 33, 5, 2, 2, 1, 1),
    (17, 33, 9, 7, 3, 2, 1, 1, 1),
    (33, 100, 5, 5, 1, 1, 0, 1, 1),
    (100, 3, 11, 13, 3, 1, 2, 2, 1),
    (3, 8, 20, 20, 7, 2, 3, 1, 1),
    (12, 18, 7, 9, 3, 1, 1, 1, 3),
    (32, 64, 6, 9, 3, 1, 1, 1, 2),
    (32, 32, 13, 9, 3, 1, 1, 1, 32),
    (33, 33, 13, 9, 3, 2, 1, 1, 33),
    (8, 24, 7, 9, 3, 1, 1, 1, 8),
    (4, 4, 1, 1, 1, 1, 0, 1, 1),
    (16, 1, 17, 1, 3, 1, 1, 1, 1),
    (32, 3, 5, 11, 3, 1, 1, 1, 1),
]


def convolution(case: tuple[int, ...], layout: str = "NHWC"):
    """A convolution with bias and residual behind it, its inputs, and the exact result."""
    channels, out, height, width, kernel, stride, padding, dilation, groups = case
    kernel_layout = {"NHWC": "HWIO", "NCHW": "OIHW"}[layout]
    x, w = random(2, channels, height, width), random(out, channels // groups, kernel, kernel)
    exact = F.conv2d(
        torch.from_numpy(x).double(),
        torch.from_numpy(w).double(),
        None,
        stride,
        padding,
        dilation,
        groups,
    ).numpy()
    residual = random(*exact.shape, seed=1)
    bias = random(out, 1, 1, seed=2)
    exact = np.maximum(exact + bias, 0) + residual
    inputs = [x, w, np.broadcast_to(bias, (1, out, 1, 1)), residual]
    if layout == "NHWC":
        orders = [(0, 2, 3, 1), (2, 3, 1, 0), (0, 2, 3, 1), (0, 2, 3, 1)]
        inputs = [array.transpose(order) for array, order in zip(inputs, orders, strict=True)]
        exact = exact.transpose(0, 2, 3, 1)

    def build(x, w, b, r):
        y = N.conv2d(x, w, stride, padding, dilation, groups, layout, kernel_layout)
        return R.add(N.relu(R.add(y, b)), r)

    return build, [np.ascontiguousarray(array) for array in inputs], exact


@each_target
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolution(case: tuple[int, ...], target: str) -> None:
    build, inputs, exact = convolution(case)
    summed = case[0] // case[8] * case[4] ** 2
    np.testing.assert_allclose(run(build, inputs, target), exact, **tolerance(summed))


@pytest.mark.isa("avx2")
@pytest.mark.parametrize("case", CONVOLUTIONS[2:4] + CONVOLUTIONS[7:11:3], ids=str)
def test_convolution_of_channels_first(case: tuple[int, ...]) -> None:
    build, inputs, exact = convolution(case, "NCHW")
    summed = case[0] // case[8] * case[4] ** 2
    np.testing.assert_allclose(run(build, inputs, "wq/x86-avx2"), exact, **tolerance(summed))


@each_target
@pytest.mark.parametrize(
    "case", [(17, 9, 4, 2, 1, 0), (8, 8, 3, 2, 1, 1), (5, 33, 2, 2, 0, 0)], ids=str
)
def test_transposed_convolution(case: tuple[int, ...], target: str) -> None:
    channels, out, kernel, stride, padding, extra = case
    x, w = random(2, channels, 5, 7), random(channels, out, kernel, kernel, seed=1)
    double = [torch.from_numpy(array).double() for array in (x, w)]
    exact = F.conv_transpose2d(*double, None, stride, padding, extra).numpy()

    def build(x, w):
        return N.conv2d_transpose(x, w, stride, padding, (extra, extra))

    result = run(build, [x, w], target)
    np.testing.assert_allclose(result, exact, **tolerance(channels * kernel**2))


@each_target
def test_convolutions_of_lines_and_volumes(target: str) -> None:
    x, w = random(2, 5, 17), random(33, 5, 3, seed=1)
    exact = F.conv1d(*(torch.from_numpy(a).double() for a in (x, w)), padding=1)
    result = run(lambda x, w: N.conv1d(x, w, 1, 1), [x, w], target)
    np.testing.assert_allclose(result, exact, **tolerance(15))
    x, w = random(1, 3, 5, 6, 7), random(9, 3, 3, 3, 3, seed=1)
    exact = F.conv3d(*(torch.from_numpy(a).double() for a in (x, w)), padding=1)
    result = run(lambda x, w: N.conv3d(x, w, 1, 1), [x, w], target)
    np.testing.assert_allclose(result, exact, **tolerance(81))


@each_target
@pytest.mark.parametrize("swap", ["", "a", "b"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 17, 33),
        (3, 5, 7, 9),
        (2, 33, 100, 17),
        (1, 77, 64, 1),
        (2, 16, 1, 16),
        (1, 2, 64, 40),
    ],
    ids=str,
)
def test_matrix_product(shape: tuple[int, ...], swap: str, target: str) -> None:
    batch, rows, inner, columns = shape
    a, b = random(batch, rows, inner), random(batch, inner, columns, seed=1)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    inputs = [x.transpose(0, 2, 1).copy() if swap == s else x for x, s in ((a, "a"), (b, "b"))]

    def build(a, b):
        a = R.permute_dims(a, [0, 2, 1]) if swap == "a" else a
        b = R.permute_dims(b, [0, 2, 1]) if swap == "b" else b
        return R.matmul(a, b)

    np.testing.assert_allclose(run(build, inputs, target), exact, **tolerance(inner))


@each_target
def test_linear_with_an_epilogue_of_another_shape(target: str) -> None:
    x, w, b = random(1, 10), random(10, 33, seed=1), random(5, 33, seed=2)
    exact = x.astype(np.float64) @ w + b
    result = run(lambda x, w, b: R.add(R.matmul(x, w), b), [x, w, b], target)
    np.testing.assert_allclose(result, exact, **tolerance(10))


@pytest.mark.isa("avx2")
def test_result_does_not_depend_on_the_number_of_threads() -> None:
    before = get_num_threads()
    if before < 2:
        pytest.skip("needs a pool of two threads")
    case = (33, 40, 30, 31, 3, 1, 1, 1, 1)
    main = compiled(*convolution(case)[:2], "wq/x86-avx2")
    try:
        results = []
        for threads in (1, 2):
            set_num_threads(threads)
            results.append(main().numpy())
    finally:
        set_num_threads(before)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(("target", "register"), [("wq/x86-vnni", "zmm"), ("wq/x86-avx2", "ymm")])
@pytest.mark.parametrize("kind", ["convolution", "product"])
def test_inner_loop_is_made_of_fused_products_in_registers(
    kind: str, target: str, register: str
) -> None:
    build, inputs = lambda a, b: R.matmul(a, b), [random(56, 96), random(96, 128)]
    if kind == "convolution":
        build, inputs, _ = convolution((32, 64, 28, 28, 3, 1, 1, 1, 1))
    tvm_target = lookup(target).tvm_target()
    (function,) = functions(scheduled(build, inputs, tvm_target)).values()
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    assembly = assembly_of(tvm.compile(module, target=tvm_target))
    loops = [
        loop for loop in assembly.innermost_loops if loop.matching(r"vfmadd\d+ps", f"%{register}")
    ]
    assert loops
    machine = machine_of(tvm_target)
    for loop in loops:
        products = loop.matching(r"vfmadd\d+ps", f"%{register}")
        # As many sums as leave room for a vector of weights and a broadcast, all of them whole.
        assert len(products) >= machine.registers // 2
        assert not loop.matching(r"v(add|mul)[sp]s")
        assert not loop.matching(r"vmov[ua]ps", rf"^%{register}\d+, .*\(%rsp"), "sums are spilled"


@pytest.mark.parametrize("kind", ["convolution", "grouped", "depthwise", "product"])
def test_compiles_for_arm(kind: str) -> None:
    cases = {
        "convolution": (17, 33, 9, 7, 3, 2, 1, 1, 1),
        "grouped": (12, 18, 7, 9, 3, 1, 1, 1, 3),
        "depthwise": (33, 33, 13, 9, 3, 2, 1, 1, 33),
    }
    build, inputs = lambda a, b: R.matmul(a, b), [random(17, 33), random(33, 40)]
    if kind in cases:
        build, inputs, _ = convolution(cases[kind])
    target = tvm.target.Target(ARM)
    for function in functions(scheduled(build, inputs, target)).values():
        module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
        assembly = assembly_of(tvm.compile(module, target=target))
        assert assembly.code.matching("fmla", r"\.4s")
