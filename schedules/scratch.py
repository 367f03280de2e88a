"""A stage that is needed a register block at a time, in memory that a task asks for once.

TVM allocates a buffer in the innermost loop that uses it, and what takes more than a kilobyte it
asks the runtime for, each time: a register block would wait for that as long as for its products.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.ir.expr import TensorLoad, TensorRegion
from tvm.s_tir.stmt import SBlock, SBlockRealize

from .prefetch import TASKS


def kept_by_tasks(function: tirx.PrimFunc, name: str, shape: tuple[int, int]) -> tirx.PrimFunc:
    """Keep one register block (pixel, channel) of a stage (..., pixel, channel) for each task.

    Register blocks are aligned to so many channels. The loops over tasks are those that are marked,
    and lose their mark.
    """
    root = function.body.block
    (whole,) = (buffer for buffer in root.alloc_buffers if buffer.name == name)
    scratch = tirx.decl_buffer(shape, whole.ty.dtype, name)

    def place(indices: Any) -> list[Any]:
        *_, pixel, channel = indices
        return [pixel, tirx.floormod(channel, shape[1])]

    def load(node: Any) -> Any:
        if not node.source.same_as(whole):
            return node
        return tirx.BufferLoad(scratch, place(node.indices))

    def store(node: tirx.BufferStore) -> Any:
        if not node.buffer.same_as(whole):
            return node
        return tirx.BufferStore(scratch, node.value, place(node.indices))

    def region(node: Any) -> Any:
        if not node.source.same_as(whole):
            return node
        *_, pixel, channel = node.region
        ranges = [
            ir.Range.from_min_extent(at, each.extent)
            for at, each in zip(place([pixel.min, channel.min]), (pixel, channel), strict=True)
        ]
        return tirx.BufferRegion(scratch, ranges)

    def tasks(loop: tirx.For) -> Any:
        if TASKS not in loop.annotations:
            return loop
        unmarked = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, loop.body)
        return with_scratch(unmarked, scratch)

    moved = tvm_ffi.structural_map(
        root.body,
        [(TensorLoad, load), (tirx.BufferStore, store), (TensorRegion, region)],
    )
    body = tvm_ffi.structural_map(moved, (tirx.For, tasks))
    kept = [buffer for buffer in root.alloc_buffers if not buffer.same_as(whole)]
    block = SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init, kept,
        root.match_buffers, root.annotations,
    )  # fmt: skip
    return function.with_body(SBlockRealize([], True, block))


def with_scratch(loop: tirx.For, scratch: Any) -> tirx.For:
    """The loop with a buffer that is allocated once in its body, as it is used there, too."""
    body = tirx.SeqStmt([*kept_whole(scratch), loop.body])
    block = SBlock([], [], [], "scratch", body, alloc_buffers=[scratch])
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, SBlockRealize([], True, block),
        annotations=loop.annotations,
    )  # fmt: skip


def kept_whole(scratch: Any) -> list[Any]:
    """Set a buffer's first and last value: of what TVM sees no use, it allocates no memory.

    It does not see what a tile register is stored to.
    """
    zero = tirx.const(0, scratch.ty.dtype)
    corners = [[0] * len(scratch.shape), [int(extent) - 1 for extent in scratch.shape]]
    return [
        tirx.BufferStore(scratch, zero, [tirx.const(at, "int64") for at in corner])
        for corner in corners
    ]
