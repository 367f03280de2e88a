"""The value that says how a convolution is quantized."""

from __future__ import annotations

import numpy as np
import pytest

from wqtvm.errors import ConfigError
from wqtvm.fastconv import correlated_scales, row_norm_scales, sfc, standard_scales, winograd
from wqtvm.quantization import Scheme

F43 = winograd(4)


def test_input_transform_is_row_scale_times_integers() -> None:
    scheme = Scheme(F43, correlated_scales(F43), "full")
    axis = scheme.row_axis
    product = axis.input_row_scale[:, None] * np.asarray(axis.input_matrix.rows)
    expected = np.asarray(scheme.scales.s_b)[:, None] * np.asarray(F43.b_t, dtype=np.float64)
    # Two float64 roundings more on one side than on the other.
    np.testing.assert_allclose(product, expected, rtol=1e-15)


def test_scaled_transforms_still_convolve() -> None:
    axis = Scheme(F43, row_norm_scales(F43), "full").row_axis
    b_t = axis.input_row_scale[:, None] * np.asarray(axis.input_matrix.rows)
    product = np.einsum("ak,kj,ki->aji", axis.output_matrix, axis.weight_matrix, b_t)
    expected = np.array([[[i == a + j for i in range(6)] for j in range(3)] for a in range(4)])
    # Sums of six terms of up to about 20: rounding of a few times 20 * 2^-53.
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-13)


def test_output_integers_are_the_output_matrix_in_16_bits() -> None:
    axis = Scheme(F43, row_norm_scales(F43), "full").row_axis
    integers, step = axis.output_integers
    assert integers.dtype == np.int16
    assert np.abs(integers).max() == 32767
    error = np.abs(integers * np.float64(step) - axis.output_matrix)
    assert error.max() <= 0.51 * step  # half a step, and the float32 rounding of the step


def test_precision_hadamard_uses_standard_scales() -> None:
    scheme = Scheme(F43, row_norm_scales(F43), "hadamard")
    assert scheme.row_axis.scales == standard_scales(F43)
    assert scheme.scales.name == "row-norm"


def test_a_square_has_one_axis_twice_and_a_rectangle_two() -> None:
    square = Scheme(F43, row_norm_scales(F43), "full")
    assert square.column_axis is square.row_axis
    assert (square.name, square.kernel) == ("F(4,3)", 3)
    assert (square.output_tile, square.input_tile, square.products) == ((4, 4), (6, 6), (6, 6))
    six = sfc(6)
    tall = Scheme(six, row_norm_scales(six), "full", 32, "axis", "tap", F43, row_norm_scales(F43))
    assert tall.name == "SFC-6(6,3) x F(4,3)"
    assert (tall.output_tile, tall.input_tile, tall.products) == ((6, 4), (8, 6), (10, 6))
    assert tall.column_axis == square.row_axis


@pytest.mark.parametrize(
    ("group_size", "channels", "size", "groups"),
    [(32, 1, 32, 1), (32, 33, 32, 2), (0, 33, 64, 1), (0, 128, 128, 1), (64, 128, 64, 2)],
)
def test_groups(group_size: int, channels: int, size: int, groups: int) -> None:
    scheme = Scheme(F43, standard_scales(F43), "hadamard", group_size)
    assert scheme.channels_per_group(channels) == size
    assert scheme.groups(channels) == groups


def test_wrong_values_are_refused() -> None:
    standard = standard_scales(F43)
    with pytest.raises(ConfigError, match="precision is 'half'; give one of hadamard, full"):
        Scheme(F43, standard, "half")
    with pytest.raises(ConfigError, match="steps is 'row'; give one of channel, axis, tile"):
        Scheme(F43, standard, "full", 32, "row")
    with pytest.raises(ConfigError, match="group_size is -4"):
        Scheme(F43, standard, "full", -4)
    with pytest.raises(ConfigError, match=r"'standard' are for 4 products; F\(4,3\) has 6"):
        Scheme(F43, standard_scales(winograd(2)))
    two = winograd(2)
    with pytest.raises(ConfigError, match=r"'standard' are for 6 products; F\(2,3\) has 4"):
        Scheme(F43, standard, column_algorithm=two, column_scales=standard)
    with pytest.raises(ConfigError, match="go together; give both or none"):
        Scheme(F43, standard, column_algorithm=two)
    five = winograd(2, r=5)
    with pytest.raises(ConfigError, match=r"rows are by F\(4,3\), columns by F\(2,5\); give two"):
        Scheme(F43, standard, column_algorithm=five, column_scales=standard_scales(five))


def test_matrices_that_are_not_exact_are_refused() -> None:
    algorithm = winograd(4, ("0", "3/4", "-3/4", "4/3", "-4/3"))
    assert Scheme(algorithm, standard_scales(algorithm)).precision == "hadamard"
    with pytest.raises(ConfigError, match=r"B\^T has the integer 337; .* exact up to 127"):
        Scheme(algorithm, standard_scales(algorithm), "full")
    with pytest.raises(ConfigError, match=r"B\^T has the integer 337"):
        Scheme(
            F43, standard_scales(F43), "full",
            column_algorithm=algorithm, column_scales=standard_scales(algorithm),
        )  # fmt: skip
