"""Diagonal scales that level the taps' ranges, and the noise gain that no scale can change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import AlgorithmError
from .bilinear import BilinearAlgorithm

CORRELATION = 0.85


@dataclass(frozen=True)
class ScaleSet:
    """Diagonals of S_B and S_G, one entry per product of an axis; S_A is their inverse.

    Attributes
    ----------
    name : "standard", "row-norm", "correlated", or what made them.
    s_b, s_g : n positive finite numbers each.

    Raises
    ------
    AlgorithmError
        If the lengths differ, or an entry is not positive and finite.
    """

    name: str
    s_b: tuple[float, ...]
    s_g: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.s_b) != len(self.s_g):
            raise AlgorithmError(
                f"scales {self.name!r}: S_B has {len(self.s_b)} entries, S_G has {len(self.s_g)}; "
                "give as many to both"
            )
        for what, entries in (("S_B", self.s_b), ("S_G", self.s_g)):
            for k, entry in enumerate(entries):
                if not (math.isfinite(entry) and entry > 0):
                    raise AlgorithmError(
                        f"scales {self.name!r}: {what}[{k}] is {entry}; "
                        "it must be positive and finite"
                    )

    @property
    def s_a(self) -> tuple[float, ...]:
        """Diagonal of S_A = (S_B S_G)^-1."""
        return tuple(1.0 / (b * g) for b, g in zip(self.s_b, self.s_g, strict=True))


def standard_scales(algorithm: BilinearAlgorithm) -> ScaleSet:
    """S_A = S_B = S_G = I."""
    ones = (1.0,) * algorithm.n
    return ScaleSet("standard", ones, ones)


def row_norm_scales(algorithm: BilinearAlgorithm) -> ScaleSet:
    """Scales that make every row of B^T and G a unit vector: optimal for white inputs."""
    return ScaleSet(
        "row-norm",
        tuple(1.0 / _norm(row) for row in algorithm.b_t),
        tuple(1.0 / _norm(row) for row in algorithm.g),
    )


def correlated_scales(algorithm: BilinearAlgorithm, rho: float = CORRELATION) -> ScaleSet:
    """Scales for inputs whose neighbours correlate by rho, as features of trained networks do.

    ``S_B = diag(1 / sqrt(b R b^T))`` for the rows b of B^T and ``R[j, k] = rho ** |j - k|``, the
    covariance of a first-order autoregressive process; S_G as in row_norm_scales.

    Raises
    ------
    AlgorithmError
        If rho is outside [0, 1).
    """
    return ScaleSet(
        "correlated",
        tuple(1.0 / math.sqrt(_variance(row, rho)) for row in algorithm.b_t),
        tuple(1.0 / _norm(row) for row in algorithm.g),
    )


SCALE_RULES: dict[str, Callable[[BilinearAlgorithm], ScaleSet]] = {
    "standard": standard_scales,
    "row-norm": row_norm_scales,
    "correlated": correlated_scales,
}


def named_scales(name: str, algorithm: BilinearAlgorithm) -> ScaleSet:
    """The closed-form scales of this name: "standard", "row-norm" or "correlated".

    Raises
    ------
    AlgorithmError
        If the name is another one.
    """
    if name not in SCALE_RULES:
        raise AlgorithmError(f"scales are {name!r}; give one of {', '.join(SCALE_RULES)}")
    return SCALE_RULES[name](algorithm)


def noise_gain_db(algorithm: BilinearAlgorithm, rho: float = 0.0) -> float:
    """How much louder int8 rounding noise is than in a direct convolution, in dB, in 2-D.

    ``20 log10(M1)`` with ``M1 = sum over outputs a and products k of (A^T[a, k] q_k)^2 / (m r)``
    and ``q_k = sqrt(b_k R b_k^T) |g_k|``, where R is the covariance of inputs whose neighbours
    correlate by rho, as in correlated_scales; for white inputs, rho = 0, q_k is ``|b_k| |g_k|``.
    Diagonal scales cancel in it, so that it depends on points alone. A step per tap is assumed.

    Raises
    ------
    AlgorithmError
        If rho is outside [0, 1).
    """
    norms = [
        math.sqrt(_variance(b, rho)) * _norm(g)
        for b, g in zip(algorithm.b_t, algorithm.g, strict=True)
    ]
    total = sum(
        (float(entry) * norm) ** 2
        for row in algorithm.a_t
        for entry, norm in zip(row, norms, strict=True)
    )
    return 20 * math.log10(total / (algorithm.m * algorithm.r))


def _norm(row: Sequence[Fraction]) -> float:
    return math.sqrt(sum(entry * entry for entry in row))


def _variance(row: Sequence[Fraction], rho: float) -> float:
    if not 0 <= rho < 1:
        raise AlgorithmError(f"rho is {rho}; it must be at least 0 and below 1")
    return sum(
        float(x) * float(y) * rho ** abs(j - k)
        for j, x in enumerate(row)
        for k, y in enumerate(row)
    )
