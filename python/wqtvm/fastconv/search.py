"""Interpolation points of least int8 noise, for white and for smooth inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from ..errors import AlgorithmError
from .rows import integer_matrix
from .scales import noise_gain_db
from .toom_cook import KERNEL_TAPS, PAIRS, toom_cook

INT8 = 127

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PointCandidate:
    """Points that ``search_points`` found.

    Attributes
    ----------
    points : finite points as text, for ``winograd`` or ``toom_cook``.
    noise_gain_db : for inputs of the correlation that was asked for, in dB.
    white_noise_gain_db : for white inputs, in dB; the same if no correlation was asked for.
    largest_integer : of the integer rows of B^T.
    """

    points: tuple[str, ...]
    noise_gain_db: float
    white_noise_gain_db: float
    largest_integer: int


def search_points(
    m: int,
    r: int = KERNEL_TAPS,
    *,
    correlation: float | None = None,
    complex_points: tuple[str, ...] = (),
    largest_integer: int = INT8,
    largest_term: int = 6,
    count: int = 10,
    progress: Progress | None = None,
) -> tuple[PointCandidate, ...]:
    """Points of F(m, r) with the least noise gain, the best first.

    All sets of pairs p, -p of fractions are tried, with 0 where the count of real points is odd.
    What is minimised is ``noise_gain_db(algorithm, correlation)``, that is ``20 log10(M1)`` with

        M1 = sum over outputs a and products k of A^T[a, k]^2 var_k |g_k|^2 / (m r)

    A tap of the transformed input has, along one axis, the variance ``var_k = b_k R b_k^T`` for the
    row b_k of B^T and inputs of covariance R: the identity for white ones, where it is |b_k|^2, and
    ``R[i, j] = correlation ** |i - j|`` for a first-order autoregressive process. In int8 with a
    step of its own, a tap's noise is a fixed fraction of the product of its two variances, weights
    being white; the output transform adds it with squared coefficients. Both axes do the same, so
    that in two dimensions the ratio of noise to a direct convolution's is M1 squared.

    Parameters
    ----------
    correlation : of neighbouring inputs, at least 0 and below 1; None for white inputs.
    complex_points : pairs that belong to every set, as for ``toom_cook``, such as ("i",).
    largest_integer : the integer rows of B^T may have no larger entry; int8 is exact up to 127, as
        precision "full" needs, float32 up to 2**24.
    largest_term : of numerators and denominators of the points.
    count : candidates to return, at most. Of two with the same gain, as sets of p and of 1/p have,
        the one with the smaller integers comes first.
    progress : called after each set with the number of sets done, and of all.

    Raises
    ------
    AlgorithmError
        If an argument is out of range, or no set has rows of so small integers.
    """
    for name, value in (("m", m), ("r", r), ("largest_term", largest_term), ("count", count)):
        if value < 1:
            raise AlgorithmError(f"{name} is {value}; give an integer of at least 1")
    magnitudes = sorted(
        Fraction(numerator, denominator)
        for numerator in range(1, largest_term + 1)
        for denominator in range(1, largest_term + 1)
        if math.gcd(numerator, denominator) == 1
    )
    real = m + r - 2 - 2 * len(complex_points)
    unknown = set(complex_points) - PAIRS.keys()
    if unknown or real < 0:
        raise AlgorithmError(
            f"complex_points are {complex_points!r}; give at most {(m + r - 2) // 2} of "
            f"{', '.join(PAIRS)}"
        )
    pairs, with_zero = divmod(real, 2)
    total = math.comb(len(magnitudes), pairs)
    found = []
    for done, chosen in enumerate(combinations(magnitudes, pairs), start=1):
        points = [Fraction(0)] * with_zero + [p for p0 in chosen for p in (p0, -p0)]
        rows = _integer_rows(points, complex_points)
        if max(abs(entry) for row in rows for entry in row) <= largest_integer:
            candidate = _candidate(m, r, [*points, *complex_points], correlation)
            if candidate.largest_integer <= largest_integer:
                found.append(candidate)
        if progress is not None:
            progress(done, total)
    if not found:
        raise AlgorithmError(
            f"F({m},{r}): none of {total} sets of points with terms up to {largest_term} has rows "
            f"of integers up to {largest_integer}; allow larger terms or integers"
        )
    return tuple(sorted(found, key=_rank)[:count])


def _candidate(
    m: int, r: int, points: Sequence[Fraction | str], correlation: float | None
) -> PointCandidate:
    algorithm = toom_cook(m, r, points)
    white = noise_gain_db(algorithm)
    gain = white if correlation is None else noise_gain_db(algorithm, correlation)
    largest = integer_matrix(algorithm.b_t).largest
    return PointCandidate(algorithm.points[:-1], gain, white, largest)


def _rank(candidate: PointCandidate) -> tuple[float, int, tuple[Fraction, ...]]:
    # Rounded, so that equal gains, computed in another order, are equal.
    rounded = round(candidate.noise_gain_db, 9)
    real = tuple(Fraction(point) for point in candidate.points if point not in PAIRS)
    return rounded, candidate.largest_integer, real


def _integer_rows(
    points: Sequence[Fraction], complex_points: Sequence[str]
) -> Iterator[Sequence[int]]:
    """Rows of B^T for real points and infinity, up to a factor.

    They are the coefficients of the products of all factors x - p and x^2 + p x + 1 but the point's
    own, and of all.
    """
    pairs = [1]
    for text in complex_points:
        longer = zip([*pairs, 0, 0], [0, *pairs, 0], [0, 0, *pairs], strict=True)
        pairs = [a + PAIRS[text].p * b + c for a, b, c in longer]
    for left_out in (*points, None):
        row = pairs
        for point in points:
            if point != left_out:
                times_x, times_one = [0, *row], [*row, 0]
                row = [
                    point.denominator * a - point.numerator * b
                    for a, b in zip(times_x, times_one, strict=True)
                ]
        divisor = math.gcd(*row)
        yield [entry // divisor for entry in row]
