"""Weights rounded so that their errors cancel on smooth inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wqtvm.fastconv import direct, sfc, standard_scales, winograd
from wqtvm.quantization import Scheme, quantize_weights
from wqtvm.quantization.arithmetic import quantize, split_groups
from wqtvm.quantization.rounding import output_energy, round_weights
from wqtvm.quantization.weights import transform_weights

ALGORITHMS = (direct(), winograd(2), winograd(4), winograd(6), sfc(4), sfc(6))
IDS = [algorithm.name for algorithm in ALGORITHMS]


def noise(errors: np.ndarray, scheme: Scheme) -> float:
    """Energy at the outputs of errors of U, for inputs as the rounding takes them to be."""
    energy = output_energy(scheme.row_axis)
    flat = errors.reshape(*errors.shape[:2], -1)
    return float(np.einsum("ivx,ij,vw,jwx->", flat, energy, energy, flat, optimize=True))


def _errors(weight: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors by nearest integers, by rounding in turn, and the latter's integers."""
    axes = (scheme.row_axis, scheme.column_axis)
    transformed = transform_weights(weight, *(axis.weight_matrix for axis in axes))
    exact = split_groups(transformed, scheme.group_size)
    nearest = quantize(exact.astype(np.float32), (4,))
    q = round_weights(exact, nearest.step, *map(output_energy, axes))
    return exact - nearest.q * nearest.step, exact - q * nearest.step, q


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=IDS)
def test_smooth_inputs_see_less_noise(algorithm) -> None:
    weight = np.random.default_rng(0).standard_normal((33, 17, 3, 3))
    scheme = Scheme(algorithm, standard_scales(algorithm), "hadamard", 32)
    nearest, ours, _ = _errors(weight, scheme)
    assert noise(ours, scheme) < 0.9 * noise(nearest, scheme)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.sampled_from((1, 3, 17, 33)), st.integers(0, 2**32 - 1))
def test_integers_stay_in_range_and_padding_stays_zero(
    outputs: int, channels: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_t(2, (outputs, channels, 3, 3))
    algorithm = winograd(4)
    scheme = Scheme(algorithm, standard_scales(algorithm), "hadamard", 16)
    _, _, q = _errors(weight, scheme)
    assert q.min() >= -127
    assert q.reshape(6, 6, outputs, -1)[..., channels:].any() == 0


def test_a_constant_image_loses_least() -> None:
    weight = np.random.default_rng(1).standard_normal((8, 32, 3, 3)).astype(np.float32)
    scheme = Scheme(direct(), standard_scales(direct()), "hadamard", 32)
    nearest, _, _ = _errors(weight, scheme)
    quantized = quantize_weights(weight, scheme)
    restored = (quantized.u * quantized.step[..., None]).reshape(3, 3, 8, 32)
    ours = restored - weight.transpose(2, 3, 0, 1)
    sums = (np.square(errors.sum((0, 1))).mean() for errors in (ours, nearest[:, :, :, 0]))
    assert next(sums) < 0.2 * next(sums)


def test_integers_need_no_rounding() -> None:
    """Where there is no error there is nothing to make up for."""
    algorithm = direct()
    scheme = Scheme(algorithm, standard_scales(algorithm), "hadamard", 16)
    integers = np.random.default_rng(2).integers(-127, 128, (4, 16, 3, 3)).astype(np.float64)
    integers[:, 0] = 127
    _, errors, _ = _errors(integers, scheme)
    np.testing.assert_allclose(errors, 0, atol=1e-5)
