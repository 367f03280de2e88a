"""Expensive expressions that change along a few axes only, computed once in a stage of their own.

A normalised image, for example, needs a square root for each group of channels, not for each
pixel.
"""

from __future__ import annotations

import math
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx

from .access import BlockInfo, NotAnalysableError, block_info
from .inline import is_expensive_node, top_blocks
from .rewrite import insert_stage_before, nest_of, replace_nodes, substitute

# A stage of its own is worth it if it has so many times fewer elements.
_FEWER = 4


def hoist_expressions(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return the function with such expressions moved into stages of their own."""
    sch = s_tir.Schedule(function)
    for block in top_blocks(sch):
        try:
            info = block_info(sch.get(block))
        except NotAnalysableError:
            continue
        if not info.is_reduction:
            function = _hoist(function, info)
    return function


def _hoist(function: tirx.PrimFunc, info: BlockInfo) -> tirx.PrimFunc:
    # Larger ones first: they may contain smaller ones.
    found = sorted(_candidates(info), key=lambda candidate: -_nodes(candidate[0]))
    for number, (expression, axes) in enumerate(found):
        name = f"{info.name}_hoisted{number}"
        shape = [info.node.iter_vars[axis].dom.extent for axis in axes]
        buffer = tirx.decl_buffer(shape, str(expression.ty.dtype), name=name)
        new = [tirx.Var(info.variables[axis].name, info.variables[axis].ty.dtype) for axis in axes]
        values = {v: tirx.const(0, v.ty.dtype) for v in info.variables}  # Those left have extent 1.
        values.update((info.variables[axis], v) for axis, v in zip(axes, new, strict=True))
        store = tirx.BufferStore(buffer, substitute(expression, values), new)
        nest = nest_of(name, new, [info.extents[axis] for axis in axes], store)
        load = tirx.BufferLoad(buffer, [info.variables[axis] for axis in axes])
        function = insert_stage_before(function, info.name, nest, buffer)
        function = replace_nodes(function, info.name, expression, load)
    return function


def _candidates(info: BlockInfo) -> list[tuple[Any, tuple[int, ...]]]:
    """Return the largest expensive expressions with few elements, and the axes they depend on."""
    found: list[tuple[Any, tuple[int, ...]]] = []

    def visit(node: Any) -> tvm_ffi.WalkResult:
        if not isinstance(node, ir.Expr) or isinstance(node, tirx.Var):
            return tvm_ffi.WalkResult.ADVANCE
        axes = _axes_of(info, node)
        elements = math.prod(info.extents[axis] for axis in axes)
        if axes and elements * _FEWER <= info.size and _has_expensive(node):
            if not any(tvm_ffi.structural_equal(node, other) for other, _ in found):
                found.append((node, axes))
            return tvm_ffi.WalkResult.SKIP
        return tvm_ffi.WalkResult.ADVANCE

    for store in _stores(info.node.body):
        tvm_ffi.structural_walk(store.value, (ir.Expr, visit), order="pre")
    return found


def _nodes(expression: Any) -> int:
    found: list[Any] = []
    tvm_ffi.structural_walk(expression, (ir.Expr, found.append))
    return len(found)


def _stores(body: Any) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(body, (tirx.BufferStore, found.append))
    return found


def _axes_of(info: BlockInfo, node: Any) -> tuple[int, ...]:
    used: set[int] = set()

    def on_variable(variable: Any) -> None:
        used.update(i for i, v in enumerate(info.variables) if v.same_as(variable))

    tvm_ffi.structural_walk(node, (tirx.Var, on_variable))
    return tuple(sorted(axis for axis in used if info.extents[axis] > 1))


def _has_expensive(node: Any) -> bool:
    found: list[Any] = []

    def visit(part: Any) -> None:
        if is_expensive_node(part):
            found.append(part)

    tvm_ffi.structural_walk(node, [(ir.Call, visit), (tirx.Div, visit)])
    return bool(found)
