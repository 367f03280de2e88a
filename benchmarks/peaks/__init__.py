"""What this machine can do at most, measured: the denominators of every floor.

A small C++ program (``peaks.cc``) is compiled by g++ on its first use, into ``build/peaks``, and
run each time: a virtual machine's speed is not the same tomorrow.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("peaks.cc")
BUILD = Path(__file__).resolve().parents[2] / "build" / "peaks"
COMPILE = ("-O2", "-std=c++17", "-Wall", "-Wextra", "-pthread")


class PeaksError(Exception):
    """Why the peaks of this machine cannot be measured."""


@dataclass(frozen=True)
class Peaks:
    """Rates of all threads together, in units a second; None where the CPU lacks the instruction.

    A multiplication and its addition count as two operations.

    Attributes
    ----------
    threads : that ran at once, one a core.
    l1_bytes, l2_bytes, l3_bytes : sizes of the caches, the first two of one core.
    float32, float32_ymm : fused multiply-adds of the widest registers, and of ymm.
    bfloat16 : ``vdpbf16ps`` zmm.
    vnni, avx_vnni : ``vpdpbusd`` zmm, and as AVX-VNNI has it, ymm.
    avx2 : ``vpmaddwd`` ymm, and the ``vpaddd`` that has to follow it.
    amx : ``tdpbssd``, the tiles of both operands loaded from L1.
    l1, l2, l3, memory : bytes read from there; L3 may be shared with other machines.
    l3_core_bytes : of L3, what a thread gets to itself.
    """

    threads: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    float32: float
    bfloat16: float | None
    vnni: float | None
    avx2: float
    amx: float | None
    l1: float
    l2: float
    l3: float
    memory: float
    # Last, since results of before have none.
    float32_ymm: float | None = None
    avx_vnni: float | None = None
    l3_core_bytes: int | None = None

    def int8(self, isa: str) -> float:
        """Operations a second of int8 products: the best there is, with AMX if isa is "best"."""
        amx = self.amx if isa == "best" else None
        return amx or self.vnni or self.avx2

    def product(self, kind: str, isa: str) -> float:
        """Operations a second of products of a kind: "int8", "float32" or "bfloat16"."""
        if kind == "int8":
            return self.int8(isa)
        # Where vdpbf16ps is slow, float32 products of widened numbers are the better way.
        return max(self.float32, self.bfloat16 or 0.0) if kind == "bfloat16" else self.float32

    def bandwidth(self, nbytes: float) -> float:
        """Bytes a second that can be read again and again from so many bytes in all."""
        levels = (
            (self.l1_bytes * self.threads, self.l1),
            (self.l2_bytes * self.threads, self.l2),
            (self.l3_bytes, self.l3),
        )
        return next((rate for size, rate in levels if nbytes <= size), self.memory)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)


def measure(threads: int) -> Peaks:
    """Measure with so many threads at once; it takes some seconds.

    Raises
    ------
    PeaksError
        If there is no g++, or the CPU is not known to the program.
    """
    program = build()
    done = subprocess.run([program, str(threads)], capture_output=True, text=True)
    if done.returncode:
        raise PeaksError(f"{program.name} {threads}: {done.stderr.strip() or done.returncode}")
    return Peaks(**json.loads(done.stdout))


def build() -> Path:
    """Compile the program unless it is there already, and return its path.

    Raises
    ------
    PeaksError
        If there is no g++ or it fails.
    """
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(COMPILE).encode()).hexdigest()[:16]
    program = BUILD / f"peaks-{key}"
    if program.exists():
        return program
    BUILD.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    try:
        done = subprocess.run(
            ["g++", *COMPILE, str(SOURCE), "-o", str(unfinished)], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise PeaksError("there is no g++; on Debian or Ubuntu: apt-get install g++") from error
    if done.returncode:
        raise PeaksError(f"g++ cannot compile {SOURCE.name}:\n{done.stderr}")
    unfinished.replace(program)
    return program
