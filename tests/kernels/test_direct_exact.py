"""Compiled direct convolutions equal the numpy reference to the bit, in every stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_layers import X86, X86_VECTORS, Layer, make_layer, output_between_guards
from numpy.typing import NDArray

from wqtvm.quantization import DirectStages
from wqtvm.runtime.threads import get_num_threads, set_num_threads

each_target = pytest.mark.parametrize("target", X86)
Shape = tuple[int, int, int, int]


def direct_layer(target: str, shape: Shape, out_channels: int, **options: object) -> Layer:
    return make_layer(target, shape, out_channels, tile=1, **options)  # type: ignore[arg-type]


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert actual.shape == expected.shape
    different = np.flatnonzero(actual.view(np.int32) != expected.view(np.int32))
    assert not different.size, (
        f"{different.size} of {actual.size} values differ, the first at {different[0]}: "
        f"{actual.ravel()[different[0]]!r} instead of {expected.ravel()[different[0]]!r}"
    )


@each_target
@pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((1, 5, 9, 1), 3, {}),
        ((3, 7, 10, 3), 17, {"padding": 0, "weight_steps": "filter"}),
        ((1, 10, 7, 17), 33, {"taps": 5, "padding": 2, "weight_steps": "filter"}),
        ((3, 6, 6, 33), 100, {"padding": 0}),
        ((1, 11, 13, 100), 1, {"stride": 2, "weight_steps": "filter"}),
        ((2, 6, 10, 64), 48, {"taps": 1, "padding": 0}),
        ((2, 7, 10, 64), 48, {"taps": 1, "stride": 2, "padding": 0}),
        ((1, 8, 5, 100), 33, {"taps": 1, "stride": 3, "weight_steps": "filter"}),
        ((1, 13, 9, 40), 36, {"group_size": 0}),
        ((1, 8, 8, 300), 65, {"group_size": 0, "weight_steps": "filter"}),
        ((1, 13, 9, 40), 64, {"group_size": 12, "taps": 5, "stride": 2, "padding": 1}),
    ],
)
def test_odd_shapes(
    target: str, shape: Shape, out_channels: int, options: dict[str, object]
) -> None:
    layer = direct_layer(target, shape, out_channels, **options)
    assert_same_bits(layer.run()["output"], layer.reference().output)


@each_target
def test_quantized_pixels(target: str) -> None:
    layer = direct_layer(target, (2, 9, 7, 40), 20)
    stages, expected = layer.run(["V", "V_step"]), layer.reference()
    assert isinstance(expected, DirectStages)
    rows = expected.v.shape[1]  # further ones fill the last task
    v = stages["V"].transpose(0, 2, 3, 1, 4)[:, :rows].astype(np.int32)
    np.testing.assert_array_equal(v - layer.work.dot.zero_point, expected.v)
    step = stages["V_step"].transpose(0, 2, 3, 1)[:, :rows]
    assert_same_bits(np.ascontiguousarray(step), expected.v_step)


@pytest.mark.parametrize("target", X86_VECTORS)  # tile registers have no three vectors
def test_any_blocking_and_threads_give_the_same_bits(target: str) -> None:
    layer = direct_layer(target, (2, 12, 10, 40), 36)
    expected = layer.reference().output
    before = get_num_threads()
    try:
        for threads, block, pixels, vectors in (
            (1, (1, 10), 1, 3), (2, (5, 4), 2, 1), (2, (12, 3), 3, 2),
        ):  # fmt: skip
            set_num_threads(threads)
            work = replace(layer.work, block=block, pixels=pixels, vectors=vectors)  # type: ignore[call-arg]
            other = replace(layer, work=work)
            assert_same_bits(other.run()["output"], expected)
    finally:
        set_num_threads(before)


@each_target
def test_nan_and_infinity_never_become_numbers(target: str) -> None:
    layer = direct_layer(target, (1, 12, 16, 64), 33, weight_steps="filter")
    layer.x[0, 1, 1, 5] = np.nan
    layer.x[0, 9, 14, 40] = np.inf
    output, reference = layer.run()["output"], layer.reference().output
    np.testing.assert_array_equal(np.isnan(output), np.isnan(reference))
    assert np.isnan(output[0, :3, :3]).all()
    assert np.isnan(output[0, 8:11, 13:16]).all()
    finite = np.isfinite(reference)
    assert finite.any()
    assert_same_bits(output[finite], reference[finite])


@each_target
def test_nothing_is_written_outside_the_output(target: str) -> None:
    layer = direct_layer(target, (1, 7, 5, 17), 19)
    assert_same_bits(output_between_guards(layer), layer.reference().output)
