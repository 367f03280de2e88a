"""What the schedules of all CPU operators do with loops and blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import s_tir

from .amax import amax_intrinsic

# Channels below which a largest magnitude is looked for one by one. TVM cannot match the intrinsic
# for 4 of them where there are 4 rows, too.
_LEAST_VECTOR = 8
# Channels that are looked at as one vector: LLVM takes minutes to compile one of a thousand.
_LARGEST_VECTOR = 64


def inline_epilogue(sch: s_tir.Schedule, output: Any) -> Any:
    """Move the elementwise operators behind a block into it, and what they take from elsewhere."""
    consumers = sch.get_consumers(output)
    while consumers:
        inner = [block for block in consumers if sch.get_consumers(block)]
        for block in inner:
            sch.compute_inline(block)
        if not inner:
            (last,) = consumers
            while beside := [p for p in sch.get_producers(last) if not _same(sch, p, output)]:
                for block in beside:
                    sch.compute_inline(block)
            sch.reverse_compute_inline(last)
        consumers = sch.get_consumers(output)
    return output


def _same(sch: s_tir.Schedule, block: Any, other: Any) -> bool:
    return bool(sch.get_sref(block).same_as(sch.get_sref(other)))


def unroll_and_vectorize(sch: s_tir.Schedule, loops: Sequence[Any]) -> None:
    """Vectorize the innermost loop, as wide as a vector, and unroll the others."""
    *outer, lane = loops
    for loop in outer:
        sch.unroll(loop)
    sch.vectorize(lane)


def largest_of_channels(sch: s_tir.Schedule, block: Any, reduced: Sequence[Any]) -> None:
    """Reduce the channels, the innermost of the reduced loops, vector by vector."""
    channels = int(sch.get(reduced[-1]).extent)
    sch.decompose_reduction(block, reduced[0])
    count = max(n for n in range(1, min(channels, _LARGEST_VECTOR) + 1) if channels % n == 0)
    inner = reduced[-1] if count == channels else sch.split(reduced[-1], [None, count])[1]
    if count < _LEAST_VECTOR:
        sch.unroll(inner)
    else:
        sch.tensorize(inner, amax_intrinsic(count))
