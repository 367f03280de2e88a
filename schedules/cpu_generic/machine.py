"""What the generic schedules know of a CPU: its vectors and what its caches may hold."""

from __future__ import annotations

from dataclasses import dataclass

import tvm.target

# Vector registers by float32 lanes: AVX-512 has 32, AVX2 16, NEON 32.
_REGISTERS = {16: 32, 8: 16, 4: 32}

# Two thirds of the smallest L2 cache by float32 lanes: 1 MB with AVX-512, otherwise 512 KB.
_L2_BYTES = {16: 680 * 1024, 8: 320 * 1024, 4: 320 * 1024}

# Every 64-bit CPU has vectors of 128 bits; a target that is none of ours gets no more than that.
_LANES_OF_UNKNOWN = 4


@dataclass(frozen=True)
class Machine:
    """The budget of a schedule.

    Attributes
    ----------
    lanes : float32 values of a vector register.
    registers : vector registers.
    l1_bytes, l2_bytes : what one task may keep in a core's caches; two thirds of the smallest that
        CPUs with such vectors have, so that the other streams of a loop have room.
    tasks : the least number of parallel tasks that keeps the threads evenly busy.
    parallel_elements : work below this many vector elements is not worth waking threads.
    """

    lanes: int
    registers: int
    l1_bytes: int = 20 * 1024
    l2_bytes: int = 320 * 1024
    tasks: int = 16
    parallel_elements: int = 32 * 1024


def machine_of(target: tvm.target.Target) -> Machine:
    """Return the budget of a target: its record's lanes, or 128-bit vectors if it has no record."""
    # Imported here: the schedules know no target by name, they only ask for its vectors.
    from wqtvm.errors import UnknownTargetError
    from wqtvm.target import record_of

    try:
        lanes = record_of(target).vector_lanes
    except UnknownTargetError:
        lanes = _LANES_OF_UNKNOWN
    return Machine(lanes=lanes, registers=_REGISTERS[lanes], l2_bytes=_L2_BYTES[lanes])
