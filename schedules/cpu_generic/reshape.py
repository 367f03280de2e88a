"""A stage's axes joined or cut, so that its innermost loop is made of whole vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.s_tir import SBlock

from .access import BlockInfo, axes_in_values, block_info
from .rewrite import (
    nest_of,
    replace_nest,
    stages,
    substitute,
    uses_variable,
    with_body,
    with_buffers,
)

REDUCERS = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)


def stage_info(function: tirx.PrimFunc, name: str) -> BlockInfo:
    """Return what is known of the stage ``name``.

    Raises
    ------
    NotAnalysableError
        If it is outside of what the schedules understand.
    """
    sch = s_tir.Schedule(function)
    return block_info(sch.get(sch.get_sblock(name)))


def join_axes(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """Return the function with axes of a stage joined that run through memory as one.

    An access gets its offset as the last index, with zeros before. Loops that are fused by the
    schedule instead leave quotients and remainders in the indices, which the simplifier does not
    always cancel, and then a vector is gathered lane by lane. Buffers inside of the function keep
    their indices, since their shape may still be shrunk to what is accessed.

    Raises
    ------
    NotAnalysableError
        If the stage is outside of what the schedules understand.
    """
    info = stage_info(function, name)
    inside = function.body.block.alloc_buffers
    groups = _joined_axes(info, inside)
    if len(groups) == len(info.extents):
        return function
    variables = [tirx.Var(f"v{i}", info.variables[0].ty.dtype) for i in range(len(groups))]
    values = {
        info.variables[axis]: variable if len(group) == 1 else tirx.const(0, variable.ty.dtype)
        for group, variable in zip(groups, variables, strict=True)
        for axis in group
    }

    joined = [info.variables[axis] for group in groups if len(group) > 1 for axis in group]

    def indices(buffer: Any, old: Sequence[Any]) -> list[Any]:
        kept = any(buffer.same_as(b) for b in inside)
        if kept or not any(uses_variable(index, joined) for index in old):
            return [substitute(index, values) for index in old]
        access = next(
            a
            for a in (*info.reads, *info.writes)
            if a.buffer.same_as(buffer) and tvm_ffi.structural_equal(a.indices, tuple(old))
        )
        assert access.strides is not None
        offset = tirx.const(access.origin, variables[0].ty.dtype)
        for group, variable in zip(groups, variables, strict=True):
            offset = offset + variable * access.strides[group[-1]]
        return [*(tirx.const(0, offset.ty.dtype) for _ in old[1:]), offset]

    def on_load(load: Any) -> Any:
        return tirx.BufferLoad(load.source, indices(load.source, load.indices))

    def on_store(store: Any) -> Any:
        return tirx.BufferStore(store.buffer, store.value, indices(store.buffer, store.indices))

    def rewritten(statement: Any) -> Any:
        if statement is None:
            return None
        callbacks = [(ir.TensorLoad, on_load), (tirx.BufferStore, on_store)]
        return substitute(tvm_ffi.structural_map(statement, callbacks), values)

    nest = nest_of(
        name,
        variables,
        [math.prod(info.extents[axis] for axis in group) for group in groups],
        rewritten(info.node.body),
        reductions=[info.reductions[group[0]] for group in groups],
        init=rewritten(info.node.init),
    )
    return replace_nest(function, name, nest)


def join_results(function: tirx.PrimFunc, name: str, outer: int, inner: int) -> tirx.PrimFunc:
    """Return the function with two result axes of a stage joined, and its results' last two axes.

    The stage has to write to buffers inside of the function, with these two axes last, and to read
    none. The function is returned as it is if that, or the memory that is read, does not allow it.
    """
    info = stage_info(function, name)
    inside = function.body.block.alloc_buffers
    pair = (info.variables[outer], info.variables[inner])
    size = info.extents[inner]
    written = {write.buffer: _merged(write.buffer, size) for write in info.writes}
    plain = all(
        len(w.indices) >= 2 and w.indices[-2].same_as(pair[0]) and w.indices[-1].same_as(pair[1])
        for w in info.writes
    )
    own = all(any(b.same_as(i) for i in inside) for b in written)
    linear = all(
        a.exact and a.strides is not None and a.strides[outer] == a.strides[inner] * size
        for a in info.reads
    )
    if not plain or not own or not linear or any(r.buffer in inside for r in info.reads):
        return function
    joined = tirx.Var("joined", pair[0].ty.dtype)
    kept = [axis for axis in range(len(info.extents)) if axis not in (outer, inner)]
    zero = {variable: tirx.const(0, variable.ty.dtype) for variable in pair}

    def on_load(load: Any) -> Any:
        if load.source in written:
            return tirx.BufferLoad(written[load.source], [*load.indices[:-2], joined])
        access = next(
            r
            for r in info.reads
            if r.buffer.same_as(load.source)
            and tvm_ffi.structural_equal(r.indices, tuple(load.indices))
        )
        assert access.strides is not None
        offset = joined * access.strides[inner] + access.origin
        for axis in kept:
            offset = offset + info.variables[axis] * access.strides[axis]
        zeros = [tirx.const(0, offset.ty.dtype) for _ in load.indices[1:]]
        return tirx.BufferLoad(load.source, [*zeros, offset])

    def on_store(store: Any) -> Any:
        indices = [*list(store.indices)[:-2], joined]
        return tirx.BufferStore(written[store.buffer], store.value, indices)

    def rewritten(statement: Any) -> Any:
        callbacks = [(ir.TensorLoad, on_load), (tirx.BufferStore, on_store)]
        return substitute(tvm_ffi.structural_map(statement, callbacks), zero)

    nest = nest_of(
        name,
        [*(info.variables[axis] for axis in kept), joined],
        [*(info.extents[axis] for axis in kept), info.extents[outer] * size],
        rewritten(info.node.body),
        reductions=[*(info.reductions[axis] for axis in kept), False],
        init=rewritten(info.node.init),
    )
    declared = with_buffers(function, [*inside, *written.values()])
    result = replace_nest(declared, name, nest)
    for other, _ in stages(result):
        if other != name:
            result = _read_merged(result, other, written, size)
    return with_buffers(result, [*(b for b in inside if b not in written), *written.values()])


def _merged(buffer: Any, size: int) -> Any:
    shape = list(buffer.shape)
    return tirx.decl_buffer([*shape[:-2], shape[-2] * size], buffer.ty.dtype, buffer.name)


def _read_merged(
    function: tirx.PrimFunc, name: str, merged: Mapping[Any, Any], size: int
) -> tirx.PrimFunc:
    def on_load(load: Any) -> Any:
        if load.source not in merged:
            return load
        *others, i, j = load.indices
        return tirx.BufferLoad(merged[load.source], [*others, i * size + j])

    def on_block(block: Any) -> Any:
        return with_body(block, tvm_ffi.structural_map(block.body, (ir.TensorLoad, on_load)))

    nest = dict(stages(function))[name]
    return replace_nest(function, name, tvm_ffi.structural_map(nest, (SBlock, on_block)))


def cut_axis(
    function: tirx.PrimFunc,
    name: str,
    axis: int,
    width: int,
    cut_buffers: Mapping[Any, Any] | None = None,
) -> tirx.PrimFunc | None:
    """Return the function with an axis cut into vectors; the last one overlaps the one before.

    The stage gets an axis of vectors and, last of all, one of the lanes in a vector. What it
    writes twice, it writes with the same value; what it sums is masked where it has been summed
    before. A stage must not write twice to a buffer inside of the function: TVM may give it the
    memory of the buffer that is read, and then the second value is made of the first.
    ``cut_buffers`` maps such buffers to others whose last axis is cut in the same way, so that
    each vector has its own place.

    None if the operator of a reduction is not known.
    """
    info = stage_info(function, name)
    extent = info.extents[axis]
    dtype = info.variables[axis].ty.dtype
    variables = [tirx.Var(v.name, v.ty.dtype) for v in info.variables]
    lane = tirx.Var("lane", dtype)
    start = variables[axis] * tirx.const(width, dtype)
    place = start + lane
    if extent % width:
        place = tirx.min(start, tirx.const(extent - width, dtype)) + lane
    values = dict(zip(info.variables, variables, strict=True))
    values[info.variables[axis]] = place
    buffers = cut_buffers or {}
    vector = tirx.Var("vector", dtype)
    values[vector] = variables[axis]

    def on_load(load: Any) -> Any:
        new = buffers.get(load.source)
        return load if new is None else tirx.BufferLoad(new, [*load.indices[:-1], vector, lane])

    def on_store(store: Any) -> Any:
        new = buffers.get(store.buffer)
        indices = [*list(store.indices)[:-1], vector, lane]
        return store if new is None else tirx.BufferStore(new, store.value, indices)

    callbacks = [(ir.TensorLoad, on_load), (tirx.BufferStore, on_store)]
    body = tvm_ffi.structural_map(info.node.body, callbacks)
    init = info.node.init
    if info.reductions[axis] and extent % width:
        body = _masked(body, init, info, place >= start)
        if body is None:
            return None
    nest = nest_of(
        name,
        [*variables, lane],
        [*(-(-extent // width) if i == axis else e for i, e in enumerate(info.extents)), width],
        substitute(body, values),
        reductions=[*info.reductions, info.reductions[axis]],
        init=None if init is None else substitute(init, values),
    )
    return replace_nest(function, name, nest)


def cut_rows(function: tirx.PrimFunc, extent: int, width: int) -> tirx.PrimFunc | None:
    """Return the function with the last axis of each of its stages cut into vectors.

    None if it cannot be, since a buffer inside of the function that is as long is not indexed by
    that axis.
    """
    cut: dict[str, int] = {}
    buffers: dict[Any, Any] = {}
    inside = function.body.block.alloc_buffers
    for name, _ in stages(function):
        info = stage_info(function, name)
        last = len(info.extents) - 1
        if info.extents[last] != extent:
            last = -1
        elif last in axes_in_values(info):
            return None
        else:
            cut[name] = last
        for access in (*info.reads, *info.writes):
            if not any(access.buffer.same_as(b) for b in inside) or not access.indices:
                continue
            if int(access.buffer.shape[-1]) != extent:
                continue
            if last < 0 or not access.indices[-1].same_as(info.variables[last]):
                return None
            shape = [*access.buffer.shape[:-1], -(-extent // width), width]
            if access.buffer not in buffers:
                buffers[access.buffer] = tirx.decl_buffer(
                    shape, access.buffer.ty.dtype, access.buffer.name
                )
    result = with_buffers(function, [*inside, *buffers.values()])
    for name, axis in cut.items():
        new = cut_axis(result, name, axis, width, buffers)
        if new is None:
            return None
        result = new
    return with_buffers(result, [*(b for b in inside if b not in buffers), *buffers.values()])


def _masked(body: Any, init: Any, info: BlockInfo, valid: Any) -> Any | None:
    """Return the body of a reduction that takes the start value where ``valid`` is false."""
    starts: dict[Any, Any] = {}

    def on_store(store: Any) -> None:
        starts[store.buffer] = store.value

    tvm_ffi.structural_walk(init, (tirx.BufferStore, on_store))
    replaced: list[Any] = []

    def on_reducer(node: Any) -> Any:
        if not isinstance(node.a, ir.TensorLoad) or node.a.source not in starts:
            return node
        replaced.append(node)
        return type(node)(node.a, tirx.Select(valid, node.b, starts[node.a.source]))

    masked = tvm_ffi.structural_map(body, (REDUCERS, on_reducer))
    return masked if len(replaced) == len(info.writes) else None


def _joined_axes(info: BlockInfo, inside: Sequence[Any]) -> list[list[int]]:
    """Return the axes in groups along which every access runs as along one axis."""
    accesses = [*info.reads, *info.writes]
    count = len(info.extents)
    named = axes_in_values(info)
    if not all(access.exact for access in accesses):
        return [[axis] for axis in range(count)]

    def joined(axis: int) -> bool:
        if axis in named or axis - 1 in named:
            return False
        if info.reductions[axis] != info.reductions[axis - 1]:
            return False
        if info.is_reduction and not info.reductions[axis]:
            return False  # rfactor copies the indices of a result to a buffer inside.
        for access in accesses:
            assert access.strides is not None
            outer, inner = access.strides[axis - 1], access.strides[axis]
            kept = any(access.buffer.same_as(b) for b in inside)
            if kept and (outer or inner):
                return False
            if info.extents[axis - 1] > 1 and outer != inner * info.extents[axis]:
                return False
        return True

    groups = [[0]] if count else []
    for axis in range(1, count):
        if joined(axis):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups
