"""SQNR of one layer by every algorithm on noise: 3x3 and 5x5 kernels, square tiles and rectangles.

    python -m benchmarks.accuracy.noise

Weights are Gaussian, of 64 to 64 channels in groups of 32. Inputs are white, and correlated with
rho 0.9 in both axes; the columns of dB say white / correlated. Scales matter in ``full`` alone:
row-norm for white inputs, correlated for correlated ones, as the axes' closed forms.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wqtvm.emulation import EmulatedConvolution
from wqtvm.fastconv import BilinearAlgorithm, bilinear_algorithm, named_scales, noise_gain_db
from wqtvm.learning.noise import Noise
from wqtvm.quantization import Scheme, sqnr_db

CHANNELS, EDGE = 64, 40
SCALES = {"gaussian": "row-norm", "correlated": "correlated"}
# Rows, and columns if they have another tile; 1 is the direct convolution.
TILES: dict[int, tuple[tuple[int, ...], ...]] = {
    3: ((1,), (2,), (3,), (4, 2), (4,), (5,), (6, 4), (6,)),
    5: ((1,), (2,), (3, 2), (3,), (4, 2), (4, 3), (4,)),
}


def main() -> int:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = {
        kind: Noise(kind).tiles(1, EDGE, CHANNELS, generator).permute(0, 3, 1, 2).contiguous()
        for kind in SCALES
    }
    print("| algorithm | products an output | noise gain | hadamard | full, axis | full, tile |")
    print("|---|---|---|---|---|---|")
    for taps, tiles in TILES.items():
        weight = torch.randn(CHANNELS, CHANNELS, taps, taps, generator=generator)
        for tile in tiles:
            axes = [
                bilinear_algorithm("winograd" if m > 1 else "direct", m, "best", taps) for m in tile
            ]
            rows, columns = axes[0], axes[-1]
            cells = [
                " / ".join(
                    f"{_sqnr_db(image, weight, axes, precision, SCALES[kind], steps):.1f}"
                    for kind, image in images.items()
                )
                for precision, steps in (("hadamard", "axis"), ("full", "axis"), ("full", "tile"))
            ]
            gain = (noise_gain_db(rows) + noise_gain_db(columns)) / 2
            products = rows.n * columns.n / (rows.m * columns.m)
            label = f"F({'x'.join(map(str, tile))},{taps})"
            print(f"| {label} | {products:.2f} | {gain:.1f} | {' | '.join(cells)} |", flush=True)
    return 0


def _sqnr_db(
    x: Tensor,
    weight: Tensor,
    axes: Sequence[BilinearAlgorithm],
    precision: str,
    scales: str,
    steps: str,
) -> float:
    rows, *columns = ((algorithm, named_scales(scales, algorithm)) for algorithm in axes)
    scheme = Scheme(*rows, precision, 32, steps, "tap", *(columns[0] if columns else ()))
    exact = functional.conv2d(x.double(), weight.double()).numpy()
    return sqnr_db(exact, EmulatedConvolution(weight.numpy(), scheme)(x).numpy())


if __name__ == "__main__":
    sys.exit(main())
