"""Loops cut where a condition changes: the join of two images has no test for each element.

TVM's own loop partitioning would do it on a hint, but loses the hint where loop variables are
narrowed from 64 to 32 bits, as all are that come from Relax.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx

from .access import BlockInfo, NotAnalysableError, evaluate
from .rewrite import own_variables, substitute, uses_variable

_ANNOTATION = "wq.segments"
_MOST = 6
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)


def boundaries(info: BlockInfo, axis: int) -> list[int] | None:
    """Return where on an axis conditions change, with its ends; None if that is too often."""
    variable = info.variables[axis]
    comparisons: list[Any] = []
    for kind in _COMPARISONS:
        tvm_ffi.structural_walk(info.node.body, (kind, comparisons.append))
    found = {0, info.extents[axis]}
    for comparison in comparisons:
        if not uses_variable(comparison, [variable]):
            continue
        try:
            values = [evaluate(comparison, {variable: i}) for i in range(info.extents[axis])]
        except NotAnalysableError:
            return None
        found.update(i for i in range(1, len(values)) if values[i] != values[i - 1])
    return sorted(found) if len(found) <= _MOST else None


def guarded_from(info: BlockInfo, axis: int) -> int | None:
    """Return from where on an axis the guard of a block may be false, None if there is no guard."""
    body = info.node.body
    if not isinstance(body, tirx.IfThenElse) or not uses_variable(
        body.condition, [info.variables[axis]]
    ):
        return None
    last = {v: extent - 1 for v, extent in zip(info.variables, info.extents, strict=True)}
    for place in range(info.extents[axis]):
        if not evaluate(body.condition, {**last, info.variables[axis]: place}):
            return place
    return info.extents[axis]


def mark_segments(sch: s_tir.Schedule, loop: Any, places: list[int], lanes: int) -> None:
    """Have `cut_segments` cut a loop at these places; in vectors, if a piece is made of such.

    ``lanes`` of 0 leaves the pieces as loops.
    """
    sch.annotate(loop, _ANNOTATION, [lanes, *places])


def cut_segments(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return the function with all marked loops cut."""

    def cut(loop: Any) -> Any:
        if _ANNOTATION not in loop.annotations:
            return loop
        lanes, *places = (int(place) for place in loop.annotations[_ANNOTATION])
        pieces = [_piece(loop, start, end - start, lanes) for start, end in pairwise(places)]
        return pieces[0] if len(pieces) == 1 else tirx.SeqStmt(pieces)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, cut)))


def _piece(loop: Any, start: int, extent: int, lanes: int) -> Any:
    dtype = loop.loop_var.ty.dtype
    zero = tirx.const(0, dtype)
    outer = tirx.Var(loop.loop_var.name, dtype)
    if not lanes or extent % lanes:
        body = _at(loop, outer + start)
        return tirx.For(outer, zero, tirx.const(extent, dtype), tirx.ForKind.SERIAL, body)
    lane = tirx.Var("lane", dtype)
    body = _at(loop, outer * lanes + lane + start)
    vector = tirx.For(lane, zero, tirx.const(lanes, dtype), tirx.ForKind.VECTORIZED, body)
    return tirx.For(outer, zero, tirx.const(extent // lanes, dtype), tirx.ForKind.SERIAL, vector)


def _at(loop: Any, place: Any) -> Any:
    """Return a loop's body at another place, with variables of its own."""
    return substitute(loop.body, {loop.loop_var: place, **own_variables(loop.body)})
