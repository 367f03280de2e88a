"""Weights in the Winograd domain."""

from __future__ import annotations

import numpy as np
import pytest

from wqtvm.errors import NonFiniteError, NotEligibleError
from wqtvm.fastconv import direct, row_norm_scales, standard_scales, winograd
from wqtvm.quantization import Scheme, quantize_weights
from wqtvm.quantization.rounding import output_energy


def weight(outputs: int, channels: int, taps: int = 3) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.standard_normal((outputs, channels, taps, taps)).astype(np.float32)


def scheme(precision: str = "full", group_size: int = 32, tile: int = 4) -> Scheme:
    algorithm = winograd(tile)
    return Scheme(algorithm, row_norm_scales(algorithm), precision, group_size)


@pytest.mark.parametrize(
    ("channels", "group_size", "groups", "size"),
    [(1, 32, 1, 32), (33, 32, 2, 32), (100, 64, 2, 64), (100, 0, 1, 128), (3, 4, 1, 4)],
)
def test_shapes_and_padding(channels: int, group_size: int, groups: int, size: int) -> None:
    quantized = quantize_weights(weight(5, channels), scheme(group_size=group_size))
    assert quantized.u.shape == (6, 6, 5, groups, size)
    assert quantized.step.shape == (6, 6, 5, groups)
    assert (quantized.u.dtype, quantized.step.dtype) == (np.int8, np.float32)
    assert quantized.channels == channels
    flat = quantized.u.reshape(6, 6, 5, -1)
    assert np.all(flat[..., channels:] == 0)


def assert_less_noise_than_by_nearest_integers(
    errors: np.ndarray, exact: np.ndarray, step: np.ndarray, used: Scheme
) -> None:
    """Errors (e, v, k, c) cancel at smooth outputs."""
    nearest = np.rint(exact / step) * step - exact
    row, column = output_energy(used.row_axis), output_energy(used.column_axis)
    noise = [
        np.einsum("evkc,ei,vj,ijkc", d, row, column, d, optimize=True) for d in (errors, nearest)
    ]
    assert noise[0] < 0.9 * noise[1]


@pytest.mark.parametrize("tile", [2, 3, 4, 5, 6])
def test_u_is_g_g_g_transposed(tile: int) -> None:
    source, used = weight(4, 40), scheme(tile=tile)
    quantized = quantize_weights(source, used)
    matrix = used.row_axis.weight_matrix
    exact = np.einsum("ei,kcij,vj->evkc", matrix, source.astype(np.float64), matrix)
    restored = (quantized.u * quantized.step[..., None]).reshape(*exact.shape[:3], -1)[..., :40]
    step = np.repeat(quantized.step, 32, axis=-1)[..., :40]
    assert_less_noise_than_by_nearest_integers(restored - exact, exact, step, used)


def test_steps_of_precision_hadamard_hold_the_row_scales() -> None:
    source = weight(4, 8)
    used = scheme("hadamard")
    standard = Scheme(used.algorithm, standard_scales(used.algorithm), "full")
    row_scale = np.array([float(scale) for scale in used.row_axis.input_matrix.row_scale])
    plain, scaled = quantize_weights(source, standard), quantize_weights(source, used)
    expected = plain.step.astype(np.float64) * row_scale[:, None, None, None]
    expected = (expected * row_scale[None, :, None, None]).astype(np.float32)
    np.testing.assert_array_equal(scaled.step, expected)


def test_a_zero_layer_has_zero_steps() -> None:
    quantized = quantize_weights(np.zeros((2, 3, 3, 3), np.float32), scheme())
    assert not quantized.u.any()
    assert not quantized.step.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    source = weight(4, 5)
    source[1, 2, 0, 1] = source[3, 0, 0, 0] = bad
    with pytest.raises(
        NonFiniteError,
        match=rf"layer body\.3: 2 of 180 weights are not finite, the first {bad} at \(1, 2, 0, 1\)",
    ):
        quantize_weights(source, scheme(), layer="body.3")


def test_kernels_of_another_size_are_refused() -> None:
    with pytest.raises(NotEligibleError, match=r"layer head: .*\(4, 5, 5, 5\); F\(4,3\) computes"):
        quantize_weights(weight(4, 5, taps=5), scheme(), layer="head")
    five = direct(5)
    assert quantize_weights(weight(4, 5, 5), Scheme(five, standard_scales(five))).u.shape[0] == 5


@pytest.mark.parametrize("precision", ["hadamard", "full"])
@pytest.mark.parametrize(("rows", "columns", "taps"), [(4, 2, 3), (3, 6, 3), (2, 4, 5)])
def test_rows_and_columns_may_have_algorithms_of_their_own(
    precision: str, rows: int, columns: int, taps: int
) -> None:
    first, second = (winograd(tile, r=taps) for tile in (rows, columns))
    used = Scheme(
        first, row_norm_scales(first), precision,
        column_algorithm=second, column_scales=row_norm_scales(second),
    )  # fmt: skip
    source = weight(3, 9, taps)
    quantized = quantize_weights(source, used)
    assert quantized.u.shape == (first.n, second.n, 3, 1, 32)
    g, h = used.row_axis.weight_matrix, used.column_axis.weight_matrix
    exact = np.einsum("ei,kcij,vj->evkc", g, source.astype(np.float64), h)
    step = np.abs(exact).max(3, keepdims=True) / 127  # one group
    errors = quantized.u[..., 0, :9] * step - exact
    assert_less_noise_than_by_nearest_integers(errors, exact, step, used)
    if precision == "hadamard":
        step *= np.outer(used.row_axis.input_row_scale, used.column_axis.input_row_scale)[
            :, :, None, None
        ]
    np.testing.assert_allclose(quantized.step, step, rtol=1e-6)
