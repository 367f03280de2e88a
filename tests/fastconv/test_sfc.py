"""Symbolic Fourier convolution."""

from __future__ import annotations

from fractions import Fraction

import pytest

from wqtvm.errors import AlgorithmError
from wqtvm.fastconv import SFC_TILES, integer_matrix, noise_gain_db, sfc


@pytest.mark.parametrize(("tile", "products", "decibel"), [(4, 7, 5.26), (6, 10, 3.19)])
def test_products_and_noise_gain(tile: int, products: int, decibel: float) -> None:
    # That it computes a correlation, exactly, is checked when it is made.
    algorithm = sfc(tile)
    assert algorithm.name == f"SFC-{tile}({tile},3)"
    assert (algorithm.m, algorithm.r, algorithm.t) == (tile, 3, tile + 2)
    assert algorithm.n == products
    assert algorithm.multiplications_per_output == Fraction(products, tile) ** 2
    assert algorithm.points == ()
    assert noise_gain_db(algorithm) == pytest.approx(decibel, abs=0.006)


@pytest.mark.parametrize("tile", SFC_TILES)
def test_transforms_only_add_and_subtract(tile: int) -> None:
    algorithm = sfc(tile)
    for matrix in (algorithm.b_t, algorithm.g):
        assert {entry for row in matrix for entry in row} == {-1, 0, 1}
    assert integer_matrix(algorithm.b_t).largest == 1
    # A^T divides by the length of the DFT.
    assert all((tile * entry).denominator == 1 for row in algorithm.a_t for entry in row)


@pytest.mark.parametrize("tile", [2, 3, 5, 8])
def test_other_tiles_are_refused(tile: int) -> None:
    with pytest.raises(AlgorithmError, match=f"tile is {tile}; SFC exists for 4 and 6"):
        sfc(tile)
