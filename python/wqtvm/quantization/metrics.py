"""How far an approximation is from a reference, in dB; higher is better."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..errors import InputMismatchError


def sqnr_db(reference: NDArray[np.floating], approximation: NDArray[np.floating]) -> float:
    """Signal to quantization noise ratio: ``10 log10(sum(ref^2) / sum((ref - approx)^2))`` in dB.

    Infinite if both are equal, NaN if either holds a value that is not finite.

    Raises
    ------
    InputMismatchError
        If the shapes differ.
    """
    signal, noise = _energies(reference, approximation)
    return _decibel(signal, noise)


def psnr_db(
    reference: NDArray[np.floating],
    approximation: NDArray[np.floating],
    peak: float | None = None,
) -> float:
    """Peak signal to noise ratio in dB; the peak is the reference's range unless given.

    Infinite if both are equal, NaN if either holds a value that is not finite.

    Raises
    ------
    InputMismatchError
        If the shapes differ.
    """
    _, noise = _energies(reference, approximation)
    if peak is None:
        peak = float(reference.max()) - float(reference.min())
    return _decibel(peak**2, noise / reference.size)


def _energies(
    reference: NDArray[np.floating], approximation: NDArray[np.floating]
) -> tuple[float, float]:
    if reference.shape != approximation.shape:
        raise InputMismatchError(
            f"the approximation has shape {approximation.shape}, the reference {reference.shape}; "
            "they must be equal"
        )
    exact = reference.astype(np.float64)
    with np.errstate(all="ignore"):
        error = exact - approximation.astype(np.float64)
        return float(np.sum(exact**2)), float(np.sum(error**2))


def _decibel(signal: float, noise: float) -> float:
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
