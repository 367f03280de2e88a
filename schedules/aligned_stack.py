"""Tasks whose stack is aligned to vector registers.

What does not fit the registers is spilled to the stack, which is aligned to 16 bytes only, unless
a variable on it asks for more: a vector of 64 bytes then lies on two cache lines, and now and then
on two pages, wherever a thread's stack happens to begin. So each task gets a variable that does.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx

from .prefetch import fetch
from .scratch import with_scratch

_OWN_LANES = 4  # of float32, to which a stack is aligned in any case


def with_aligned_stack(function: tirx.PrimFunc, lanes: int) -> tirx.PrimFunc:
    """Align the stack of the tasks of each parallel loop to vectors of so many float32 lanes."""

    def task(loop: tirx.For) -> Any:
        # Of one task TVM makes no function of its own, and two such variables one of another dtype.
        if loop.kind != tirx.ForKind.PARALLEL or int(loop.extent) == 1:
            return loop
        # TVM aligns buffers on the stack to 16 bytes, but for those of vectors; no other one is of
        # this dtype, so it does not put them in one place.
        vector = tirx.decl_buffer((1,), f"int64x{lanes // 2}", "aligned")
        # Whose address is taken remains a variable.
        kept = fetch(tirx.BufferLoad(vector, [tirx.const(0, "int64")]))
        body = tirx.SeqStmt([kept, loop.body])
        return with_scratch(
            tirx.For(
                loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations
            ),
            vector,
        )

    if lanes <= _OWN_LANES:
        return function
    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, task)))
