"""Scales and noise gain."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wqtvm.errors import AlgorithmError
from wqtvm.fastconv import (
    NAMED_POINTS,
    ScaleSet,
    correlated_scales,
    direct,
    named_scales,
    noise_gain_db,
    rescaled,
    row_norm_scales,
    standard_scales,
    toom_cook,
    winograd,
)


@pytest.mark.parametrize(
    ("tile", "points", "decibel"),
    [
        (2, "best", 4.44),
        (3, "lavin", 15.56),
        (3, "best", 9.05),
        (4, "lavin", 20.65),
        (4, ("0", "-1", "1", "1/2", "-2"), 16.83),
        (4, "best", 13.56),
        (5, "lavin", 24.40),
        (5, "best", 21.43),
        (6, "lavin", 26.29),
        (6, "best", 26.29),
        (3, "complex", 2.30),
        (4, "complex", 3.43),
        (5, "complex", 5.49),
        (6, "complex", 8.45),
    ],
)
def test_noise_gain(tile: int, points: str | tuple[str, ...], decibel: float) -> None:
    assert noise_gain_db(winograd(tile, points)) == pytest.approx(decibel, abs=0.006)


def test_direct_convolution_has_no_noise_gain() -> None:
    assert noise_gain_db(direct(3)) == 0


def test_noise_gain_does_not_depend_on_scales() -> None:
    algorithm = winograd(4)
    s_b, s_g = (1, 2, 3, 4, 5, 6), (7, 1, 5, 1, 2, 3)
    s_a = [f"1/{b * g}" for b, g in zip(s_b, s_g, strict=True)]
    scaled = rescaled(algorithm, s_a, s_b, s_g)
    assert noise_gain_db(scaled) == pytest.approx(noise_gain_db(algorithm), abs=1e-9)


@pytest.mark.parametrize("tile", NAMED_POINTS["best"])
def test_best_points_are_no_worse_than_lavins(tile: int) -> None:
    assert noise_gain_db(winograd(tile, "best")) <= noise_gain_db(winograd(tile, "lavin"))


@pytest.mark.parametrize("rho", [0, 0.85, 0.9, 0.95])
@pytest.mark.parametrize(
    ("tile", "points", "other"),
    [(3, "complex", (2, "best")), (6, "complex", (4, "best")), (4, "complex", (3, "best"))],
)
def test_complex_points_have_less_noise_for_as_many_multiplications(
    tile: int, points: str, other: tuple[int, str], rho: float
) -> None:
    ours, theirs = winograd(tile, points), winograd(*other)
    assert ours.saving >= 0.9 * theirs.saving
    assert noise_gain_db(ours, rho) < noise_gain_db(theirs, rho)


@pytest.mark.parametrize("tile", [2, 4, 6])
def test_row_norm_scales_make_unit_rows(tile: int) -> None:
    algorithm = winograd(tile)
    scales = row_norm_scales(algorithm)
    for matrix, diagonal in ((algorithm.b_t, scales.s_b), (algorithm.g, scales.s_g)):
        scaled = np.asarray(diagonal)[:, None] * np.asarray(matrix, dtype=np.float64)
        # A norm of n float64 terms: relative error of a few times 2^-53.
        np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-14, atol=0)


@pytest.mark.parametrize("tile", [2, 4, 6])
def test_correlated_scales_give_taps_unit_variance(tile: int) -> None:
    algorithm = winograd(tile)
    scales = correlated_scales(algorithm)
    distance = np.abs(np.subtract.outer(np.arange(algorithm.t), np.arange(algorithm.t)))
    scaled = np.asarray(scales.s_b)[:, None] * np.asarray(algorithm.b_t, dtype=np.float64)
    variance = np.einsum("kj,jl,kl->k", scaled, 0.85**distance, scaled)
    # Rows that annihilate constants cancel: up to some hundred times the rounding of a term.
    np.testing.assert_allclose(variance, 1, rtol=1e-12, atol=0)
    assert scales.s_g == row_norm_scales(algorithm).s_g


def test_uncorrelated_inputs_need_row_norm_scales() -> None:
    algorithm = winograd(4)
    np.testing.assert_allclose(
        correlated_scales(algorithm, rho=0).s_b, row_norm_scales(algorithm).s_b, rtol=1e-14
    )
    with pytest.raises(AlgorithmError, match=r"rho is 1\.0; it must be at least 0 and below 1"):
        correlated_scales(algorithm, rho=1.0)


def test_output_scales_are_the_inverse() -> None:
    scales = ScaleSet("mine", (2.0, 4.0), (0.5, 0.25))
    assert scales.s_a == (1.0, 1.0)
    assert ScaleSet("mine", (2.0,), (4.0,)).s_a == (0.125,)


@pytest.mark.parametrize("name", ["standard", "row-norm", "correlated"])
def test_scales_by_name(name: str) -> None:
    scales = named_scales(name, winograd(6))
    assert scales.name == name
    assert len(scales.s_a) == 8


def test_wrong_scales_are_refused() -> None:
    with pytest.raises(AlgorithmError, match="scales are 'learned'; give one of standard, "):
        named_scales("learned", winograd(2))
    with pytest.raises(AlgorithmError, match="S_B has 2 entries, S_G has 1"):
        ScaleSet("mine", (1.0, 1.0), (1.0,))
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(AlgorithmError, match=r"S_G\[1\] is .*; it must be positive and finite"):
            ScaleSet("mine", (1.0, 1.0), (1.0, bad))


def test_standard_scales_are_ones() -> None:
    assert standard_scales(toom_cook(2, 3, (0, 1, -1))).s_a == (1.0,) * 4
