"""Compiled kernels equal the numpy reference to the bit, in every stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from kernel_layers import X86, X86_VECTORS, Layer, cpu_kernels, make_layer
from numpy.typing import NDArray

from wqtvm.runtime.threads import get_num_threads, set_num_threads

ODD_SHAPES = [
    # (batch, height, width, channels), output channels, padding
    ((1, 5, 9, 1), 3, 1),
    ((3, 7, 10, 3), 17, 0),
    ((1, 10, 7, 17), 33, 1),
    ((3, 6, 6, 33), 100, 0),
    ((1, 11, 13, 100), 1, 1),
    ((1, 3, 3, 32), 16, 0),
    ((2, 16, 16, 64), 48, 1),
]


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert actual.shape == expected.shape
    different = np.flatnonzero(actual.view(np.int32) != expected.view(np.int32))
    assert not different.size, (
        f"{different.size} of {actual.size} values differ, the first at {different[0]}: "
        f"{actual.ravel()[different[0]]!r} instead of {expected.ravel()[different[0]]!r}"
    )


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("precision", ["hadamard", "full"])
@pytest.mark.parametrize(("shape", "out_channels", "padding"), ODD_SHAPES)
def test_odd_shapes(
    target: str,
    precision: str,
    shape: tuple[int, int, int, int],
    out_channels: int,
    padding: int,
) -> None:
    layer = make_layer(target, shape, out_channels, precision=precision, padding=padding)
    assert_same_bits(layer.run()["output"], layer.reference().output)


# Half of the combinations, each case once a target and once a precision.
FIVE_TAPS_AND_RECTANGLES = [
    (2, 5, (3, 7, 10, 17), 33, 0),
    (2, 5, (1, 5, 5, 100), 1, 1),
    (3, 5, (1, 9, 6, 33), 17, 2),
    (4, 5, (1, 11, 13, 33), 17, 2),
    (4, 5, (1, 14, 5, 3), 100, 3),
    ((4, 2), 3, (1, 5, 9, 1), 33, 1),
    ((4, 2), 3, (2, 10, 7, 100), 3, 0),
    ((6, 4), 3, (1, 14, 15, 33), 17, 1),
    ((2, 5), 3, (1, 3, 6, 17), 100, 2),
    ((2, 4), 5, (1, 7, 10, 17), 33, 2),
]


@pytest.mark.parametrize(
    ("target", "precision", "tile", "taps", "shape", "out_channels", "padding"),
    [
        pytest.param(*target.values, precision, *case, marks=target.marks)
        for index, case in enumerate(FIVE_TAPS_AND_RECTANGLES)
        for target, precision in zip(
            X86,
            ["hadamard", "full", "hadamard"] if index % 2 else ["full", "hadamard", "full"],
            strict=True,
        )
    ],
)
def test_five_taps_and_rectangles(
    target: str,
    precision: str,
    tile: int | tuple[int, int],
    taps: int,
    shape: tuple[int, int, int, int],
    out_channels: int,
    padding: int,
) -> None:
    layer = make_layer(
        target, shape, out_channels, precision=precision, padding=padding, tile=tile, taps=taps
    )
    assert_same_bits(layer.run()["output"], layer.reference().output)


ALGORITHMS_GROUPS_AND_STEPS: list[dict[str, object]] = [
    {"tile": 2},
    {"tile": 3},
    {"tile": 4, "points": "lavin"},
    {"tile": 5},
    {"tile": 6},
    {"group_size": 0},
    {"group_size": 64},
    {"group_size": 4},
    {"group_size": 12},
    {"precision": "full", "tile": 1},
    {"precision": "full", "tile": 2, "steps": "tile", "scales": "row-norm"},
    {"precision": "full", "tile": 6, "scales": "standard", "steps": "axis"},
    {"precision": "full", "tile": 6},
    {"precision": "full", "steps": "tile"},
    {"precision": "full", "group_size": 0},
    {"precision": "full", "group_size": 12},
    {"precision": "full", "steps": "axis", "group_size": 0},
    {"precision": "full", "steps": "axis", "group_size": 12},
    {"precision": "full", "steps": "axis", "group_size": 4},
    # More products an axis than inputs of a tile.
    {"family": "sfc"},
    {"family": "sfc", "tile": 6},
    {"family": "sfc", "precision": "full", "steps": "tile", "scales": "row-norm"},
    {"family": "sfc", "precision": "full", "tile": 6},
    {"tile": 2, "taps": 5, "group_size": 0},
    {"tile": 4, "taps": 5, "precision": "full", "steps": "tile", "scales": "standard"},
    {"tile": (2, 6), "group_size": 12},
    {"tile": (3, 4), "precision": "full", "steps": "tile", "scales": "row-norm"},
    {"family": "sfc", "tile": (6, 4), "precision": "full"},
    {"tile": 6, "points": "complex"},
    {"tile": 5, "points": "complex"},
    {"tile": 3, "points": "complex", "precision": "full"},
]


# All with kernels that are written out, a third with those that are left to the compiler.
@pytest.mark.parametrize(
    ("target", "options"),
    [
        pytest.param(
            *target.values, options, marks=target.marks,
            id="-".join(map(str, (*target.values, *options.values()))),
        )
        for target, every in zip(X86, (1, 3, 3), strict=True)
        for options in ALGORITHMS_GROUPS_AND_STEPS[::every]
    ],
)  # fmt: skip
def test_algorithms_groups_and_steps(target: str, options: dict[str, object]) -> None:
    layer = make_layer(target, (1, 13, 9, 40), 36, **options)  # type: ignore[arg-type]
    assert_same_bits(layer.run()["output"], layer.reference().output)


def untiled(layer: Layer, stage: NDArray[np.generic], tile_axis: int) -> NDArray[np.generic]:
    """Join the axes (image, tile row, tile column) of a stage to p, padding dropped."""
    work = layer.work
    valid = [slice(None)] * stage.ndim
    valid[tile_axis + 1 : tile_axis + 3] = [slice(work.tile_rows), slice(work.tile_columns)]
    tiles = stage[tuple(valid)]
    shape = (*tiles.shape[:tile_axis], -1, *tiles.shape[tile_axis + 3 :])
    return tiles.reshape(shape)


# Tile registers hold a register block's M alone; their results are what the other tests compare.
@pytest.mark.parametrize("target", X86_VECTORS)
@pytest.mark.parametrize("shape", [(1, 10, 7, 33), (3, 9, 14, 64)])
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_v_products_and_m(target: str, precision: str, shape: tuple[int, int, int, int]) -> None:
    layer = make_layer(target, shape, 40, precision=precision)
    # A kernel that is written out keeps the products in registers; M is made of them.
    kept = cpu_kernels(layer.record).winograd.instructions is None
    stages = layer.run(["V", "V_step", *(["products"] if kept else []), "M"])
    expected = layer.reference()
    dot = layer.work.dot

    v = untiled(layer, stages["V"], 2).transpose(2, 0, 1, 3, 4).astype(np.int32)
    np.testing.assert_array_equal(v - dot.zero_point, expected.v)
    step = untiled(layer, stages["V_step"], 0).transpose(0, 2, 3, 1)
    assert_same_bits(np.ascontiguousarray(step), expected.v_step)

    if kept:
        products = untiled(layer, stages["products"], 2)  # (e, v, p, g, k)
        sums = products.transpose(2, 0, 1, 4, 3)[:, :, :, : layer.work.out_channels]
        assert expected.acc is not None
        np.testing.assert_array_equal(sums, expected.acc)
    m = untiled(layer, stages["M"], 2).transpose(2, 0, 1, 3)[..., : layer.work.out_channels]
    assert_same_bits(np.ascontiguousarray(m), expected.m)


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("steps", ["channel", "axis", "tile"])
def test_integer_stages_of_full(target: str, steps: str) -> None:
    layer = make_layer(target, (2, 9, 14, 33), 40, precision="full", steps=steps)
    stages = layer.run(["d_quantized", "rows_quantized", "M_quantized", "A_quantized"])
    expected = layer.reference()
    channels = layer.work.out_channels

    d = untiled(layer, stages["d_quantized"], 0).transpose(0, 2, 3, 1, 4)
    np.testing.assert_array_equal(d, expected.d_q)
    rows = untiled(layer, stages["rows_quantized"], 0).transpose(0, 2, 3, 1, 4)
    np.testing.assert_array_equal(rows, expected.b_d_q)
    for name, wanted in (("M_quantized", expected.m_q), ("A_quantized", expected.a_m_q)):
        grouped = untiled(layer, stages[name], 0).transpose(0, 2, 3, 1, 4)  # (p, e, v, h, s)
        joined = grouped.reshape(*grouped.shape[:3], -1)[..., :channels]
        np.testing.assert_array_equal(joined, wanted)


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_any_block_of_tiles_gives_the_same_bits(target: str, precision: str) -> None:
    layer = make_layer(target, (2, 18, 22, 40), 36, precision=precision)
    expected = layer.reference().output
    for block in ((1, 1), (1, 4), (2, 3), (5, 6), (3, 2)):
        other = replace(layer, work=replace(layer.work, block=block))
        assert_same_bits(other.run()["output"], expected)


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_nan_and_infinity_never_become_numbers(target: str, precision: str) -> None:
    layer = make_layer(target, (1, 12, 16, 64), 33, precision=precision)
    layer.x[0, 1, 1, 5] = np.nan
    layer.x[0, 9, 14, 40] = np.inf
    output = layer.run()["output"]
    reference = layer.reference().output
    np.testing.assert_array_equal(np.isnan(output), np.isnan(reference))
    assert np.isnan(output[0, :3, :3]).all()
    assert np.isnan(output[0, 8:11, 13:16]).all()
    finite = np.isfinite(reference)
    assert finite.any()
    assert_same_bits(output[finite], reference[finite])


@pytest.mark.parametrize("target", X86)
def test_zeros_and_denormals(target: str) -> None:
    layer = make_layer(target, (1, 8, 8, 32), 16)
    layer.x[:] = 0
    assert not layer.run()["output"].any()
    layer.x[:] = np.float32(1e-40)
    assert_same_bits(layer.run()["output"], layer.reference().output)


@pytest.mark.parametrize("target", X86)
def test_nothing_is_written_outside_the_output(target: str) -> None:
    layer = make_layer(target, (1, 7, 5, 17), 19)
    function = layer.scheduled()
    library = tvm.compile(function, target=layer.record.tvm_target())
    count = layer.work.out_height * layer.work.out_width * 19
    guard = 4096
    memory = np.full(count + 2 * guard + 16, 7, np.float32)
    start = -memory.ctypes.data // 4 % 16 + guard  # of a whole cache line, as TVM's tensors
    shape = (1, layer.work.out_height, layer.work.out_width, 19)
    output = memory[start : start + count].reshape(shape)
    library["main"](*layer.arguments(), tvm.runtime.from_dlpack(output))
    assert_same_bits(output, layer.reference().output)
    assert (memory[:start] == 7).all()
    assert (memory[start + count :] == 7).all()


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_one_and_two_threads_give_the_same_bits(target: str, precision: str) -> None:
    layer = make_layer(target, (1, 30, 34, 40), 36, precision=precision)
    expected = layer.reference().output
    before = get_num_threads()
    try:
        for threads in (1, 2):
            set_num_threads(threads)
            assert_same_bits(layer.run()["output"], expected)
    finally:
        set_num_threads(before)
