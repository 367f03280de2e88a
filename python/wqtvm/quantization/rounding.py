"""Weights rounded so that their errors cancel on smooth inputs.

To round each tap of U to its nearest integer is best for inputs without structure. Features are
smooth, and what a smooth image makes of errors is their sum, which does not average out over the
image. So the taps of a filter are rounded one after the other, each so that it makes up for the
errors of those before it, as far as they have the same effect on outputs for inputs of a typical
correlation; no data is needed. This is Babai's nearest plane ("On Lovasz' lattice reduction and the
nearest lattice point problem", Combinatorica 1986), as in GPTQ (Frantar et al., arXiv 2210.17323),
with a model of features in the place of their measured Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .arithmetic import F32, I8, LARGEST
from .scheme import Axis

F64 = NDArray[np.float64]

# Of neighbouring pixels of features: a process of first order along both axes. On five trained
# networks 0.8 and 0.9 lose up to 0.5 dB a layer against each other, in either direction.
CORRELATION = 0.85
_CHUNK = 4096  # weights of a tap that are rounded at once: those of all taps stay in a cache
_WHITE = 1e-4  # of energy on the diagonal, so that taps of the same effect stay apart


def round_weights(transformed: F64, step: F32, row_energy: F64, column_energy: F64) -> I8:
    """Round weights in the Winograd domain, (n, n, output channel, group, channel of the group).

    Parameters
    ----------
    transformed : float64, G g G^T.
    step : float32, broadcast to that; 0 where all weights are 0.
    row_energy, column_energy : float64 (n, n), from ``output_energy``.
    """
    steps = np.broadcast_to(step.astype(np.float64), (*transformed.shape[:4], 1))
    inverses = np.divide(1.0, steps, out=np.zeros_like(steps), where=steps > 0)
    # The coarsest first, so that the finer ones make up for it.
    noise = np.multiply.outer(row_energy.diagonal(), column_energy.diagonal())
    noise *= np.square(steps).mean((2, 3, 4))
    rows = np.argsort(-noise.sum(1), kind="stable")
    columns = np.argsort(-noise.sum(0), kind="stable")
    # The energy of errors is that of E = F^T D H, F and H upper triangular with a diagonal of ones,
    # but for factors that rounding cannot change: each entry of E is made small in its turn.
    down = _unit_factor(row_energy[np.ix_(rows, rows)])
    along = _unit_factor(column_energy[np.ix_(columns, columns)])
    rounded = np.empty(transformed.shape, np.int8)
    size = max(1, _CHUNK // math.prod(transformed.shape[3:]))
    for first in range(0, transformed.shape[2], size):
        filters = np.s_[:, :, first : first + size]
        rounded[filters] = _round_filters(
            transformed[filters], steps[filters], inverses[filters], rows, columns, down, along
        )
    return rounded


def _round_filters(
    transformed: F64,
    steps: F64,
    inverses: F64,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    down: F64,
    along: F64,
) -> I8:
    """Round the weights of some filters; each is independent of the others."""
    rounded = np.empty(transformed.shape, np.int8)
    errors: list[list[F64]] = []  # D, of the taps of each row
    for i, row in enumerate(rows):
        above = [_weighted(down[:i, i], [e[j] for e in errors]) for j in range(len(columns))]
        line: list[F64] = []  # of F^T D
        for j, column in enumerate(columns):
            wanted = transformed[row, column] + above[j]
            target = wanted + _weighted(along[:j, j], line)
            q = np.clip(np.rint(target * inverses[row, column]), -LARGEST, LARGEST)
            rounded[row, column] = q
            line.append(wanted - q * steps[row, column])
        errors.append([error - inherited for error, inherited in zip(line, above, strict=True)])
    return rounded


def output_energy(axis: Axis) -> F64:
    """Energy at the outputs of products of taps' errors, along one axis of tiles, (n, n)."""
    rows = np.asarray(axis.input_matrix.rows, dtype=np.float64)
    input_matrix, output_matrix = axis.input_row_scale[:, None] * rows, axis.output_matrix
    pixels = np.arange(input_matrix.shape[1])
    correlation = CORRELATION ** np.abs(np.subtract.outer(pixels, pixels))
    taken = _product(_product(input_matrix, correlation), input_matrix.T)
    energy = taken * _product(output_matrix.T, output_matrix)
    energy[np.diag_indices_from(energy)] *= 1 + _WHITE
    return energy


def _unit_factor(energy: F64) -> F64:
    """F, upper triangular with ones on the diagonal, of energy = F diag F^T."""
    # Written out, in a fixed order: the same bits on every machine.
    rest = energy.copy()
    factor = np.eye(len(energy))
    for i in range(len(energy) - 1, 0, -1):
        factor[:i, i] = rest[:i, i] / rest[i, i]
        rest[:i, :i] -= np.multiply.outer(factor[:i, i], rest[:i, i])
    return factor


def _product(a: F64, b: F64) -> F64:
    """Matrix product, terms added in order."""
    return np.asarray(sum(np.multiply.outer(a[:, i], b[i]) for i in range(len(b))))


def _weighted(weights: F64, values: Sequence[F64]) -> F64 | float:
    """Sum of products, in order; 0 of none."""
    return sum((w * v for w, v in zip(weights, values, strict=True)), start=0.0)
