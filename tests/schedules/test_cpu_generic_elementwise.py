"""Elementwise operators, movements of data, and the written-out exponentials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from float_functions import assembly, random, run
from kernel_layers import X86
from tvm import relax

R, N = relax.op, relax.op.nn

each_target = pytest.mark.parametrize("target", X86)
SHAPES = [
    (1, 3, 5, 7),
    (2, 9, 11, 17),
    (1, 13, 33, 100),
    (3, 1, 1, 33),
    (1, 8, 8, 64),
    (1, 1, 1, 1),
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)

# Errors relative to the exact value that the docstring of `expand` promises.
FUNCTIONS = {
    "exp": (R.exp, np.exp, 1e-7),
    "sigmoid": (R.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 2e-7),
    "tanh": (R.tanh, np.tanh, 3e-7),
    "erf": (R.erf, lambda x: torch.erf(torch.from_numpy(x)).numpy(), 4e-7),
}


@each_target
@each_shape
def test_elementwise_with_broadcasts(shape: tuple[int, ...], target: str) -> None:
    x, y = random(*shape), random(*shape, seed=1)
    channel, image = random(1, 1, 1, shape[3], seed=2), random(shape[0], 1, 1, 1, seed=3)

    def build(x, y, c, i):
        return R.add(N.relu(R.add(R.multiply(x, c), y)), i)

    result = run(build, [x, y, channel, image], target)
    # One product and two sums, each rounded, and perhaps contracted.
    exact = np.maximum(x.astype(np.float64) * channel + y, 0) + image
    np.testing.assert_allclose(result, exact, rtol=1e-6, atol=2e-6)


@each_target
@each_shape
def test_movements_are_exact(shape: tuple[int, ...], target: str) -> None:
    n, h, w, c = shape
    x, y = random(*shape), random(n, h, w, 5, seed=1)

    def build(x, y):
        joined = R.concat([x, y, x], 3)
        padded = N.pad(joined, [0, 0, 1, 2, 0, 1, 3, 0], "constant", 0.5)
        flipped = R.flip(R.permute_dims(padded, [0, 3, 1, 2]), 2)
        return R.reshape(flipped, [n * (2 * c + 8), h + 3, w + 1])

    joined = np.concatenate([x, y, x], 3)
    padded = np.pad(joined, [(0, 0), (1, 2), (0, 1), (3, 0)], constant_values=0.5)
    expected = padded.transpose(0, 3, 1, 2)[:, :, ::-1].reshape(n * (2 * c + 8), h + 3, w + 1)
    np.testing.assert_array_equal(run(build, [x, y], target), expected)


@each_target
@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("parts", [(64, 32), (33, 31, 36), (1, 16)])
def test_concatenation(parts: tuple[int, ...], axis: int, target: str) -> None:
    shapes = [[2, 3, 5, 48] for _ in parts]
    for shape, part in zip(shapes, parts, strict=True):
        shape[axis] = part
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    result = run(lambda *xs: R.concat(list(xs), axis), arrays, target)
    np.testing.assert_array_equal(result, np.concatenate(arrays, axis))


@each_target
@pytest.mark.parametrize("channels", [12, 64])
def test_pixel_shuffle_and_back(channels: int, target: str) -> None:
    n, h, w, c = 2, 5, 7, channels
    x = random(n, h, w, c)

    def shuffle(x):
        split = R.reshape(x, (n, h, w, c // 4, 2, 2))
        return R.reshape(R.permute_dims(split, [0, 1, 4, 2, 5, 3]), (n, 2 * h, 2 * w, c // 4))

    def back(y):
        split = R.reshape(y, (n, h, 2, w, 2, c // 4))
        return R.reshape(R.permute_dims(split, [0, 1, 3, 5, 2, 4]), (n, h, w, c))

    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    expected = F.pixel_shuffle(image, 2).permute(0, 2, 3, 1).numpy()
    shuffled = run(shuffle, [x], target)
    np.testing.assert_array_equal(shuffled, expected)
    np.testing.assert_array_equal(run(back, [shuffled], target), x)


@each_target
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("method", ["nearest_neighbor", "linear"])
def test_resize(method: str, layout: str, target: str) -> None:
    image = random(1, 17, 9, 11)

    def build(x):
        return R.image.resize2d(
            x,
            relax.ShapeExpr([18, 22]),
            layout=layout,
            method=method,
            coordinate_transformation_mode="half_pixel" if method == "linear" else "asymmetric",
            rounding_method="floor",
        )

    mode = {"nearest_neighbor": "nearest", "linear": "bilinear"}[method]
    expected = F.interpolate(torch.from_numpy(image), (18, 22), mode=mode).numpy()
    if layout == "NHWC":
        image, expected = image.transpose(0, 2, 3, 1).copy(), expected.transpose(0, 2, 3, 1)
    # Interpolation: six roundings of values below 5.
    np.testing.assert_allclose(run(build, [image], target), expected, rtol=0, atol=3e-6)


@each_target
def test_take(target: str) -> None:
    table, indices = random(10, 33), np.array([[1, 2, 9], [4, 0, 9]], dtype="int64")
    result = run(lambda t, i: R.take(t, i, 0, mode="clip"), [table, indices], target)
    np.testing.assert_array_equal(result, table[indices])


@each_target
def test_several_results(target: str) -> None:
    x = random(2, 9, 34)
    first, second = (
        run(lambda x, part=part: R.split(x, 2, 2)[part], [x], target) for part in (0, 1)
    )
    np.testing.assert_array_equal(np.concatenate([first, second], 2), x)


def check_function(name: str, x: np.ndarray, target: str) -> None:
    operator, exact, promised = FUNCTIONS[name]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = exact(x.astype(np.float64))
    expected = np.where(np.abs(expected) > np.finfo(np.float32).max, np.inf, expected)
    # What is below is 0, see `expand`.
    np.testing.assert_allclose(run(operator, [x], target), expected, rtol=promised, atol=1.7e-38)


@each_target
@pytest.mark.parametrize("name", FUNCTIONS)
def test_written_out_function(name: str, target: str) -> None:
    x = np.concatenate([np.linspace(-90, 90, 200_001), np.linspace(-1, 1, 100_000)])
    check_function(name, x.astype(np.float32), target)


@each_target
@pytest.mark.parametrize("name", FUNCTIONS)
def test_written_out_function_of_any_bits(name: str, target: str) -> None:
    limits = [-np.inf, np.inf, np.nan, 0, -0.0, -1e30, 1e30, -104, 88.72284, -87.33655, 1e-45]
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        x = np.concatenate([np.array(limits, np.float32), bits.view(np.float32)])
    check_function(name, x, target)


@pytest.mark.parametrize(
    ("target", "division", "register"),
    [
        ("wq/x86-vnni", "vdivps", "%zmm"),
        ("wq/x86-avx2", "vdivps", "%ymm"),
        ("wq/arm-neon", "fdiv", r"v\d+.4s"),
    ],
)
@pytest.mark.parametrize("extent", [4096, 1001])
def test_functions_are_vectors_without_calls(
    extent: int, target: str, division: str, register: str
) -> None:
    code = assembly(N.silu, [random(3, extent)], target)
    loops = [loop for loop in code.innermost_loops if loop.matching(division, register)]
    assert loops
    for loop in loops:
        assert not loop.matching("vdivss|callq?|bl")


def test_silu_takes_few_operations() -> None:
    """It is bound by them: 14 for exp, the last of which adds 1, a division, and no more."""
    code = assembly(N.silu, [random(3, 4096)], "wq/x86-vnni")
    loops = [loop for loop in code.innermost_loops if loop.matching("vdivps", "%zmm")]
    assert loops
    for loop in loops:
        operations = loop.matching(r"v(?!mov)\w+", "%zmm")
        assert len(operations) == 15 * len(loop.matching("vdivps", "%zmm"))


@pytest.mark.parametrize("back", [False, True])
def test_pixel_shuffle_permutes_vectors(back: bool) -> None:
    def build(x):
        if back:
            x = R.reshape(R.permute_dims(R.reshape(x, (4, 2, 4, 2, 16)), [0, 2, 4, 1, 3]), (16, 64))
            return x
        x = R.permute_dims(R.reshape(x, (4, 4, 16, 2, 2)), [0, 3, 1, 4, 2])
        return R.reshape(x, (64, 16))

    shape = (64, 16) if back else (16, 64)
    code = assembly(build, [random(*shape)], "wq/x86-vnni")
    loops = [loop for loop in code.innermost_loops if loop.matching("vperm.*", "%zmm")]
    assert loops
    for loop in loops:
        assert not loop.matching("vmovss|vmovd|vinsertps|vpinsr.*|vextractps|vp?gather.*")
