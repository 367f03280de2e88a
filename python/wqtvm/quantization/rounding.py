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

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .arithmetic import F32, I8, LARGEST

F64 = NDArray[np.float64]

CORRELATION = 0.9  # of neighbouring pixels of features: a process of first order along both axes
_WHITE = 1e-4  # of energy on the diagonal, so that taps of the same effect stay apart


def round_weights(transformed: F64, step: F32, input_matrix: F64, output_matrix: F64) -> I8:
    """Round weights in the Winograd domain, (n, n, output channel, group, channel of the group).

    Parameters
    ----------
    transformed : float64, G g G^T.
    step : float32, broadcast to that; 0 where all weights are 0.
    input_matrix, output_matrix : float64, B^T (n, t) and A^T (m, n), with all their scales.
    """
    energy = output_energy(input_matrix, output_matrix)
    steps = np.broadcast_to(step.astype(np.float64), (*transformed.shape[:4], 1))
    inverses = np.divide(1.0, steps, out=np.zeros_like(steps), where=steps > 0)
    # The coarsest first, so that the finer ones make up for it.
    coarse = np.square(steps).mean((1, 2, 3, 4)) * energy.diagonal()
    order = np.argsort(-coarse, kind="stable")
    # The energy of errors is that of E = F^T D F, F upper triangular with ones on the diagonal, but
    # for factors that rounding cannot change: each entry of E is made small in its turn.
    follow = _unit_factor(energy[np.ix_(order, order)])
    rounded = np.zeros(transformed.shape, np.int8)
    rows: list[list[F64]] = []  # D, the errors of the taps of each row
    for i, row in enumerate(order):
        above = [_weighted(follow[:i, i], [r[j] for r in rows]) for j in range(len(order))]
        line: list[F64] = []  # of F^T D
        for j, column in enumerate(order):
            wanted = transformed[row, column] + above[j]
            target = wanted + _weighted(follow[:j, j], line)
            q = np.clip(np.rint(target * inverses[row, column]), -LARGEST, LARGEST)
            rounded[row, column] = q
            line.append(wanted - q * steps[row, column])
        rows.append([error - inherited for error, inherited in zip(line, above, strict=True)])
    return rounded


def output_energy(input_matrix: F64, output_matrix: F64) -> F64:
    """Energy at the outputs of products of taps' errors, along one axis, (n, n)."""
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
