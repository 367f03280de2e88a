"""Decibels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wqtvm.errors import InputMismatchError
from wqtvm.quantization import psnr_db, sqnr_db

SIGNAL = np.array([3, -1, 1, 5], np.float32)


def test_sqnr() -> None:
    # Energies 36 and 0.36 (float64 sums of a few float32: some 1e-7 dB).
    off = SIGNAL + np.array([0.3, 0.3, 0.3, 0.3], np.float32)
    assert sqnr_db(SIGNAL, off) == pytest.approx(20, abs=1e-5)
    assert sqnr_db(SIGNAL, 2 * SIGNAL) == 0  # a wrong scale is seen
    assert sqnr_db(SIGNAL, SIGNAL.copy()) == math.inf
    assert sqnr_db(np.zeros(4), SIGNAL) == -math.inf


def test_psnr() -> None:
    off = SIGNAL + np.float32(0.06)
    assert psnr_db(SIGNAL, off) == pytest.approx(40, abs=1e-4)  # range 6, error 0.06
    assert psnr_db(SIGNAL, off, peak=0.6) == pytest.approx(20, abs=1e-4)
    assert psnr_db(SIGNAL, SIGNAL.copy()) == math.inf


@pytest.mark.parametrize("metric", [sqnr_db, psnr_db])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_has_no_decibels(metric: object, bad: float) -> None:
    assert callable(metric)
    broken = np.array([3, bad, 1, 5], np.float32)
    assert math.isnan(metric(SIGNAL, broken))
    assert math.isnan(metric(broken, SIGNAL))


@pytest.mark.parametrize("metric", [sqnr_db, psnr_db])
def test_shapes_must_agree(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(InputMismatchError, match=r"shape \(2, 2\), the reference \(4,\)"):
        metric(SIGNAL, SIGNAL.reshape(2, 2))
