"""The peak meter builds, runs, and its arithmetic."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace

import pytest
from benchmark_peaks import PEAKS
from benchmarks.peaks import measure
from benchmarks.peaks.__main__ import table

from wqtvm.runtime.cpu import cpu_features


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="peaks.cc knows x86-64 only")
def test_it_measures_what_the_cpu_has() -> None:
    peaks = measure(1)
    assert (peaks.vnni is not None) == ("avx512_vnni" in cpu_features())
    assert (peaks.amx is not None) == ("amx_int8" in cpu_features())
    assert 1e9 < peaks.float32 < 1e13
    assert peaks.l1 > peaks.memory > 1e8


def test_the_best_int8_product_is_chosen() -> None:
    assert PEAKS.int8("best") == 800e9
    amx = replace(PEAKS, amx=8e12)
    assert (amx.int8("best"), amx.int8("vnni")) == (8e12, 800e9)
    assert replace(PEAKS, vnni=None).int8("vnni") == 150e9
    assert PEAKS.product("bfloat16", "best") == 200e9  # float32 is faster here


def test_bandwidth_is_that_of_the_smallest_cache_that_fits() -> None:
    sizes = (2 << 10, (2 << 10) + 1, 2 << 20, 1 << 30, (1 << 30) + 1)  # L1 and L2: of two cores
    assert [PEAKS.bandwidth(size) for size in sizes] == [400e9, 200e9, 200e9, 50e9, 20e9]


def test_the_table_is_of_one_core() -> None:
    text = "\n".join(table([PEAKS]))
    assert "| vpdpbusd zmm | 400 | GOPS |" in text
    assert "| tdpbssd, tiles from L1 | absent | GOPS |" in text
