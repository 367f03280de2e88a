"""Levels of an image: their algebra, and how far the convolution is from the exact one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kernel_layers import direct_convolution

from wqtvm.errors import ConfigError
from wqtvm.fastconv import direct, standard_scales, winograd
from wqtvm.quantization import Scheme, direct_reference, quantize_weights, sqnr_db
from wqtvm.quantization.image_reference import (
    LEVELS,
    MOST_PRODUCTS,
    ZERO_BELOW,
    ImageStages,
    quantize_images,
)

IMAGE = Scheme(
    direct(), standard_scales(direct()), group_size=0, weight_steps="filter",
    activation_steps="image",
)  # fmt: skip
values = arrays.arrays(
    np.float32, (2, 2, 3, 2), elements=st.floats(-(2.0**100), 2.0**100, width=32)
)


@given(values)
def test_levels_are_within_half_a_step_and_zero_is_exact(x: np.ndarray) -> None:
    x[:, 0, 0, 0] = 0
    levels, step, zero = quantize_images(x)
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels[:, 0, 0, 0], zero)
    decoded = (levels.astype(np.float64) - zero[:, None, None, None]) * step[
        :, None, None, None
    ].astype(np.float64)
    extent = x.max(axis=(1, 2, 3)).clip(0) - x.min(axis=(1, 2, 3)).clip(None, 0)
    # Both ends may be rounded away from zero: the one above then loses a level more.
    bound = np.where(extent < ZERO_BELOW, ZERO_BELOW, 1.0001 * step)
    assert (np.abs(decoded - x) <= bound[:, None, None, None]).all()
    inner = np.abs(decoded - x) <= 0.5001 * bound[:, None, None, None]
    assert (inner | (levels == LEVELS)).all()


@given(values, st.integers(-20, 20))
def test_powers_of_two_change_steps_alone(x: np.ndarray, power: int) -> None:
    x = np.where(np.abs(x) < 2.0**-60, np.float32(0), x)
    levels, step, zero = quantize_images(x)
    scaled = quantize_images(np.ldexp(x, power).astype(np.float32))
    np.testing.assert_array_equal(scaled[0], levels)
    np.testing.assert_array_equal(scaled[1], np.ldexp(step, power))
    np.testing.assert_array_equal(scaled[2], zero)


def test_the_convolution_is_that_of_decoded_values() -> None:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((2, 9, 11, 20), dtype=np.float32), 0)
    weight = rng.standard_normal((7, 20, 3, 3), dtype=np.float32)
    weights = quantize_weights(weight, IMAGE)
    stages = direct_reference(x, weights, IMAGE, 1)
    assert isinstance(stages, ImageStages)
    decoded = (stages.v.astype(np.float64) - stages.v_zero[:, None, None, None]) * stages.v_step[
        :, None, None, None
    ]
    u = weights.u[..., 0, :20] * weights.step[..., :1].astype(np.float64)
    exact = direct_convolution(decoded[:, 1:-1, 1:-1], u.transpose(2, 3, 0, 1), 1)
    np.testing.assert_allclose(stages.output, exact, rtol=1e-5, atol=1e-4)
    # Of a rectified image all levels are used: as int8 libraries measure.
    assert sqnr_db(direct_convolution(x, weight, 1), stages.output) > 38
    assert not stages.v_zero.any()


@pytest.mark.parametrize(
    "change",
    [
        {"group_size": 32},
        {"weight_steps": "tap"},
        {"algorithm": winograd(4), "scales": standard_scales(winograd(4))},
        {"activation_steps": "row"},
    ],
)
def test_what_does_not_go_with_images_is_refused(change: dict[str, object]) -> None:
    fields = {
        "algorithm": direct(), "scales": standard_scales(direct()), "group_size": 0,
        "weight_steps": "filter", "activation_steps": "image",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="activation_steps is "):
        Scheme(**{**fields, **change})  # type: ignore[arg-type]


def test_the_largest_sum_fits_int32() -> None:
    assert MOST_PRODUCTS * LEVELS * 127 < 2**31 <= (MOST_PRODUCTS + 1) * LEVELS * 127
