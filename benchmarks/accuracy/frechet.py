"""The Frechet distance between two sets of features, each taken for a Gaussian.

``|mean_1 - mean_2|^2 + trace(C_1 + C_2 - 2 (C_1 C_2)^(1/2))``: Dowson and Landau, "The Frechet
distance between multivariate normal distributions", 1982; for pictures Heusel et al., NeurIPS 2017,
arXiv 1706.08500. There, and in `diffusion.py`, the features are those of Inception; in `fashion/`
those of a small classifier, so that its numbers compare only among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean float64 (feature,) and covariance (feature, feature) of features."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features (image, feature)."""
        values = features.double().numpy()
        return cls(values.mean(0), np.cov(values, rowvar=False))


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared distance; not negative, 0 for equal moments."""
    root = _square_root(first.covariance)
    # The trace of (C_1 C_2)^(1/2) is that of (R C_2 R)^(1/2) with R = C_1^(1/2): symmetric, so that
    # its eigenvalues are real.
    middle = np.linalg.eigvalsh(root @ second.covariance @ root)
    cross = float(np.sqrt(np.maximum(middle, 0)).sum())
    means = float(np.sum((first.mean - second.mean) ** 2))
    traces = float(np.trace(first.covariance) + np.trace(second.covariance))
    return max(0.0, means + traces - 2 * cross)


def _square_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
