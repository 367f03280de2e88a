"""Reductions, pooling, softmax and normalisations of every shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from float_functions import assembly, compiled, functions, random, run, scheduled, tolerance
from kernel_layers import X86
from tvm import relax

from wqtvm.runtime.threads import get_num_threads, set_num_threads
from wqtvm.target import lookup

R, N = relax.op, relax.op.nn

each_target = pytest.mark.parametrize("target", X86)
SHAPES = [(1, 5, 7, 3), (2, 9, 11, 17), (1, 28, 28, 64), (3, 1, 1, 33), (1, 14, 13, 100)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}


@each_target
@each_shape
@pytest.mark.parametrize("axes", [(0,), (1,), (3,), (1, 2), (0, 3), (2, 3), (0, 1, 2, 3)], ids=str)
def test_sum(axes: tuple[int, ...], shape: tuple[int, ...], target: str) -> None:
    x = random(*shape)
    exact = x.astype(np.float64).sum(axes)
    summed = x.size // max(1, exact.size)
    result = run(lambda x: R.sum(x, list(axes)), [x], target)
    np.testing.assert_allclose(result, exact, **tolerance(summed))


@each_target
@pytest.mark.parametrize("shape", [(4099, 17), (3, 100_003), (1, 70_001), (3, 1003, 33)], ids=str)
@pytest.mark.parametrize("axis", [0, -1])
def test_long_reductions(shape: tuple[int, ...], axis: int, target: str) -> None:
    x = random(*shape)
    result = run(lambda x: R.mean(x, axis), [x], target)
    np.testing.assert_allclose(result, x.astype(np.float64).mean(axis), rtol=1e-5, atol=1e-5)
    result = run(lambda x: R.max(x, axis), [x], target)
    np.testing.assert_array_equal(result, x.max(axis))


@each_target
@each_shape
def test_first_of_equal_values_is_the_greatest(shape: tuple[int, ...], target: str) -> None:
    x = np.round(random(*shape))
    for axis in (1, 3):
        result = run(lambda x, axis=axis: R.argmax(x, axis), [x], target)
        np.testing.assert_array_equal(result, x.argmax(axis))


@each_target
@each_shape
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_pooling(layout: str, shape: tuple[int, ...], target: str) -> None:
    n, h, w, c = shape
    image = random(n, c, h, w)
    tensor = torch.from_numpy(image)
    window = (3, 3) if min(h, w) > 2 else (1, 1)
    pad = window[0] // 2

    def pool(kind):
        return lambda x: kind(x, window, (2, 2), (pad, pad), layout=layout)

    cases = [
        (pool(N.max_pool2d), F.max_pool2d(tensor, window, 2, pad)),
        (
            lambda x: N.avg_pool2d(x, window, (2, 2), (pad, pad), layout=layout),
            F.avg_pool2d(tensor, window, 2, pad, count_include_pad=False),
        ),
        (
            lambda x: N.adaptive_avg_pool2d(x, (min(3, h), min(2, w)), layout=layout),
            F.adaptive_avg_pool2d(tensor, (min(3, h), min(2, w))),
        ),
    ]
    for build, expected in cases:
        x, wanted = image, expected.numpy()
        if layout == "NHWC":
            x, wanted = image.transpose(0, 2, 3, 1).copy(), wanted.transpose(0, 2, 3, 1)
        # Means of values below 5: the sum's roundings, and those of PyTorch's.
        np.testing.assert_allclose(run(build, [x], target), wanted, rtol=1e-5, atol=1e-5)


@each_target
@pytest.mark.parametrize("columns", [1, 3, 7, 16, 17, 33, 77, 197, 1024])
def test_softmax_and_layer_norm(columns: int, target: str) -> None:
    x, scale, shift = random(2, 37, columns), random(columns, seed=1), random(columns, seed=2)
    double = torch.from_numpy(x).double()
    result = run(lambda x: N.softmax(x, -1), [x], target)
    # exp is good to 1e-7, its argument to half of a last bit of values below 8, the sum and its
    # reciprocal to a few last bits.
    np.testing.assert_allclose(result, F.softmax(double, -1), rtol=3e-6, atol=1e-9)
    if columns > 1:
        exact = F.layer_norm(double, (columns,), *map(_double, (scale, shift)))
        result = run(lambda x, g, b: N.layer_norm(x, g, b, [-1]), [x, scale, shift], target)
        np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)


@each_target
def test_softmax_and_layer_norm_of_few_long_rows(target: str) -> None:
    x, scale, shift = random(2, 40_001), random(40_001, seed=1), random(40_001, seed=2)
    double = torch.from_numpy(x).double()
    result = run(lambda x: N.softmax(x, -1), [x], target)
    np.testing.assert_allclose(result, F.softmax(double, -1), rtol=3e-6, atol=1e-12)
    exact = F.layer_norm(double, (40_001,), *map(_double, (scale, shift)))
    result = run(lambda x, g, b: N.layer_norm(x, g, b, [-1]), [x, scale, shift], target)
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)


@each_target
def test_softmax_of_masked_and_broken_rows(target: str) -> None:
    x = random(6, 77)
    x[0, 3:] = -np.inf
    x[1] = -np.inf
    x[2, 5] = np.nan
    x[3, 5] = np.inf
    x[4, :40] = 3e38
    x[5, :40] = -3e38
    exact = F.softmax(torch.from_numpy(x).double(), -1)
    result = run(lambda x: N.softmax(x, -1), [x], target)
    np.testing.assert_allclose(result, exact, rtol=3e-6, atol=1e-9)
    assert np.all(result[0, 3:] == 0)


@pytest.mark.parametrize(("channels", "copied"), [(64, False), (3, True)])
def test_windows_read_an_image_without_a_copy_of_it(channels: int, copied: bool) -> None:
    def build(x):
        return N.max_pool2d(x, (3, 3), 2, 1, layout="NHWC")

    target = lookup("wq/x86-avx2").tvm_target()
    (function,) = functions(scheduled(build, [random(1, 9, 9, channels)], target)).values()
    assert ("pad_temp" in function.script()) is copied


def test_lanes_are_added_in_halves() -> None:
    code = assembly(lambda x: N.softmax(x, -1), [random(512, 1024)], "wq/x86-vnni").code
    assert len(code.matching("v(max|add)ss", "%xmm")) <= 4
    assert code.matching("v(max|add)ps", "%ymm")


@each_target
@each_shape
def test_softmax_over_channels(shape: tuple[int, ...], target: str) -> None:
    x = random(*shape)
    double = torch.from_numpy(x).double()
    for axis in (1, 2):
        exact = F.softmax(double, axis)
        result = run(lambda x, axis=axis: N.softmax(x, axis), [x], target)
        np.testing.assert_allclose(result, exact, rtol=3e-6, atol=1e-9)
        result = run(lambda x, axis=axis: N.log_softmax(x, axis), [x], target)
        np.testing.assert_allclose(result, F.log_softmax(double, axis), rtol=1e-5, atol=5e-6)


@each_target
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("case", [(32, 8, 9, 11), (40, 4, 8, 8), (320, 32, 6, 7), (33, 3, 5, 5)])
def test_group_norm_with_activation(
    case: tuple[int, int, int, int], layout: str, target: str
) -> None:
    channels, groups, h, w = case
    image = random(2, channels, h, w)
    scale, shift = random(channels, seed=1), random(channels, seed=2)
    exact = F.silu(
        F.group_norm(torch.from_numpy(image).double(), groups, *map(_double, (scale, shift)))
    ).numpy()
    axis, axes = (1, [2, 3]) if layout == "NCHW" else (3, [1, 2])
    if layout == "NHWC":
        image, exact = image.transpose(0, 2, 3, 1).copy(), exact.transpose(0, 2, 3, 1)
    result = run(
        lambda x, g, b: N.silu(N.group_norm(x, g, b, groups, axis, axes)),
        [image, scale, shift],
        target,
    )
    # The variance is a difference of mean squares: a few last bits of 1.
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)


@each_target
@each_shape
def test_instance_norm_and_global_pool(shape: tuple[int, ...], target: str) -> None:
    x = random(*shape)
    double = torch.from_numpy(x.transpose(0, 3, 1, 2)).double()
    exact = double.mean((2, 3)).numpy()
    result = run(lambda x: R.mean(x, [1, 2]), [x], target)
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-6)
    if shape[1] > 1:
        ones, zeros = np.ones(shape[3], "float32"), np.zeros(shape[3], "float32")
        result = run(lambda x, g, b: N.instance_norm(x, g, b, 3, [1, 2]), [x, ones, zeros], target)
        exact = F.instance_norm(double).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.isa("avx2")
@pytest.mark.parametrize("shape", [(1, 33, 31, 40), (3, 70_001), (300, 197)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(shape: tuple[int, ...]) -> None:
    before = get_num_threads()
    if before < 2:
        pytest.skip("needs a pool of two threads")
    mains = [
        compiled(build, [random(*shape)], "wq/x86-avx2")
        for build in (lambda x: R.sum(x), lambda x: R.sum(x, 0), lambda x: N.softmax(x, -1))
    ]
    try:
        results = []
        for threads in (1, 2):
            set_num_threads(threads)
            results.append([main().numpy() for main in mains])
    finally:
        set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: N.softmax(x, -1),
        lambda x: R.sum(x, [1, 2]),
        lambda x: N.max_pool2d(x, (3, 3), 2, 1, layout="NHWC"),
        lambda x: N.silu(x),
    ],
    ids=["softmax", "sum", "pool", "silu"],
)
def test_compiles_for_arm(build) -> None:
    target = tvm.target.Target(ARM)
    for function in functions(scheduled(build, [random(2, 9, 11, 33)], target)).values():
        module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
        assert tvm.compile(module, target=target).mod.inspect_source("asm")


def _double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).double()
