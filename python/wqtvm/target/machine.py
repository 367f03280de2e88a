"""What one core can do at most: the rates and sizes that predicted times are made of."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError

_GIGA, _MEGA = 1e9, 1e6


@dataclass(frozen=True)
class Machine:
    """Peaks of one core, and what its caches hold for it.

    Attributes
    ----------
    source : where the numbers are from.
    dot, tile_dot, float32, bfloat16 : names of the rates of the dot product, of that of
        two-dimensional registers, of float32 multiply-adds and of dot products of bfloat16 in
        vectors among what ``python -m benchmarks.peaks --json`` measures; "" where there are none.
    dot_gops, tile_gops, float32_gflops, bfloat16_gflops : the rates, 1e9 operations a second; a
        multiplication and its addition are two. None where there are none.
    l1_gbps, l2_gbps, l3_gbps, memory_gbps : 1e9 bytes a second read from there.
    l1_bytes, l2_bytes, l3_bytes : sizes; of an L3 that is shared what a core gets of it.
    cores : that work at once whatever the threads of the host, on a device; None: threads do.

    Raises
    ------
    ConfigError
        If a rate or a size is not positive.
    """

    source: str
    dot: str
    float32: str
    dot_gops: float
    float32_gflops: float
    l1_gbps: float
    l2_gbps: float
    l3_gbps: float
    memory_gbps: float
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    tile_dot: str = ""
    tile_gops: float | None = None
    cores: int | None = None
    bfloat16: str = ""
    bfloat16_gflops: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"machine ({self.source}): {field.name} is {value}; give more")

    def reading_ms(self, nbytes: float) -> float:
        """Milliseconds to read so many bytes that are read again and again.

        Each level gives what it holds of them, and the memory the rest, as where the places of a
        cache are given away by chance: no bytes more ever take less time.
        """
        # Half of L2, since what is computed from them passes through it, too.
        levels = (
            (self.l2_bytes / 2, self.l2_gbps),
            (self.l3_bytes, self.l3_gbps),
            (math.inf, self.memory_gbps),
        )
        held, ms = 0.0, 0.0
        for size, gbps in levels:
            part = max(0.0, min(nbytes, size) - held)
            held, ms = held + part, ms + part / (gbps * _MEGA)
        return ms


def measured_machine(machine: Machine, path: str | Path, threads: int) -> Machine:
    """The machine with the peaks of a file instead of its own.

    Parameters
    ----------
    path : of JSON, as ``python -m benchmarks.peaks --json`` writes it: a list of measurements, of
        which that with the most threads up to ``threads`` counts (or else the first).

    Raises
    ------
    ConfigError
        If there is no such file, or it lacks a rate that the machine needs.
    """
    try:
        document = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"peaks {path}: {error}; write the file by python -m benchmarks.peaks --json {path}"
        ) from error
    if not (isinstance(document, list) and document and all(isinstance(m, dict) for m in document)):
        raise ConfigError(f"peaks {path}: no list of measurements; write it again")
    usable = [m for m in document if _number(path, m, "threads") <= threads] or document[:1]
    peaks = max(usable, key=lambda m: _number(path, m, "threads"))

    def rate(name: str) -> float:
        return _number(path, peaks, name) / _number(path, peaks, "threads") / _GIGA

    return replace(
        machine,
        source=str(path),
        dot_gops=rate(machine.dot),
        tile_gops=rate(machine.tile_dot) if machine.tile_dot else None,
        float32_gflops=rate(machine.float32),
        bfloat16_gflops=rate(machine.bfloat16) if machine.bfloat16 else None,
        l1_gbps=rate("l1"),
        l2_gbps=rate("l2"),
        l3_gbps=rate("l3"),
        memory_gbps=rate("memory"),
        l1_bytes=int(_number(path, peaks, "l1_bytes")),
        l2_bytes=int(_number(path, peaks, "l2_bytes")),
        l3_bytes=int(_number(path, peaks, "l3_core_bytes")),
    )


def _number(path: str | Path, peaks: dict[str, Any], name: str) -> float:
    value = peaks.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(
            f"peaks {path}: {name} is {value!r}; the target needs it: measure on a machine that "
            "has it, or leave the file out"
        )
    return float(value)
