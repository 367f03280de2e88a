"""A bilinear algorithm by the name of its family, as configurations and plans say it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ..errors import AlgorithmError
from .bilinear import BilinearAlgorithm, Rational
from .sfc import sfc
from .toom_cook import KERNEL_TAPS, direct, winograd

KERNELS = (3, 5)  # taps of a kernel's edge for which there are fast algorithms, for stride 1
DIRECT_KERNELS = (1, 2, 3, 4, 5)  # those of the direct convolution in int8, for any stride


def bilinear_algorithm(
    family: str,
    tile: int | None = None,
    points: str | Sequence[Rational] | None = None,
    r: int = KERNEL_TAPS,
) -> BilinearAlgorithm:
    """F(tile, r) of "winograd" with its points, SFC of "sfc", or F(1, r) of "direct".

    Raises
    ------
    AlgorithmError
        If the family has no algorithm for such a tile, points or kernel.
    """
    return _built(family, tile, points if isinstance(points, str | None) else tuple(points), r)


@cache  # exact fractions are slow, and plans ask for the same few algorithms for every candidate
def _built(
    family: str, tile: int | None, points: str | tuple[Rational, ...] | None, r: int
) -> BilinearAlgorithm:
    if family == "direct":
        return direct(r)
    if tile is None:
        raise AlgorithmError(f"tile is None; {family} needs one")
    if family == "winograd":
        return winograd(tile, "best" if points is None else points, r)
    if family != "sfc":
        raise AlgorithmError(f"algorithm is {family!r}; give one of winograd, sfc, direct")
    if r != KERNEL_TAPS:
        raise AlgorithmError(f"SFC is for {KERNEL_TAPS} taps of a kernel, not for {r}")
    return sfc(tile)
