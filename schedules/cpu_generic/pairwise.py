"""The sums of a vector's lanes added up pairwise, without a loop.

A loop over lanes waits for each addition before the next one: 64 of them take as long as the sums
of a row of a few thousand elements.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir import SBlock, SBlockRealize

from .access import block_info
from .reshape import REDUCERS
from .rewrite import with_body

_ANNOTATION = "wq.pairwise"
# Lanes of the widest row of sums, which `split.row_width` makes: four vectors of AVX-512.
_MOST = 64


def mark_pairwise(sch: s_tir.Schedule, block: Any, loop: Any) -> None:
    """Have `add_pairwise` replace a loop over the only summed axis of a block, if it can."""
    info = block_info(sch.get(block))
    extents = [info.extents[axis] for axis in info.reduced()]
    if len(extents) != 1 or extents[0] > _MOST or extents[0] & (extents[0] - 1):
        return
    store = info.node.body
    if not isinstance(store, tirx.BufferStore) or not isinstance(store.value, REDUCERS):
        return
    total, lane = store.value.a, store.value.b
    if not isinstance(total, ir.TensorLoad) or not total.source.same_as(store.buffer):
        return
    if isinstance(lane, ir.TensorLoad) and lane.indices[-1].same_as(
        info.variables[info.reduced()[0]]
    ):
        sch.annotate(loop, _ANNOTATION, True)


def add_pairwise(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return the function with all marked loops replaced."""

    def replace(loop: Any) -> Any:
        if _ANNOTATION not in loop.annotations:
            return loop
        return tvm_ffi.structural_map(loop.body, (SBlockRealize, _in_pairs))

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, replace)))


def _in_pairs(realize: Any) -> Any:
    block = realize.block
    axes = list(zip(block.iter_vars, realize.iter_values, strict=True))
    (lane,) = (axis for axis, _ in axes if axis.iter_type == tirx.IterVar.CommReduce)
    kept = [(axis, value) for axis, value in axes if not axis.same_as(lane)]
    store = block.body
    dtype = lane.var.ty.dtype
    lanes = int(lane.dom.extent)
    ramp = tirx.Ramp(tirx.const(0, dtype), tirx.const(1, dtype), lanes)
    load = store.value.b
    value = tirx.BufferLoad(load.source, [*load.indices[:-1], ramp])
    value = _folded(value, lanes, type(store.value))
    body = tirx.BufferStore(store.buffer, value, store.indices)
    bare = SBlock([axis for axis, _ in kept], [], [], block.name_hint, body)
    return SBlockRealize([value for _, value in kept], True, with_body(bare, body))


def _folded(vector: Any, lanes: int, operator: Any) -> Any:
    if lanes == 1:
        return vector
    half = lanes // 2
    variable = tirx.Var("vector", vector.ty)
    both = operator(part_of(variable, 0, half), part_of(variable, half, half))
    return tirx.Let(variable, vector, _folded(both, half, operator))


def part_of(vector: Any, start: int, lanes: int) -> Any:
    """Some lanes of a vector."""
    return tirx.Shuffle([vector], [tirx.const(start + i, "int32") for i in range(lanes)])
