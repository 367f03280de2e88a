"""Peaks of a machine that is made up, for the arithmetic of floors."""

from __future__ import annotations

from benchmarks.peaks import Peaks

PEAKS = Peaks(
    threads=2,
    l1_bytes=1 << 10,
    l2_bytes=1 << 20,
    l3_bytes=1 << 30,
    float32=200e9,
    bfloat16=100e9,
    vnni=800e9,
    avx2=150e9,
    amx=None,
    l1=400e9,
    l2=200e9,
    l3=50e9,
    memory=20e9,
)
