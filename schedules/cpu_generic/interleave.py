"""Movements that interleave vectors, or take them apart: pixel shuffle and its inverse.

    pixel shuffle by 2, for each pixel:   64 values c0i0j0 c0i0j1 c0i1j0 c0i1j1 c1i0j0 ...
                                          to 4 places of 16 channels c0 c1 c2 ... each

Without this, one side is read, or written, value by value. Here both sides are whole vectors, and
what is between them are permutations of registers.

Budget: twice as many vectors as are interleaved, at most 16 registers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import ir, tirx

from .access import BlockInfo, NotAnalysableError, evaluate
from .machine import Machine
from .reshape import stage_info
from .rewrite import nest_of, replace_nest

# Vectors that are interleaved at most, and their least length.
_MOST = 8
_SHORTEST = 4

# Axes longer than this are not looked at, since each of their places is.
_LONGEST_AXIS = 4096


@dataclass(frozen=True)
class _Axis:
    """An axis, or the part of one, along which both offsets are linear."""

    name: str
    extent: int
    read: int
    write: int


def interleave(function: tirx.PrimFunc, name: str, machine: Machine) -> tirx.PrimFunc | None:
    """Return the function with a plain movement as permutations of vectors; None if it is none."""
    info = stage_info(function, name)
    store = info.node.body
    if not isinstance(store, tirx.BufferStore) or not isinstance(store.value, ir.TensorLoad):
        return None
    load = store.value
    inside = function.body.block.alloc_buffers
    if any(b.same_as(load.source) or b.same_as(store.buffer) for b in inside):
        return None  # Their shape may still be shrunk, and offsets would no longer be right.
    axes = _linear_axes(info, load, store)
    if axes is None:
        return None
    for read_whole in (True, False):
        found = _run(axes, read_whole)
        if found is None:
            continue
        small, long = found
        lanes = math.gcd(long.extent, machine.lanes)
        if lanes >= _SHORTEST:
            return _woven(function, info, axes, small, long, lanes, read_whole)
    return None


def _linear_axes(info: BlockInfo, load: Any, store: Any) -> list[_Axis] | None:
    """Return the stage's axes cut such that offsets are linear; None if they cannot be."""
    if not info.extents or max(info.extents) > _LONGEST_AXIS:
        return None
    axes: list[_Axis] = []
    digits: list[list[tuple[_Axis, int]]] = []
    try:
        for position, variable in enumerate(info.variables):
            zeros = {v: 0 for v in info.variables}
            places = range(info.extents[position])
            reads = [_offset(load.source, load.indices, {**zeros, variable: p}) for p in places]
            writes = [_offset(store.buffer, store.indices, {**zeros, variable: p}) for p in places]
            cut = _cut(variable.name, reads, writes)
            digits.append(cut)
            axes.extend(axis for axis, _ in reversed(cut))
        if reads[0] != 0 or writes[0] != 0:
            return None
        # Offsets of several axes may still depend on each other: look at their corners.
        for corner in itertools.product(*({0, extent // 2, extent - 1} for extent in info.extents)):
            values = dict(zip(info.variables, corner, strict=True))
            parts = [
                (axis, place // step % axis.extent)
                for place, cut in zip(corner, digits, strict=True)
                for axis, step in cut
            ]
            if _offset(load.source, load.indices, values) != sum(a.read * p for a, p in parts):
                return None
            if _offset(store.buffer, store.indices, values) != sum(a.write * p for a, p in parts):
                return None
    except NotAnalysableError:
        return None
    return axes


def _offset(buffer: Any, indices: Sequence[Any], values: dict[Any, int]) -> int:
    offset = 0
    for extent, index in zip(buffer.shape, indices, strict=True):
        offset = offset * int(extent) + int(evaluate(index, values))
    return offset


def _cut(name: str, reads: list[int], writes: list[int]) -> list[tuple[_Axis, int]]:
    """Return the digits of a place on an axis, the fastest first, each with its step."""
    found: list[tuple[_Axis, int]] = []
    step = 1
    while len(reads) > 1:
        read, write = reads[1] - reads[0], writes[1] - writes[0]
        extent = 2
        while (
            extent < len(reads)
            and reads[extent] == reads[0] + extent * read
            and writes[extent] == writes[0] + extent * write
        ):
            extent += 1
        if len(reads) % extent:
            raise NotAnalysableError(f"axis {name} has no digits")
        found.append((_Axis(f"{name}_{len(found)}", extent, read, write), step))
        step *= extent
        reads, writes = reads[::extent], writes[::extent]
    return found


def _run(axes: Sequence[_Axis], read_whole: bool) -> tuple[list[_Axis], _Axis] | None:
    """Return few places that one side has together, and the axis that the other has together."""
    one = {axis: axis.read if read_whole else axis.write for axis in axes}
    other = {axis: axis.write if read_whole else axis.read for axis in axes}
    small: list[_Axis] = []
    together = 1
    while together <= _MOST:
        following = [axis for axis in axes if one[axis] == together and axis not in small]
        if len(following) != 1:
            return None
        if other[following[0]] == 1:
            return (small, following[0]) if small else None
        small.append(following[0])
        together *= following[0].extent
    return None


def _woven(
    function: tirx.PrimFunc,
    info: BlockInfo,
    axes: Sequence[_Axis],
    small: Sequence[_Axis],
    long: _Axis,
    lanes: int,
    read_whole: bool,
) -> tirx.PrimFunc:
    store = info.node.body
    source, into = store.value.source, store.buffer
    dtype = info.variables[0].ty.dtype
    vectors = math.prod(axis.extent for axis in small)
    outer = [axis for axis in axes if axis not in small]
    variables = [tirx.Var(axis.name, dtype) for axis in outer]
    extents = [axis.extent // lanes if axis is long else axis.extent for axis in outer]
    steps = [lanes if axis is long else 1 for axis in outer]
    places = [
        tuple(reversed(place))
        for place in itertools.product(*(range(axis.extent) for axis in reversed(small)))
    ]

    def at(buffer: Any, side: str, place: Sequence[int], length: int) -> Any:
        start = sum(getattr(a, side) * p for a, p in zip(small, place, strict=True))
        offset = tirx.const(start, dtype)
        for axis, variable, step in zip(outer, variables, steps, strict=True):
            offset = offset + variable * (getattr(axis, side) * step)
        zeros = [tirx.const(0, dtype) for _ in buffer.shape[1:]]
        return [*zeros, tirx.Ramp(offset, tirx.const(1, dtype), length)]

    first = [0] * len(small)
    whole = vectors * lanes
    body: Any
    if read_whole:
        value = tirx.BufferLoad(source, at(source, "read", first, whole))
        together = tirx.Var("together", value.ty)
        stores = [
            tirx.BufferStore(
                into,
                _permuted([together], range(number, whole, vectors)),
                at(into, "write", place, lanes),
            )
            for number, place in enumerate(places)
        ]
        body = tirx.SeqStmt([tirx.Bind(together, value), *stores])
    else:
        parts = [tirx.BufferLoad(source, at(source, "read", place, lanes)) for place in places]
        order = [vector * lanes + lane for lane in range(lanes) for vector in range(vectors)]
        body = tirx.BufferStore(into, _permuted(parts, order), at(into, "write", first, whole))
    return replace_nest(function, info.name, nest_of(info.name, variables, extents, body))


def _permuted(vectors: Sequence[Any], order: Sequence[int]) -> Any:
    return tirx.Shuffle(list(vectors), [tirx.const(place, "int32") for place in order])
