"""Peaks of machines: those of the table, and those of a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wqtvm.errors import ConfigError
from wqtvm.target import TABLE, lookup
from wqtvm.target.machine import measured_machine

VNNI = lookup("wq/x86-vnni").machine
PEAKS: dict[str, Any] = {
    "threads": 1, "l1_bytes": 1 << 15, "l2_bytes": 1 << 20, "l3_bytes": 1 << 28,
    "l3_core_bytes": 1 << 23, "float32": 100e9, "float32_ymm": 50e9, "bfloat16": None,
    "vnni": 400e9, "avx_vnni": 200e9, "avx2": 90e9, "amx": None, "l1": 200e9, "l2": 100e9,
    "l3": 20e9, "memory": 10e9,
}  # fmt: skip


def write(folder: Path, *measurements: object) -> Path:
    path = folder / "peaks.json"
    path.write_text(json.dumps(measurements))
    return path


def test_every_target_says_where_its_peaks_are_from() -> None:
    for record in TABLE:
        machine = record.machine
        assert machine.source
        assert machine.l1_gbps >= machine.l2_gbps >= machine.l3_gbps >= machine.memory_gbps
        assert machine.l1_bytes <= machine.l2_bytes <= machine.l3_bytes
        assert (machine.tile_gops is None) == (machine.tile_dot == "")
        assert (machine.bfloat16_gflops is None) == (machine.bfloat16 == "")


def test_a_file_gives_the_rates_of_a_core_that_the_target_uses(tmp_path: Path) -> None:
    two = {**PEAKS, "threads": 2, "vnni": 600e9}
    path = write(tmp_path, PEAKS, two)
    found = measured_machine(VNNI, path, threads=1)
    assert (found.source, found.dot_gops, found.float32_gflops) == (str(path), 400, 100)
    assert (found.l2_gbps, found.l3_gbps, found.memory_gbps) == (100, 20, 10)
    assert (found.l1_bytes, found.l2_bytes, found.l3_bytes) == (1 << 15, 1 << 20, 1 << 23)
    assert measured_machine(VNNI, path, threads=3).dot_gops == 300
    ymm = measured_machine(lookup("wq/x86-avx-vnni").machine, path, 1)
    assert (ymm.dot_gops, ymm.float32_gflops) == (200, 50)
    path = write(tmp_path, {**PEAKS, "bfloat16": 90e9})
    assert measured_machine(lookup("wq/x86-bf16").machine, path, 1).bfloat16_gflops == 90


def test_the_fewest_threads_count_where_there_are_no_fewer(tmp_path: Path) -> None:
    path = write(tmp_path, {**PEAKS, "threads": 4})
    assert measured_machine(VNNI, path, threads=1).dot_gops == 100


def test_what_a_file_lacks_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, PEAKS)
    with pytest.raises(ConfigError, match="amx is None; the target needs it"):
        measured_machine(lookup("wq/x86-amx").machine, path, 1)
    with pytest.raises(ConfigError, match="bfloat16 is None; the target needs it"):
        measured_machine(lookup("wq/x86-bf16").machine, path, 1)
    with pytest.raises(ConfigError, match="No such file"):
        measured_machine(VNNI, tmp_path / "absent.json", 1)
    for text in ("{", "{}", "[]", "[3]"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"peaks .*write "):
            measured_machine(VNNI, path, 1)
    for value in (0, -1.0, "much", True, float("nan")):
        with pytest.raises(ConfigError, match="memory is"):
            measured_machine(VNNI, write(tmp_path, {**PEAKS, "memory": value}), 1)


def test_peaks_are_positive() -> None:
    with pytest.raises(ConfigError, match="dot_gops is 0"):
        replace(VNNI, dot_gops=0)
    with pytest.raises(ConfigError, match="l3_gbps is inf"):
        replace(VNNI, l3_gbps=float("inf"))


def test_bytes_are_read_from_the_levels_that_hold_them() -> None:
    machine = replace(VNNI, l2_bytes=2_000_000, l3_bytes=10_000_000, l2_gbps=100, l3_gbps=10,
                      memory_gbps=1)  # fmt: skip
    assert machine.reading_ms(0) == 0
    assert machine.reading_ms(1e6) == pytest.approx(0.01)
    assert machine.reading_ms(10e6) == pytest.approx(0.01 + 0.9)
    assert machine.reading_ms(11e6) == pytest.approx(0.01 + 0.9 + 1)
