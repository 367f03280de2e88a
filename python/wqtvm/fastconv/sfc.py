"""SFC, symbolic Fourier convolution: transforms of 0 and +-1, by a DFT over polynomials.

Source: He et al., "SFC: Achieve Accurate Fast Convolution under Low-precision Arithmetic", ICML
2024, arXiv 2407.02913. Modulo x^N - 1, the product of

    w(x) = d_1 + d_2 x + ... + d_N x^(N-1)    and    h(x) = g_0 x + g_1 + g_2 x^-1

has the coefficients y_a = g_0 d_a + g_1 d_(a+1) + g_2 d_(a+2), but for the ends, where it wraps: it
takes d_N for d_0 in y_0, and d_1 for d_(N+1) in y_(N-1). Two products correct that. For N = 4 and
6 all factors of x^N - 1 over the rationals are x - 1, x + 1 and x^2 + p x + 1 with p = 0 or +-1, so
that residues (the DFT, with x kept as a symbol for the root of unity) only add and subtract. A
residue a + b x is multiplied by three products, of a, of b and of a + s b, with the sign s = -p
that cancels a term where there is one, and s = -1, the better one for smooth inputs, where p = 0.
"""

from __future__ import annotations

from fractions import Fraction

from ..errors import AlgorithmError
from .bilinear import BilinearAlgorithm, Matrix, as_matrix
from .matrices import inverse, product
from .toom_cook import KERNEL_TAPS

# By the length N of the DFT, p of the factors x^2 + p x + 1 of x^N - 1.
_QUADRATIC_FACTORS = {4: (0,), 6: (-1, 1)}

SFC_TILES = tuple(_QUADRATIC_FACTORS)


def sfc(tile: int) -> BilinearAlgorithm:
    """SFC-N(N, 3) for N = tile outputs: SFC-4(4,3) of 7 products, SFC-6(6,3) of 10.

    Raises
    ------
    AlgorithmError
        If the tile is neither 4 nor 6: there a DFT needs other coefficients than 0 and +-1.
    """
    if tile not in SFC_TILES:
        raise AlgorithmError(
            f"tile is {tile}; SFC exists for {' and '.join(map(str, SFC_TILES))}, where its "
            "transforms only add and subtract"
        )
    residues, factors, sums = _dft(tile)
    evaluated = product(factors, residues)
    zero, one = Fraction(0), Fraction(1)
    # h(x) has tap j at x^(1-j).
    g = [tuple(row[(1 - j) % tile] for j in range(KERNEL_TAPS)) for row in evaluated]
    b_t = [(zero, *row, zero) for row in evaluated]
    a_t = [[*row, zero, zero] for row in product(inverse(residues), sums)]
    for output, tap, meant, taken in ((0, 0, 0, tile), (tile - 1, 2, tile + 1, 1)):
        g.append(tuple(Fraction(int(j == tap)) for j in range(KERNEL_TAPS)))
        b_t.append(tuple(Fraction((i == meant) - (i == taken)) for i in range(tile + 2)))
        a_t[output][len(g) - 1] = one
    return BilinearAlgorithm(
        name=f"SFC-{tile}({tile},{KERNEL_TAPS})",
        m=tile,
        r=KERNEL_TAPS,
        a_t=as_matrix(a_t),
        b_t=tuple(b_t),
        g=tuple(g),
    )


def _dft(length: int) -> tuple[Matrix, Matrix, Matrix]:
    """Residues modulo the factors of x^N - 1, the factors of products, and what sums products up.

    Returns
    -------
    N x N from coefficients to residues, n x N from residues to the factors of n products, and
    N x n from products to residues of the product.
    """
    residues = [[1] * length, [(-1) ** power for power in range(length)]]
    blocks = [([[1]], [[1]]), ([[1]], [[1]])]
    for p in _QUADRATIC_FACTORS[length]:
        a, b = [1], [0]
        for _ in range(length - 1):  # (a + b x) x = -b + (a - p b) x
            a, b = [*a, -b[-1]], [*b, a[-1] - p * b[-1]]
        residues += [a, b]
        s = -p or -1
        # (a + b x) (c + d x) = a c - b d + (a d + b c - p b d) x
        # with a d + b c = s ((a + s b) (c + s d) - a c - b d).
        blocks.append(([[1, 0], [0, 1], [1, s]], [[1, -1, 0], [-s, -s - p, s]]))
    return (
        as_matrix(residues),
        _block_diagonal([factors for factors, _ in blocks]),
        _block_diagonal([sums for _, sums in blocks]),
    )


def _block_diagonal(blocks: list[list[list[int]]]) -> Matrix:
    width = sum(len(block[0]) for block in blocks)
    rows = []
    before = 0
    for block in blocks:
        after = width - before - len(block[0])
        rows += [[*[0] * before, *row, *[0] * after] for row in block]
        before += len(block[0])
    return as_matrix(rows)
