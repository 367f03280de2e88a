"""Toom-Cook (Winograd) algorithms from interpolation points, and the direct convolution.

The construction is that of Blahut, "Fast Algorithms for Signal Processing", chapter 5, by the
Chinese remainder theorem: reduce both polynomials modulo the factors of one that is long enough,
multiply the residues, interpolate; transposed, it computes a correlation. The factors are x - p for
a finite point p, infinity, which stands for the leading coefficient (Lavin and Gray, arXiv
1509.09308), and x^2 + p x + 1 for a pair of conjugate complex points on the unit circle. The
residues a + b x of such a pair take three products instead of one: ``Pair`` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from ..errors import AlgorithmError
from .bilinear import BilinearAlgorithm, Matrix, Rational, as_matrix
from .matrices import block_diagonal, inverse, product, transposed

INFINITY = "inf"
KERNEL_TAPS = 3


@dataclass(frozen=True)
class Pair:
    """Two conjugate points, the roots of x^2 + p x + 1, and how residues a + b x are multiplied.

    Attributes
    ----------
    p : of the polynomial.
    of_output, of_kernel : 3 x 2, from a residue (a, b) of either side to its factors of the three
        products.
    sums : 2 x 3, from the three products to the product's residue.
    """

    p: int
    of_output: Matrix
    of_kernel: Matrix
    sums: Matrix


def _sixth_roots(p: int) -> Pair:
    """Products for p = +-1: the factors are on lines 60 degrees apart, on both sides."""
    third = Fraction(1, 3)
    return Pair(
        p,
        of_output=as_matrix([[1, 0], [0, 1], [1, -p]]),
        of_kernel=as_matrix([[2, -p], [1, p], [1, -2 * p]]),
        sums=as_matrix([[2 * third, -p * third, -third], [p * third, third, -2 * p * third]]),
    )


# By the text that stands for them among points: +-i, and the primitive third and sixth roots of
# unity. Forms of three products are a family of four parameters; these have the least noise, over
# all real ones for SFC-4 and SFC-6. (Karatsuba's a, b, a + b have as little for "w" and "-w", but
# other transforms need more additions; for "i" they have twice as much, lines 45 and 90 degrees
# apart instead of about 60.)
PAIRS = {
    "i": Pair(
        0,
        of_output=as_matrix([[1, 0], [1, 2], [1, -2]]),
        of_kernel=as_matrix([[1, 0], [1, 2], [1, -2]]),
        sums=as_matrix([["5/4", "-1/8", "-1/8"], [0, "1/4", "-1/4"]]),
    ),
    "w": _sixth_roots(1),
    "-w": _sixth_roots(-1),
}

# Finite points of F(m, 3) by m; infinity is always the last. Points come in pairs p, -p beside each
# other, so that two rows of B^T share their even and odd halves. F(m, r) takes those of
# F(m + r - 3, 3), which has as many products, hence the same B^T: of F(2, 5), F(3, 5) and F(4, 5),
# too, the points "best" are what search_points finds for white inputs.
NAMED_POINTS: dict[str, dict[int, tuple[str, ...]]] = {
    # Lavin and Gray's, which every library uses.
    "lavin": {
        2: ("0", "1", "-1"),
        3: ("0", "1", "-1", "2"),
        4: ("0", "1", "-1", "2", "-2"),
        5: ("0", "1", "-1", "2", "-2", "1/2"),
        6: ("0", "1", "-1", "2", "-2", "1/2", "-1/2"),
    },
    # The least noise gain among pairs p, -p of fractions with integers up to 6 whose integer rows
    # of B^T fit int8; with 0 where the count of finite points is odd, without it where it is even.
    "best": {
        2: ("0", "1", "-1"),
        3: ("1/2", "-1/2", "4/3", "-4/3"),
        4: ("0", "2/3", "-2/3", "3/2", "-3/2"),
        5: ("1/4", "-1/4", "1", "-1", "2", "-2"),
        6: ("0", "1", "-1", "2", "-2", "1/2", "-1/2"),
    },
    # With +-i: a product more each axis than with real points, far less noise. The least noise gain
    # among pairs p, -p of fractions with integers up to 6: for white inputs in F(3,3), F(4,3) and
    # F(6,3), for a correlation of 0.85 in F(5,3), whose white one is then 0.4 dB above the least.
    # Rows of F(5,3) and F(6,3) are too large for int8, hence for precision "full".
    "complex": {
        3: ("5/6", "-5/6", "i"),
        4: ("0", "1", "-1", "i"),
        5: ("3/5", "-3/5", "6/5", "-6/5", "i"),
        6: ("0", "3/4", "-3/4", "4/3", "-4/3", "i"),
    },
}


def toom_cook(m: int, r: int, points: Sequence[Rational]) -> BilinearAlgorithm:
    """F(m, r) from finite points and infinity, m + r - 1 together, in the standard normalisation.

    For finite points ``A^T = V_(n x m)^T``, ``B^T = V_(n x n)^-T``, ``G = V_(n x r)`` with the
    Vandermonde matrices V of the points, whose row for infinity is (0, ..., 0, 1). A pair of
    complex points counts as two points, and takes three products.

    Parameters
    ----------
    points : distinct finite points (int, Fraction, or text such as "2/3"), or pairs of complex
        ones: "i" for +-i, "w" and "-w" for the primitive third and sixth roots of unity; a final
        "inf" may be written.

    Raises
    ------
    AlgorithmError
        If a point is no rational number and no pair, is there twice, or the count is wrong.
    """
    name = f"F({m},{r})"
    if m < 1 or r < 1:
        raise AlgorithmError(f"{name}: m and r must be positive")
    finite = _finite_points(name, m + r - 2, points)
    of_output, of_kernel, sums = _products(finite)
    interpolation = transposed(inverse(_residues(finite, m + r - 1)))
    return BilinearAlgorithm(
        name=name,
        m=m,
        r=r,
        a_t=transposed(product(of_output, _residues(finite, m))),
        b_t=product(transposed(sums), interpolation),
        g=product(of_kernel, _residues(finite, r)),
        points=(*(str(point) for point in finite), INFINITY),
    )


def winograd(
    tile: int, points: str | Sequence[Rational] = "best", r: int = KERNEL_TAPS
) -> BilinearAlgorithm:
    """F(tile, r) from points by name ("best", "lavin", "complex"), or tile + r - 2 finite ones.

    Raises
    ------
    AlgorithmError
        If there are no points of this name for this tile, or toom_cook refuses the points.
    """
    if isinstance(points, str):
        if points not in NAMED_POINTS:
            raise AlgorithmError(
                f"points are {points!r}; give one of {', '.join(NAMED_POINTS)}, or numbers"
            )
        more = r - KERNEL_TAPS
        table = {m - more: named for m, named in NAMED_POINTS[points].items() if m - more > 1}
        if tile not in table:
            raise AlgorithmError(
                f"tile is {tile}; {points!r} points of F(m,{r}) exist for m of "
                f"{', '.join(map(str, table)) or 'no tile'}"
            )
        points = table[tile]
    return toom_cook(tile, r, points)


@cache
def direct(r: int = KERNEL_TAPS) -> BilinearAlgorithm:
    """F(1, r): the direct convolution as a bilinear algorithm, every transform an identity."""
    identity = tuple(tuple(Fraction(int(i == j)) for j in range(r)) for i in range(r))
    return BilinearAlgorithm(
        name=f"F(1,{r})", m=1, r=r, a_t=((Fraction(1),) * r,), b_t=identity, g=identity
    )


def _finite_points(name: str, count: int, points: Sequence[Rational]) -> tuple[Fraction | str, ...]:
    """Rational points as fractions, pairs as their text."""
    if points and points[-1] == INFINITY:
        points = points[:-1]
    finite: list[Fraction | str] = []
    for point in points:
        value = point if isinstance(point, str) and point in PAIRS else _fraction(name, point)
        if value in finite:
            raise AlgorithmError(f"{name}: point {value} is there twice; points must be distinct")
        finite.append(value)
    found = len(finite) + sum(isinstance(point, str) for point in finite)
    if found != count:
        raise AlgorithmError(
            f"{name}: {found} finite points are given (a pair counts twice); {count} are needed "
            "besides infinity"
        )
    return tuple(finite)


def _fraction(name: str, point: Rational) -> Fraction:
    try:
        return Fraction(point)
    except (ValueError, ZeroDivisionError, TypeError) as error:
        raise AlgorithmError(
            f"{name}: point {point!r} is not a rational number nor one of {', '.join(PAIRS)}; "
            "infinity may only come last"
        ) from error


def _residues(finite: Sequence[Fraction | str], width: int) -> Matrix:
    """From coefficients, the lowest first, to the residues of all points, infinity the last."""
    rows: list[Sequence[Fraction]] = []
    for point in finite:
        if isinstance(point, str):
            rows += _pair_residues(PAIRS[point].p, width)
        else:
            rows.append([point**power for power in range(width)])
    rows.append([Fraction(int(power == width - 1)) for power in range(width)])
    return as_matrix(rows)


def _pair_residues(p: int, width: int) -> tuple[list[Fraction], list[Fraction]]:
    """Coefficients a and b of x^k = a + b x modulo x^2 + p x + 1, for k below width."""
    a, b = [Fraction(1)], [Fraction(0)]
    for _ in range(width - 1):  # (a + b x) x = -b + (a - p b) x
        a, b = [*a, -b[-1]], [*b, a[-1] - p * b[-1]]
    return a, b


def _products(finite: Sequence[Fraction | str]) -> tuple[Matrix, Matrix, Matrix]:
    """As in Pair, for all points: of_output, of_kernel, sums."""
    one = as_matrix([[1]])
    single = (one, one, one)
    blocks = [single] * (len(finite) + 1)  # infinity, too
    for index, point in enumerate(finite):
        if isinstance(point, str):
            pair = PAIRS[point]
            blocks[index] = (pair.of_output, pair.of_kernel, pair.sums)
    of_output, of_kernel, sums = (
        block_diagonal(matrices) for matrices in zip(*blocks, strict=True)
    )
    return of_output, of_kernel, sums
