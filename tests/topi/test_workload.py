"""Shapes of a workload, and the packing of its weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wqtvm.errors import ConfigError
from wqtvm.fastconv import direct, standard_scales, winograd
from wqtvm.quantization import QuantizedWeights, Scheme
from wqtvm.target import TABLE, DotProduct, TargetRecord
from wqtvm.topi.direct_workload import DirectWorkload, pack_direct_weights
from wqtvm.topi.workload import WinogradWorkload, pack_weights

ALGORITHMS = {tile: direct() if tile == 1 else winograd(tile) for tile in (1, 2, 3, 4, 6)}
FIVE_TAPS = {tile: direct(5) if tile == 1 else winograd(tile, r=5) for tile in (1, 2, 4)}


@st.composite
def workloads(draw: st.DrawFn) -> WinogradWorkload:
    """Any layer, of any table's dot product, in any block of tiles."""
    algorithms = st.sampled_from(list(draw(st.sampled_from([ALGORITHMS, FIVE_TAPS])).values()))
    rows, columns = draw(algorithms), draw(algorithms)
    precision = draw(st.sampled_from(["hadamard", "full"]))
    group_size = draw(st.sampled_from([0, 4, 12, 32, 64]))
    scheme = Scheme(
        rows, standard_scales(rows), precision, group_size, "axis", "tap",
        columns, standard_scales(columns),
    )  # fmt: skip
    return WinogradWorkload(
        scheme,
        batch=draw(st.integers(1, 3)),
        height=draw(st.integers(5, 40)),
        width=draw(st.integers(5, 40)),
        in_channels=draw(st.integers(1, 100)),
        out_channels=draw(st.integers(1, 100)),
        padding=draw(st.integers(0, 1)),
        dot=draw(st.sampled_from([record.dot for record in TABLE])),
        block=(draw(st.integers(1, 5)), draw(st.integers(1, 5))),
    )


@given(work=workloads())
def test_tiles_cover_the_output_and_no_more_than_a_block_beyond(work: WinogradWorkload) -> None:
    (m_y, m_x), r = work.scheme.output_tile, work.scheme.kernel
    assert work.out_height == work.height + 2 * work.padding - (r - 1)
    assert work.out_width == work.width + 2 * work.padding - (r - 1)
    images, rows, columns = work.tile_shape
    assert images == work.batch
    assert (work.tile_rows - 1) * m_y < work.out_height <= work.tile_rows * m_y
    assert (work.tile_columns - 1) * m_x < work.out_width <= work.tile_columns * m_x
    for padded, tiles, block in (
        (rows, work.tile_rows, work.block[0]),
        (columns, work.tile_columns, work.block[1]),
    ):
        assert padded % block == 0
        assert tiles <= padded < tiles + block


@given(work=workloads())
def test_channels_are_padded_to_groups_and_vectors(work: WinogradWorkload) -> None:
    assert (work.groups - 1) * work.group_size < work.in_channels <= work.groups * work.group_size
    if work.scheme.group_size:
        assert work.group_size == work.scheme.group_size
    else:
        assert work.groups == work.out_groups == 1
    assert work.out_channels <= work.packed_channels < work.out_channels + work.dot.lanes
    assert work.packed_channels % work.dot.lanes == 0
    rows, columns = work.scheme.products
    values = rows * columns * work.packed_channels * work.groups * work.group_size
    assert math.prod(work.packed_shape) == values
    assert work.step_shape == (rows, columns, work.groups, work.packed_channels)


def test_sizes_of_a_known_layer() -> None:
    scheme = Scheme(ALGORITHMS[4], standard_scales(ALGORITHMS[4]), "hadamard", 32, "axis")
    dot = DotProduct(16, 4, "uint8", "int8", zero_point=128)
    work = WinogradWorkload(scheme, 2, 30, 17, 33, 50, 1, dot, block=(3, 2))
    assert (work.out_height, work.out_width) == (30, 17)
    assert (work.tile_rows, work.tile_columns) == (8, 5)
    assert work.tile_shape == (2, 9, 6)
    assert (work.groups, work.group_size, work.packed_channels) == (2, 32, 64)
    assert work.packed_shape == (4, 6, 6, 2, 8, 16, 4)
    assert work.step_shape == (6, 6, 2, 64)


