"""SFC, symbolic Fourier convolution: transforms of 0, +-1 and +-2, by a DFT over polynomials.

Source: He et al., "SFC: Achieve Accurate Fast Convolution under Low-precision Arithmetic", ICML
2024, arXiv 2407.02913. A cyclic convolution of length N, which multiplies modulo x^N - 1, gives N
outputs, but for the ends, where it wraps; two products correct that. For N = 4 and 6 all factors of
x^N - 1 over the rationals are x - 1, x + 1 and x^2 + p x + 1 with p = 0 or +-1, so that residues
(the DFT, with x kept as a symbol for the root of unity) only add and subtract.

The corrections are the points 0 and infinity: it is Toom-Cook at the roots of unity, and made so.
A residue is multiplied by the three products of least noise (``toom_cook.PAIRS``): SFC-4 has 3.4 dB
where the paper's products have 5.3.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import AlgorithmError
from .bilinear import BilinearAlgorithm
from .toom_cook import KERNEL_TAPS, toom_cook

# By the length N of the DFT, the N-th roots of unity, and 0.
_POINTS = {4: ("0", "1", "-1", "i"), 6: ("0", "1", "-1", "w", "-w")}

SFC_TILES = tuple(_POINTS)


def sfc(tile: int) -> BilinearAlgorithm:
    """SFC-N(N, 3) for N = tile outputs: SFC-4(4,3) of 7 products, SFC-6(6,3) of 10.

    Raises
    ------
    AlgorithmError
        If the tile is neither 4 nor 6: there a DFT needs other coefficients than small integers.
    """
    if tile not in SFC_TILES:
        raise AlgorithmError(
            f"tile is {tile}; SFC exists for {' and '.join(map(str, SFC_TILES))}, where its "
            "transforms have small integers only"
        )
    algorithm = toom_cook(tile, KERNEL_TAPS, _POINTS[tile])
    return replace(algorithm, name=f"SFC-{tile}({tile},{KERNEL_TAPS})", points=())
