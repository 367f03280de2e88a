"""Elementwise and injective stages moved into the stages that read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

from .access import BlockInfo, NotAnalysableError, axes_in_values, block_info

# Cheap arithmetic may be repeated so often rather than be stored and loaded again.
_REPEATED_CHEAP = 4
# Padding behind padding, say: what is read is a little more than what there is.
_REPEATED_PADDING = 2
# Channels, say: one vector of the widest.
_SHORTEST_RUN = 16

# Calls that cost no more than an addition; exp, sqrt, erf and so on are not among them.
_CHEAP_CALLS = frozenset(
    {"prim.if_then_else", "tirx.likely", "tirx.round", "tirx.floor", "tirx.ceil", "tirx.fabs"}
)


def inline_stages(function: tirx.PrimFunc) -> s_tir.Schedule:
    """Return a schedule of the function in which every stage that may be is inlined.

    What stays: reductions, results, padding that a window reads several times, and expensive
    expressions that would be evaluated more often than once an element.
    """
    sch = s_tir.Schedule(function)
    for block in top_blocks(sch):
        if _may_inline(sch, block):
            try:
                sch.compute_inline(block)
            except s_tir.ScheduleError:
                continue  # It stays a stage of its own, which is right too.
    return sch


def top_blocks(sch: s_tir.Schedule) -> list[Any]:
    """Return the blocks of a function in the order they run."""
    root = sch.get_sblock("root")
    return list(sch.get_child_blocks(root))


def is_padding(info: BlockInfo) -> bool:
    """Say whether a block stores a value that depends on where it is."""
    found: list[Any] = []

    def on_call(call: Any) -> None:
        if call.op.name == "prim.if_then_else":
            found.append(call)

    tvm_ffi.structural_walk(info.node.body, [(ir.Call, on_call), (tirx.Select, found.append)])
    return bool(found)


def _may_inline(sch: s_tir.Schedule, block: Any) -> bool:
    try:
        info = block_info(sch.get(block))
        consumers = [block_info(sch.get(consumer)) for consumer in sch.get_consumers(block)]
    except NotAnalysableError:
        return False
    if info.is_reduction or not consumers or len(info.writes) != 1:
        return False
    if _is_plain_copy(info):
        return True
    repeats = sum(_reads_of(info, consumer) for consumer in consumers) / math.prod(info.extents)
    if _is_expensive(info):
        same_place = all(not c.is_reduction and c.size <= info.size for c in consumers)
        return same_place or repeats <= 1
    if is_padding(info):
        if all(not consumer.is_reduction for consumer in consumers):
            return repeats <= _REPEATED_PADDING
        return repeats <= 1 or _pads_whole_vectors(info, consumers)
    return repeats <= _REPEATED_CHEAP or all(not c.is_reduction for c in consumers)


def _pads_whole_vectors(info: BlockInfo, consumers: Sequence[BlockInfo]) -> bool:
    """Say whether a window reads either padding or none in a vector: a branch is all it costs.

    Pooling and depthwise convolutions of NHWC images are such: a copy of the image with its padding
    takes longer than they do. Where neighbours are summed, as in other convolutions, it is read
    more often, and packed.
    """
    last = len(info.extents) - 1
    if info.extents[last] < _SHORTEST_RUN or last in axes_in_values(info):
        return False
    reads = [
        (consumer, read)
        for consumer in consumers
        for read in consumer.reads
        if read.buffer.same_as(info.writes[0].buffer)
    ]
    return all(
        read.strides is not None
        and not any(read.strides[axis] == 1 for axis in consumer.reduced())
        and any(read.strides[axis] == 1 for axis in consumer.spatial())
        for consumer, read in reads
    )


def _reads_of(info: BlockInfo, consumer: BlockInfo) -> int:
    written = info.writes[0].buffer
    return consumer.size * sum(bool(read.buffer.same_as(written)) for read in consumer.reads)


def _is_plain_copy(info: BlockInfo) -> bool:
    return isinstance(info.node.body, tirx.BufferStore) and isinstance(
        info.node.body.value, ir.TensorLoad
    )


def is_expensive_node(node: Any) -> bool:
    """Say whether an operator costs many times what an addition does."""
    if isinstance(node, ir.Call):
        return node.op.name not in _CHEAP_CALLS
    return isinstance(node, tirx.Div) and str(node.ty.dtype).startswith("float")


def _is_expensive(info: BlockInfo) -> bool:
    found: list[Any] = []

    def visit(node: Any) -> None:
        if is_expensive_node(node):
            found.append(node)

    tvm_ffi.structural_walk(info.node.body, [(ir.Call, visit), (tirx.Div, visit)])
    return bool(found)
