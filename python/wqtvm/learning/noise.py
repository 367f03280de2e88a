"""The noise that scales are learned on: no images, no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..fastconv import BilinearAlgorithm, ScaleSet, correlated_scales, row_norm_scales
from .learned import DEFAULT_RHO, NOISES


@dataclass(frozen=True)
class Noise:
    """Where input tiles come from; every pixel has mean 0 and variance 1.

    Attributes
    ----------
    kind : "gaussian" or "uniform", both white; or "correlated", a Gaussian process whose neighbours
        correlate, autoregressive of the first order in rows and in columns.
    rho : correlation of neighbours, for "correlated". Scales learned with 0.9 are the best of 0.85,
        0.9 and 0.95 for FFDNet.

    Raises
    ------
    ConfigError
        If the kind is another one, or rho is outside [0, 1).
    """

    kind: str = "correlated"
    rho: float = DEFAULT_RHO

    def __post_init__(self) -> None:
        if self.kind not in NOISES:
            raise ConfigError(f"noise is {self.kind!r}; give one of {', '.join(NOISES)}")
        if not 0 <= self.rho < 1:
            raise ConfigError(f"rho is {self.rho}; it must be at least 0 and below 1")

    def __str__(self) -> str:
        return f"correlated (rho {self.rho:g})" if self.kind == "correlated" else self.kind

    def closed_form(self, algorithm: BilinearAlgorithm) -> ScaleSet:
        """The scales to do better than, where learning starts: those of a formula, by its name."""
        correlated = self.kind == "correlated"
        return correlated_scales(algorithm) if correlated else row_norm_scales(algorithm)

    def tiles(self, count: int, edge: int, channels: int, generator: torch.Generator) -> Tensor:
        """Draw independent input tiles, float32 (p, i, j, c)."""
        shape = (count, edge, edge, channels)
        if self.kind == "uniform":
            return (torch.rand(shape, generator=generator) - 0.5) * 12**0.5
        white = torch.randn(shape, generator=generator)
        if self.kind == "gaussian":
            return white
        factor = _factor(edge, self.rho)
        correlated: Tensor = torch.einsum("ik,jl,pklc->pijc", factor, factor, white)
        return correlated


def _factor(edge: int, rho: float) -> Tensor:
    """The Cholesky factor, float32 (edge, edge), of the covariance ``rho ** |i - k|``."""
    distance = (torch.arange(edge)[:, None] - torch.arange(edge)).abs()
    covariance = torch.tensor(rho, dtype=torch.float64) ** distance
    factor: Tensor = torch.linalg.cholesky(covariance)
    return factor.float()
