"""Points of least noise gain."""

from __future__ import annotations

import pytest

from wqtvm.errors import AlgorithmError
from wqtvm.fastconv import (
    NAMED_POINTS,
    correlated_scales,
    integer_matrix,
    noise_gain_db,
    row_norm_scales,
    search_points,
    toom_cook,
    winograd,
)


@pytest.mark.parametrize("m", NAMED_POINTS["best"])
def test_the_best_points_are_found(m: int) -> None:
    # The same set: named points may be in another order.
    best = search_points(m, count=1)[0]
    assert set(best.points) == set(NAMED_POINTS["best"][m])
    assert best.noise_gain_db == best.white_noise_gain_db
    assert best.noise_gain_db == pytest.approx(noise_gain_db(winograd(m)), abs=1e-9)


@pytest.mark.parametrize("rho", [0.85, 0.95])
@pytest.mark.parametrize(
    ("m", "magnitudes"),
    [
        (2, ("1",)),
        (3, ("1/2", "5/4")),  # the one tile where smooth inputs prefer others
        (4, ("2/3", "3/2")),
        (5, ("1/4", "1", "2")),
        (6, ("1/2", "1", "2")),
    ],
)
def test_points_for_smooth_inputs(m: int, rho: float, magnitudes: tuple[str, ...]) -> None:
    best = search_points(m, correlation=rho)[0]
    assert tuple(p for p in best.points if p != "0" and not p.startswith("-")) == magnitudes
    algorithm = winograd(m, best.points)
    assert best.noise_gain_db == noise_gain_db(algorithm, rho)
    assert best.white_noise_gain_db == noise_gain_db(algorithm)


@pytest.mark.parametrize(
    ("m", "correlation", "magnitudes"),
    [(3, None, "5/6"), (4, None, "1"), (4, 0.9, "1"), (6, None, "3/4 4/3"), (6, 0.85, "3/4 4/3")],
)
def test_complex_points(m: int, correlation: float | None, magnitudes: str) -> None:
    best, *_ = search_points(
        m, correlation=correlation, complex_points=("i",), largest_integer=2**24, largest_term=6
    )
    assert set(best.points) == set(NAMED_POINTS["complex"][m])
    positive = [p for p in best.points if p not in ("0", "i") and not p.startswith("-")]
    assert positive == magnitudes.split()
    algorithm = winograd(m, "complex")
    assert best.noise_gain_db == pytest.approx(noise_gain_db(algorithm, correlation or 0), abs=1e-9)
    assert best.largest_integer == integer_matrix(algorithm.b_t).largest


def test_complex_points_whose_integers_are_too_large_are_left_out() -> None:
    # Without the limit the best has the largest integer 674, 360 of it in a row of a real point.
    found = search_points(6, complex_points=("i",), largest_term=3)
    assert all(candidate.largest_integer <= 127 for candidate in found)
    assert search_points(2, complex_points=("w",))[0].points == ("0", "w")


def test_candidates_are_ranked_and_fit() -> None:
    found = search_points(4, correlation=0.9, largest_integer=60, count=8)
    assert len(found) == 8
    # Points p and 1/p have the same gain, but for the rounding of their sums.
    gains = [round(candidate.noise_gain_db, 9) for candidate in found]
    assert gains == sorted(gains)
    for candidate in found:
        integers = integer_matrix(toom_cook(4, 3, candidate.points).b_t)
        assert integers.largest == candidate.largest_integer <= 60
    assert found == search_points(4, correlation=0.9, largest_integer=60, count=8)


def test_other_kernels() -> None:
    # F(2,5) and F(4,3) interpolate at as many points; F(1,2) at one, which can only be 0.
    assert set(search_points(2, 5, count=1)[0].points) == set(NAMED_POINTS["best"][4])
    assert search_points(1, 2)[0].points == ("0",)


def test_progress_counts_every_set() -> None:
    seen: list[tuple[int, int]] = []
    search_points(4, largest_term=3, progress=lambda done, total: seen.append((done, total)))
    # 1/3, 1/2, 2/3, 1, 3/2, 2, 3: pairs of seven.
    assert seen == [(done, 21) for done in range(1, 22)]


def test_noise_gain_of_correlated_inputs_does_not_depend_on_scales() -> None:
    algorithm = winograd(4)
    assert noise_gain_db(algorithm, 0) == noise_gain_db(algorithm)
    # A tap's standard deviation: q_k is the inverse of the scales that level it.
    scales = correlated_scales(algorithm, 0.9)
    levels = [1 / (b * g) for b, g in zip(scales.s_b, scales.s_g, strict=True)]
    total = sum(
        (float(entry) * q) ** 2
        for row in algorithm.a_t
        for entry, q in zip(row, levels, strict=True)
    )
    assert 10 ** (noise_gain_db(algorithm, 0.9) / 20) == pytest.approx(total / 12, rel=1e-9)
    assert row_norm_scales(algorithm).s_g == scales.s_g


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(
        AlgorithmError, match=r"complex_points are \('j',\); give at most 2 of i, w"
    ):
        search_points(4, complex_points=("j",))
    with pytest.raises(AlgorithmError, match="give at most 1 of i, w, -w"):
        search_points(2, complex_points=("i", "w"))
    with pytest.raises(AlgorithmError, match="m is 0; give an integer of at least 1"):
        search_points(0)
    with pytest.raises(AlgorithmError, match="largest_term is 0; give an integer of at least 1"):
        search_points(4, largest_term=0)
    with pytest.raises(AlgorithmError, match=r"rho is 1\.0; it must be at least 0 and below 1"):
        search_points(2, correlation=1.0)
    with pytest.raises(AlgorithmError, match=r"F\(6,3\): none of 1771 sets of points .* up to 3; "):
        search_points(6, largest_integer=3)
