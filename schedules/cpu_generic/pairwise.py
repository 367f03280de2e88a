"""The sums of a vector's lanes added up pairwise, without a loop.

A loop over lanes waits for each addition before the next one, which takes as long as hundreds of
vectors. Halves of the lanes added to each other are vector operations again, as LLVM sees.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir import SBlock, SBlockRealize

from .access import block_info
from .reshape import REDUCERS
from .rewrite import substitute, with_body

_ANNOTATION = "wq.pairwise"
# Lanes of the widest row of sums, which `split.row_width` makes: four vectors of AVX-512.
_MOST = 64


def mark_pairwise(sch: s_tir.Schedule, block: Any, loop: Any) -> None:
    """Have `add_pairwise` replace a loop over the only summed axis of a block, if it can."""
    info = block_info(sch.get(block))
    extents = [info.extents[axis] for axis in info.reduced()]
    store = info.node.body
    if len(extents) != 1 or extents[0] > _MOST or extents[0] & (extents[0] - 1):
        return
    if isinstance(store, tirx.BufferStore) and isinstance(store.value, REDUCERS):
        if isinstance(store.value.a, ir.TensorLoad) and store.value.a.source.same_as(store.buffer):
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
    operator = type(store.value)
    terms = [
        substitute(store.value.b, {lane.var: tirx.const(place, lane.var.ty.dtype)})
        for place in range(int(lane.dom.extent))
    ]
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [operator(a, b) for a, b in zip(terms[:half], terms[half:], strict=True)]
    body = tirx.BufferStore(store.buffer, terms[0], store.indices)
    bare = SBlock([axis for axis, _ in kept], [], [], block.name_hint, body)
    return SBlockRealize([value for _, value in kept], True, with_body(bare, body))
