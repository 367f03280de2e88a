"""Symbolic Fourier convolution."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from wqtvm.errors import AlgorithmError
from wqtvm.fastconv import (
    SFC_TILES,
    BilinearAlgorithm,
    integer_matrix,
    noise_gain_db,
    sfc,
    toom_cook,
)


@pytest.mark.parametrize(("tile", "products", "decibel"), [(4, 7, 3.43), (6, 10, 3.19)])
def test_products_and_noise_gain(tile: int, products: int, decibel: float) -> None:
    # That it computes a correlation, exactly, is checked when it is made.
    algorithm = sfc(tile)
    assert algorithm.name == f"SFC-{tile}({tile},3)"
    assert (algorithm.m, algorithm.r, algorithm.t) == (tile, 3, tile + 2)
    assert algorithm.n == products
    assert algorithm.multiplications_per_output == Fraction(products, tile) ** 2
    assert algorithm.points == ()
    assert noise_gain_db(algorithm) == pytest.approx(decibel, abs=0.006)


@pytest.mark.parametrize(("tile", "largest"), [(4, 2), (6, 1)])
def test_transforms_of_data_have_small_integers(tile: int, largest: int) -> None:
    algorithm = sfc(tile)
    assert integer_matrix(algorithm.b_t).largest == largest
    assert {abs(entry) for row in algorithm.a_t for entry in row} == set(range(largest + 1))
    assert {abs(entry) for row in algorithm.g for entry in row} == {0, 1, 2}


def test_it_is_toom_cook_at_the_roots_of_unity() -> None:
    assert sfc(4).g == toom_cook(4, 3, ("0", 1, -1, "i")).g
    assert sfc(6).g == toom_cook(6, 3, ("0", 1, -1, "w", "-w")).g


@pytest.mark.parametrize(("tile", "first"), [(4, 3), (6, 3), (6, 6)])
def test_no_form_of_three_products_has_less_noise(tile: int, first: int) -> None:
    """A residue's three products in all forms with factors of integers up to 2.

    Products k of a pair of points multiply linear forms of the residues on either side. Any three
    products of such forms, a b c d of (a x + b y) (c u + d w), that span what the residue's product
    needs are an algorithm: tried is each, with the same noise gain as measure.
    """
    algorithm = sfc(tile)
    a_t, b_t, g = (np.asarray(matrix, dtype=np.float64) for matrix in _matrices(algorithm))
    own = slice(first, first + 3)
    # What the three products compute together, as a tensor; residues of either side as bases.
    tensor = np.einsum("ka,kj,ki->aji", a_t.T[own], g[own], b_t[own])
    outputs, kernels = a_t.T[first : first + 2], g[first : first + 2]
    core = np.einsum("xa,yj,aji->xyi", np.linalg.pinv(outputs).T, np.linalg.pinv(kernels).T, tensor)
    found = []
    for ours, theirs in _forms():
        spanned = np.einsum("kx,ky->kxy", ours, theirs).reshape(3, 4)
        sums = np.linalg.lstsq(spanned.T, core.reshape(4, -1), rcond=None)[0]
        if np.abs(spanned.T @ sums - core.reshape(4, -1)).max() < 1e-9:
            found.append(_energy(ours @ outputs, theirs @ kernels, sums))
    assert len(found) > 10
    assert _energy(a_t.T[own], g[own], b_t[own]) == pytest.approx(min(found), rel=1e-9)


def _matrices(algorithm: BilinearAlgorithm) -> tuple[object, object, object]:
    return algorithm.a_t, algorithm.b_t, algorithm.g


def _forms() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    forms = [(1, 0), (0, 1), *((a, s * b) for a, b in ((1, 1), (1, 2), (2, 1)) for s in (1, -1))]
    return [
        (np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64))
        for ours in combinations(forms, 3)
        for theirs in permutations(forms, 3)
    ]


def _energy(*factors: NDArray[np.float64]) -> float:
    return float(np.prod([np.square(factor).sum(1) for factor in factors], axis=0).sum())


@pytest.mark.parametrize("tile", [2, 3, 5, 8])
def test_other_tiles_are_refused(tile: int) -> None:
    assert tile not in SFC_TILES
    with pytest.raises(AlgorithmError, match=f"tile is {tile}; SFC exists for 4 and 6"):
        sfc(tile)
