"""Toom-Cook (Winograd) algorithms from interpolation points, and the direct convolution.

The construction is that of Blahut, "Fast Algorithms for Signal Processing", chapter 5: evaluate
both polynomials at n points, multiply, interpolate; transposed, it computes a correlation. The
points at infinity and the transposition follow Lavin and Gray, arXiv 1509.09308.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from ..errors import AlgorithmError
from .bilinear import BilinearAlgorithm, Matrix, Rational
from .matrices import inverse, transposed

INFINITY = "inf"
KERNEL_TAPS = 3

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
}


def toom_cook(m: int, r: int, points: Sequence[Rational]) -> BilinearAlgorithm:
    """F(m, r) from m + r - 2 distinct finite points and infinity, in the standard normalisation.

    ``A^T = V_(n x m)^T``, ``B^T = V_(n x n)^-T``, ``G = V_(n x r)`` with the Vandermonde matrices
    V of the points, whose row for infinity is (0, ..., 0, 1).

    Parameters
    ----------
    points : finite points (int, Fraction, or text such as "2/3"); a final "inf" may be written.

    Raises
    ------
    AlgorithmError
        If a point is no rational number, is there twice, or the count is wrong.
    """
    name = f"F({m},{r})"
    if m < 1 or r < 1:
        raise AlgorithmError(f"{name}: m and r must be positive")
    finite = _finite_points(name, m + r - 2, points)
    n = m + r - 1
    columns_of_inverse = inverse(_vandermonde(finite, n))
    return BilinearAlgorithm(
        name=name,
        m=m,
        r=r,
        a_t=transposed(_vandermonde(finite, m)),
        b_t=transposed(columns_of_inverse),
        g=_vandermonde(finite, r),
        points=(*(str(point) for point in finite), INFINITY),
    )


def winograd(
    tile: int, points: str | Sequence[Rational] = "best", r: int = KERNEL_TAPS
) -> BilinearAlgorithm:
    """F(tile, r) from named points ("best" or "lavin") or from tile + r - 2 finite points.

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


def direct(r: int = KERNEL_TAPS) -> BilinearAlgorithm:
    """F(1, r): the direct convolution as a bilinear algorithm, every transform an identity."""
    identity = tuple(tuple(Fraction(int(i == j)) for j in range(r)) for i in range(r))
    return BilinearAlgorithm(
        name=f"F(1,{r})", m=1, r=r, a_t=((Fraction(1),) * r,), b_t=identity, g=identity
    )


def _finite_points(name: str, count: int, points: Sequence[Rational]) -> tuple[Fraction, ...]:
    if points and points[-1] == INFINITY:
        points = points[:-1]
    finite: list[Fraction] = []
    for point in points:
        try:
            value = Fraction(point)
        except (ValueError, ZeroDivisionError, TypeError) as error:
            raise AlgorithmError(
                f"{name}: point {point!r} is not a rational number; infinity may only come last"
            ) from error
        if value in finite:
            raise AlgorithmError(f"{name}: point {value} is there twice; points must be distinct")
        finite.append(value)
    if len(finite) != count:
        raise AlgorithmError(
            f"{name}: {len(finite)} finite points are given; {count} are needed besides infinity"
        )
    return tuple(finite)


def _vandermonde(finite: Sequence[Fraction], width: int) -> Matrix:
    rows = [tuple(point**power for power in range(width)) for point in finite]
    rows.append((*(Fraction(0),) * (width - 1), Fraction(1)))
    return tuple(rows)
