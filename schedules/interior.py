"""Tiles that lie wholly inside the image are cut without a test of each pixel."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir.stmt import SBlock

from .cpu_generic.rewrite import substitute, with_body
from .prefetch import realized

MARK = "wq.input"  # on the loop whose body cuts and transforms one tile and group
_IF = ir.Op.get("prim.if_then_else")


def cut_interior_tiles_plainly(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Double the body of each marked loop: for tiles inside the image, and for all others."""

    def replace(loop: tirx.For) -> Any:
        if MARK not in loop.annotations:
            return loop
        body = tirx.IfThenElse(_is_inside(loop.body), _without_tests(loop.body), loop.body)
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, replace)))


def _is_inside(body: Any) -> Any:
    """Whether the tile's first and last pixels and channels pass the test: then all of them do."""
    (realize,) = (r for r in realized(body) if r.block.name_hint == "tile")
    axes = {
        axis.var: value
        for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)
    }
    (test,) = _choices(realize.block.body)
    condition = substitute(test.args[0], axes)
    loops: list[Any] = []
    tvm_ffi.structural_walk(body, (tirx.For, loops.append))
    first = substitute(condition, {loop.loop_var: loop.min for loop in loops})
    last = substitute(condition, {loop.loop_var: loop.min + loop.extent - 1 for loop in loops})
    return tirx.all(first, last)


def _choices(statement: Any) -> list[Any]:
    found: list[Any] = []

    def visit(call: ir.Call) -> None:
        if call.op.same_as(_IF):
            found.append(call)

    tvm_ffi.structural_walk(statement, (ir.Call, visit))
    return found


def _without_tests(body: Any) -> Any:
    def plain(call: ir.Call) -> Any:
        return call.args[1] if call.op.same_as(_IF) else call

    def cut(block: SBlock) -> Any:
        if block.name_hint != "tile":
            return block
        return with_body(block, tvm_ffi.structural_map(block.body, (ir.Call, plain)))

    return tvm_ffi.structural_map(body, (SBlock, cut))
