"""Algorithms from points."""

from __future__ import annotations

from fractions import Fraction

import pytest

from wqtvm.errors import AlgorithmError
from wqtvm.fastconv import (
    NAMED_POINTS,
    as_matrix,
    direct,
    integer_matrix,
    noise_gain_db,
    search_points,
    sfc,
    toom_cook,
    winograd,
)


def test_f23_is_winograds_in_the_standard_normalisation() -> None:
    algorithm = winograd(2)
    assert algorithm.name == "F(2,3)"
    assert algorithm.points == ("0", "1", "-1", "inf")
    assert algorithm.a_t == as_matrix([[1, 1, 1, 0], [0, 1, -1, 1]])
    assert algorithm.g == as_matrix([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]])
    half = "1/2"
    assert algorithm.b_t == as_matrix(
        [[1, 0, -1, 0], [0, half, half, 0], [0, "-1/2", half, 0], [0, -1, 0, 1]]
    )


@pytest.mark.parametrize("name", ["best", "lavin"])
@pytest.mark.parametrize("tile", [2, 3, 4, 5, 6])
def test_named_points(name: str, tile: int) -> None:
    algorithm = winograd(tile, name)
    assert (algorithm.m, algorithm.r, algorithm.n) == (tile, 3, tile + 2)
    assert algorithm.points == (*NAMED_POINTS[name][tile], "inf")
    # The integer rows are exact in int8, as precision "full" needs.
    assert integer_matrix(algorithm.b_t).largest <= 127


@pytest.mark.parametrize("name", ["best", "lavin"])
@pytest.mark.parametrize("tile", [2, 3, 4])
def test_named_points_of_five_taps(name: str, tile: int) -> None:
    algorithm = winograd(tile, name, r=5)
    assert (algorithm.name, algorithm.n, algorithm.t) == (f"F({tile},5)", tile + 4, tile + 4)
    # As many products as F(m + 2, 3), from the same points: the same input transform.
    assert algorithm.b_t == winograd(tile + 2, name).b_t
    assert integer_matrix(algorithm.b_t).largest <= 127


@pytest.mark.parametrize(("tile", "gain"), [(2, 14.53), (3, 21.43), (4, 25.61)])
def test_the_best_points_of_five_taps_are_those_of_the_search(tile: int, gain: float) -> None:
    (found,) = search_points(tile, 5, count=1)
    algorithm = winograd(tile, r=5)
    assert set(found.points) == set(algorithm.points[:-1])
    assert found.noise_gain_db == noise_gain_db(algorithm) == pytest.approx(gain, abs=0.005)


@pytest.mark.parametrize("tile", [2, 3, 4, 5, 6])
def test_rows_of_paired_points_share_their_halves(tile: int) -> None:
    algorithm = winograd(tile, "best")
    rows = integer_matrix(algorithm.b_t).rows
    for k in range(algorithm.n - 2):
        if Fraction(algorithm.points[k]) == -Fraction(algorithm.points[k + 1]) != 0:
            even, odd = (slice(parity, None, 2) for parity in (0, 1))
            for half in (even, odd):
                negated = tuple(-entry for entry in rows[k + 1][half])
                assert rows[k][half] in (rows[k + 1][half], negated)


def test_points_may_be_numbers_and_name_infinity() -> None:
    by_text = winograd(4, ("0", "2/3", "-2/3", "3/2", "-3/2", "inf"))
    by_number = winograd(4, (0, Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2)))
    assert by_text == by_number == winograd(4, "best")


def test_direct_is_the_identity() -> None:
    algorithm = direct()
    identity = as_matrix([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert (algorithm.m, algorithm.n, algorithm.t) == (1, 3, 3)
    assert algorithm.a_t == as_matrix([[1, 1, 1]])
    assert algorithm.b_t == algorithm.g == identity
    assert algorithm.points == ()
    assert direct(5).n == 5


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((0, 1, 1), "point 1 is there twice"),
        ((0, "1/2", "2/4"), "point 1/2 is there twice"),
        ((0, 1), r"2 finite points are given \(a pair counts twice\); 3 are needed"),
        ((0, 1, 2, 3), r"4 finite points are given .*; 3 are needed"),
        ((0, 1, "i"), r"4 finite points are given .*; 3 are needed"),
        (("i", "i"), "point i is there twice"),
        (
            (0, "inf", 1),
            "point 'inf' is not a rational number nor one of i, w, -w; infinity may only come last",
        ),
        ((0, "one", 1), "point 'one' is not a rational number"),
        ((0, "1/0", 1), "point '1/0' is not a rational number"),
    ],
)
def test_wrong_points_are_refused(points: tuple[int | str, ...], message: str) -> None:
    with pytest.raises(AlgorithmError, match=r"F\(2,3\): .*" + message):
        toom_cook(2, 3, points)


def test_a_pair_takes_three_products() -> None:
    algorithm = winograd(6, "complex")
    assert algorithm.points == ("0", "3/4", "-3/4", "4/3", "-4/3", "i", "inf")
    assert (algorithm.n, algorithm.saving) == (9, 4)
    # The rows of G evaluate the residue (g_0 - g_2) + g_1 x modulo x^2 + 1 at 0, 2 and -2.
    assert algorithm.g[5:8] == as_matrix([[1, 0, -1], [1, 2, -1], [1, -2, -1]])
    assert winograd(4, "complex").b_t == sfc(4).b_t


def test_unknown_names_and_tiles_are_refused() -> None:
    with pytest.raises(
        AlgorithmError, match="points are 'chebyshev'; give one of lavin, best, complex"
    ):
        winograd(4, "chebyshev")
    with pytest.raises(AlgorithmError, match=r"tile is 7; 'best' .* F\(m,3\) exist for m of 2, 3"):
        winograd(7)
    with pytest.raises(AlgorithmError, match=r"tile is 6; .* F\(m,5\) exist for m of 2, 3, 4"):
        winograd(6, r=5)
    with pytest.raises(AlgorithmError, match=r"F\(m,9\) exist for m of no tile"):
        winograd(2, r=9)
    with pytest.raises(
        AlgorithmError, match=r"F\(2,5\): 3 finite points are given .*; 5 are needed"
    ):
        winograd(2, (0, 1, -1), r=5)
    with pytest.raises(AlgorithmError, match="must be positive"):
        toom_cook(0, 3, (1,))
