"""Whether Winograd pays for 3x3 convolutions of stride 2, by their four phases of stride 1.

    python -m benchmarks.accuracy.stride2

Outputs of stride 2 take the kernel's outer taps from even inputs and its middle tap from odd ones:
an axis is F(m, 2) on the even phase beside a direct tap on the odd one, m + 1 and m products; in
two dimensions kernels of 2x2, 2x1, 1x2 and 1x1 taps. So it is a bilinear algorithm of 2 m + 1
products an axis, and has a noise gain like any other. Printed for each m are multiplications
against the direct convolution's, the noise gain for white and for correlated inputs, the time
against direct int8 by a model, and SQNRs, measured with 128 channels, quantized as in precision
"hadamard": a step for each tile, tap and group of 32 channels of V, and for each tap, output
channel and group of U.

The model counts in int8 products: a float operation of a transform, an input's quantization or the
scaling of a group's sums is worth six, as in wqtvm.planning.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wqtvm.fastconv import direct, toom_cook
from wqtvm.quantization import sqnr_db

F64 = NDArray[np.float64]

FLOAT_OPERATION = 6.0
GROUP = 32
RHO = 0.9
CHANNELS = (64, 128, 320)
EDGE = 49  # of the image: an odd number of pixels, without padding

# Of F(m, 2), by m; those of least noise gain among fractions with integers up to 4.
POINTS: dict[int, tuple[str, ...]] = {
    2: ("2/3", "-2/3"),
    3: ("0", "1", "-1"),
    4: ("4/3", "-4/3", "1/3", "-1/3"),
}


@dataclass(frozen=True)
class Strided:
    """One axis of a convolution of stride 2 by 3 taps: A^T (m, n), B^T (n, 2 m + 1), G (n, 3)."""

    a_t: F64
    b_t: F64
    g: F64

    @property
    def m(self) -> int:
        """Outputs of one application."""
        return len(self.a_t)

    @property
    def n(self) -> int:
        """Products of one axis."""
        return len(self.g)


def by_phases(m: int, points: tuple[str, ...]) -> Strided:
    """F(m, 2) on the even phase, direct on the odd one."""
    even = toom_cook(m, 2, points)
    n = even.n + m
    a_t, b_t, g = np.zeros((m, n)), np.zeros((n, 2 * m + 1)), np.zeros((n, 3))
    a_t[:, : even.n] = np.asarray(even.a_t, dtype=np.float64)
    a_t[:, even.n :] = np.eye(m)
    b_t[: even.n, ::2] = np.asarray(even.b_t, dtype=np.float64)
    b_t[even.n :, 1::2] = np.eye(m)
    g[: even.n, ::2] = np.asarray(even.g, dtype=np.float64)
    g[even.n :, 1] = 1
    return Strided(a_t, b_t, g)


def directly() -> Strided:
    """The direct convolution, three products an output."""
    one = direct()
    matrices = (np.asarray(matrix, dtype=np.float64) for matrix in (one.a_t, one.b_t, one.g))
    return Strided(*matrices)


def noise_gain_db(algorithm: Strided, rho: float) -> float:
    """As ``wqtvm.fastconv.noise_gain_db``."""
    edge = algorithm.b_t.shape[1]
    covariance = rho ** np.abs(np.subtract.outer(np.arange(edge), np.arange(edge)))
    v = np.einsum("ki,ij,kj->k", algorithm.b_t, covariance, algorithm.b_t)
    total = (np.square(algorithm.a_t) @ (v * np.square(algorithm.g).sum(1))).sum()
    return float(20 * np.log10(total / (3 * algorithm.m)))


def cost(algorithm: Strided, channels: int) -> float:
    """Int8 products per output and input channel, with everything else in their measure."""
    products = algorithm.n**2 / algorithm.m**2
    if algorithm.m == 1:
        inputs, outputs = 4.0, 0.0  # each pixel is quantized once
    else:
        # A row of a single 1 costs nothing; then all taps are quantized.
        b, a = (_operations(matrix) for matrix in (algorithm.b_t, algorithm.a_t))
        n, edge = algorithm.b_t.shape
        inputs = (b * (edge + n) + n**2) / algorithm.m**2
        outputs = a * (n + algorithm.m) / algorithm.m**2
    scaling = products / min(GROUP, channels)
    return products + FLOAT_OPERATION * ((inputs + outputs) / channels + scaling)


def _operations(matrix: F64) -> int:
    entries = np.count_nonzero(matrix, axis=1)
    trivial = (entries == 1) & (np.abs(matrix).sum(1) == 1)
    return int(entries[~trivial].sum())


def convolve(x: F64, weight: F64, algorithm: Strided) -> F64:
    """Quantized convolution of (row, column, channel) by (3, 3, output, input channel)."""
    m, edge = algorithm.m, algorithm.b_t.shape[1]
    u = _quantized(np.einsum("ej,fk,jkoc->efoc", algorithm.g, algorithm.g, weight))
    outputs = (x.shape[0] - 3) // 2 + 1
    tiles = outputs // m
    y = np.empty((tiles * m, tiles * m, weight.shape[2]))
    for row in range(tiles):
        strip = np.stack([x[2 * m * row :][:edge, 2 * m * c :][:, :edge] for c in range(tiles)])
        v = np.einsum("ei,fj,pijc->pefc", algorithm.b_t, algorithm.b_t, strip, optimize=True)
        products = np.einsum("pefc,efoc->pefo", _quantized(v), u, optimize=True)
        parts = np.einsum("ae,bf,pefo->pabo", algorithm.a_t, algorithm.a_t, products, optimize=True)
        y[m * row : m * (row + 1)] = parts.transpose(1, 0, 2, 3).reshape(m, tiles * m, -1)
    return y


def _quantized(values: F64) -> F64:
    """Round to int8 and back, a step for each group of the last axis."""
    groups = values.reshape(*values.shape[:-1], -1, GROUP)
    step = np.abs(groups).max(-1, keepdims=True) / 127
    rounded: F64 = (np.rint(groups / step) * step).reshape(values.shape)
    return rounded


def noise(rng: np.random.Generator, channels: int, rho: float) -> F64:
    """(row, column, channel), neighbours correlated by rho along both axes."""
    field = rng.standard_normal((EDGE, EDGE, channels))
    for axis in (0, 1):
        lines = np.moveaxis(field, axis, 0)
        for i in range(1, EDGE):
            lines[i] = rho * lines[i - 1] + np.sqrt(1 - rho**2) * lines[i]
    return field


def measured_db(algorithm: Strided, channels: int, rho: float) -> float:
    """SQNR of one layer with Gaussian weights."""
    rng = np.random.default_rng(0)
    x = noise(rng, channels, rho)
    weight = rng.standard_normal((3, 3, channels, channels))
    result = convolve(x, weight, algorithm)
    rows, columns = result.shape[:2]
    exact = sum(
        x[i : i + 2 * rows : 2, j : j + 2 * columns : 2] @ weight[i, j].T
        for i in range(3)
        for j in range(3)
    )
    return sqnr_db(np.asarray(exact), result)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    algorithms = {"direct": directly()}
    algorithms |= {f"F({m},2): {' '.join(p)} inf": by_phases(m, p) for m, p in POINTS.items()}
    times = [f"times as fast, {channels} ch." for channels in CHANNELS]
    heads = ["even phase", "saving", "gain white, dB", f"gain rho {RHO}, dB", *times]
    heads += ["SQNR white, dB", f"SQNR rho {RHO}, dB"]
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for name, algorithm in algorithms.items():
        saving = 9 * algorithm.m**2 / algorithm.n**2
        gains = [noise_gain_db(algorithm, rho) for rho in (0, RHO)]
        faster = [cost(directly(), c) / cost(algorithm, c) for c in CHANNELS]
        found = [measured_db(algorithm, CHANNELS[1], rho) for rho in (0, RHO)]
        cells = [f"{saving:.2f}", *(f"{x:.1f}" for x in gains), *(f"{x:.2f}" for x in faster)]
        print(f"| {' | '.join([name, *cells, *(f'{x:.1f}' for x in found)])} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