def random_weights(work: WinogradWorkload, seed: int = 0) -> QuantizedWeights:
    rng = np.random.default_rng(seed)
    shape = (*work.scheme.products, work.out_channels, work.groups, work.group_size)
    u = rng.integers(-127, 127, shape, endpoint=True).astype(np.int8)
    u.reshape(*shape[:3], -1)[..., work.in_channels :] = 0
    step = rng.random(shape[:4], np.float32) + np.float32(0.1)
    return QuantizedWeights(u, step, work.in_channels)


@settings(max_examples=20)
@given(work=workloads())
def test_every_packed_weight_is_where_the_kernels_read_it(work: WinogradWorkload) -> None:
    weights = random_weights(work)
    packed = pack_weights(weights, work)
    assert packed["U"].shape == work.packed_shape
    lanes, reduce = work.dot.lanes, work.dot.reduce
    k, g, s = np.indices((work.packed_channels, work.groups, work.group_size), sparse=True)
    taps = packed["U"].transpose(1, 2, 0, *range(3, 7))
    read = taps[:, :, k // lanes, g, s // reduce, k % lanes, s % reduce]
    np.testing.assert_array_equal(read[:, :, : work.out_channels], weights.u)
    assert not read[:, :, work.out_channels :].any()


@settings(max_examples=20)
@given(work=workloads())
def test_steps_follow_their_weights(work: WinogradWorkload) -> None:
    weights = random_weights(work)
    step = pack_weights(weights, work)["U_step"]
    assert step.shape == work.step_shape
    assert step.dtype == np.float32
    np.testing.assert_array_equal(
        step[..., : work.out_channels], weights.step.transpose(0, 1, 3, 2)
    )
    # What is behind the last channel must add nothing, whatever the activations are.
    assert not step[..., work.out_channels :].any()


@settings(max_examples=20)
@given(work=workloads(), seed=st.integers(0, 1000))
def test_the_correction_takes_the_zero_point_off_again(work: WinogradWorkload, seed: int) -> None:
    weights = random_weights(work, seed)
    packed = pack_weights(weights, work)
    zero_point = work.dot.zero_point
    if not zero_point:
        assert "U_correction" not in packed
        return
    assert packed["U_correction"].shape == work.step_shape
    assert packed["U_correction"].dtype == np.int32
    rng = np.random.default_rng(seed)
    v = rng.integers(-127, 127, (work.groups, work.group_size), endpoint=True)
    u = weights.u.astype(np.int64)
    shifted = np.einsum("gs,evkgs->evgk", v + zero_point, u)
    exact = np.einsum("gs,evkgs->evgk", v, u)
    correction = packed["U_correction"][..., : work.out_channels]
    np.testing.assert_array_equal(shifted + correction, exact)
    assert not packed["U_correction"][..., work.out_channels :].any()


def test_arrays_are_as_the_operator_takes_them(any_target: TargetRecord) -> None:
    """In the order of its parameters, contiguous, in the dot product's own types."""
    scheme = Scheme(ALGORITHMS[4], standard_scales(ALGORITHMS[4]), "hadamard", 32, "axis")
    work = WinogradWorkload(scheme, 1, 9, 9, 40, 20, 1, any_target.dot)
    packed = pack_weights(random_weights(work), work)
    names = ["U", "U_step"] + (["U_correction"] if any_target.dot.zero_point else [])
    assert list(packed) == names
    assert packed["U"].dtype == any_target.dot.weight_dtype
    assert all(array.flags.c_contiguous for array in packed.values())


def test_packing_leaves_the_weights_alone() -> None:
    scheme = Scheme(ALGORITHMS[2], standard_scales(ALGORITHMS[2]), "hadamard", 4, "axis")
    dot = DotProduct(4, 4, "int8", "int8", zero_point=0)
    work = WinogradWorkload(scheme, 1, 5, 5, 4, 4, 1, dot)
    weights = random_weights(work)
    before = replace(weights, u=weights.u.copy(), step=weights.step.copy())
    packed = pack_weights(weights, work)
    packed["U"][:] = 0
    packed["U_step"][:] = 0
    np.testing.assert_array_equal(weights.u, before.u)
    np.testing.assert_array_equal(weights.step, before.step)


@pytest.mark.parametrize("dot", [record.dot for record in TABLE], ids=lambda dot: f"{dot.lanes}")
def test_int32_holds_every_sum_of_a_group(dot: DotProduct) -> None:
    """The largest group that a sum is exact for is far beyond any layer's channels."""
    largest = 127 * (127 + dot.zero_point)
    assert (2**31 - 1) // largest > 65_000


def direct_work(weight_steps: str = "tap", **options: object) -> DirectWorkload:
    algorithm = direct()
    scheme = Scheme(algorithm, standard_scales(algorithm), weight_steps=weight_steps)
    dot = DotProduct(16, 4, "uint8", "int8", zero_point=128)
    return DirectWorkload(scheme, 2, 9, 11, 35, 20, 1, dot, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight_steps", ["tap", "filter"])
def test_direct_weights_lie_in_the_order_of_use(weight_steps: str) -> None:
    work = direct_work(weight_steps, block=(3, 4), pixels=4, vectors=3)
    assert work.input_shape == (2, 2, 11, 14, 32)
    assert (work.blocks, work.block_pixels, work.packed_channels) == ((3, 3), 12, 48)
    rng = np.random.default_rng(0)
    u = rng.integers(-127, 127, (3, 3, 20, 2, 32), endpoint=True).astype(np.int8)
    step = rng.random((3, 3, 20, 2), np.float32)
    packed = pack_direct_weights(QuantizedWeights(u, step, 35), work)
    assert list(packed) == ["U", "U_step", "U_correction"]
    assert packed["U"].shape == work.packed_shape == (3, 2, 3, 3, 8, 16, 4)
    e, v, k, g, s = np.indices(u.shape, sparse=True)
    np.testing.assert_array_equal(packed["U"][k // 16, g, e, v, s // 4, k % 16, s % 4], u)
    sums = packed["U_correction"][..., :20]  # (g, e, v, k)
    np.testing.assert_array_equal(sums, -128 * u.sum(4, dtype=np.int32).transpose(3, 0, 1, 2))
    expected = step.transpose(3, 0, 1, 2) if weight_steps == "tap" else step[0, 0].T
    np.testing.assert_array_equal(packed["U_step"][..., :20], expected)
    for array in (packed["U_step"], packed["U_correction"]):
        assert not array[..., 20:].any()


def test_a_direct_layer_of_few_channels_stores_no_more() -> None:
    work = replace(direct_work(stride=2), in_channels=3)
    assert (work.group_size, work.out_height, work.out_width) == (4, 5, 6)


def test_one_tap_quantizes_no_pixel_that_a_stride_skips() -> None:
    work = replace(direct_work(stride=2), padding=0)
    assert (work.sampling, work.quantized_stride, work.input_shape[2:4]) == (1, 2, (9, 11))
    one = direct(1)
    scheme = Scheme(one, standard_scales(one))
    work = replace(work, scheme=scheme)
    assert (work.sampling, work.quantized_stride, work.input_shape[2:4]) == (2, 1, (5, 6))


def test_pixels_divide_a_task() -> None:
    with pytest.raises(ConfigError, match="pixels is 5; give a divisor of the 12 outputs"):
        direct_work(block=(3, 4), pixels=5)
    with pytest.raises(ConfigError, match="stride=0"):
        direct_work(stride=0)
