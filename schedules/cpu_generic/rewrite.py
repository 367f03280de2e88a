"""Rewriting above the level of schedule primitives: stages replaced, variables bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.s_tir.analysis import get_sblock_access_region


def substitute(expression: Any, values: Mapping[Any, Any]) -> Any:
    """Return an expression with variables (or buffers) replaced."""

    def replace(variable: Any) -> Any:
        return values.get(variable, variable)

    return tvm_ffi.structural_map(expression, (tirx.Var, replace))


def uses_variable(expression: Any, variables: Sequence[Any]) -> bool:
    """Say whether an expression has one of the variables."""
    found: list[Any] = []

    def visit(variable: Any) -> None:
        if any(variable.same_as(v) for v in variables):
            found.append(variable)

    tvm_ffi.structural_walk(expression, (tirx.Var, visit))
    return bool(found)


def own_variables(statement: Any) -> dict[Any, Any]:
    """New variables for the loops and the blocks' axes of a statement, of which there will be two.

    By the ones that it has now.
    """
    found: list[Any] = []
    visits = [
        (tirx.For, lambda loop: found.append(loop.loop_var)),
        (tirx.IterVar, lambda axis: found.append(axis.var)),
    ]
    tvm_ffi.structural_walk(statement, visits)
    return {variable: tirx.Var(variable.name, variable.ty.dtype) for variable in found}


def replace_loads(body: Any, buffer: Any, value: Any) -> Any:
    """Return a statement in which every load of a buffer is replaced by a value."""

    def replace(load: Any) -> Any:
        return value if load.source.same_as(buffer) else load

    return tvm_ffi.structural_map(body, (ir.TensorLoad, replace))


def stages(function: tirx.PrimFunc) -> list[tuple[str, Any]]:
    """Return name and loop nest of each top-level stage, in the order they run."""
    body = function.body.block.body
    nests = list(body) if isinstance(body, tirx.SeqStmt) else [body]
    return [(_block_name(nest), nest) for nest in nests]


def replace_stage(
    function: tirx.PrimFunc,
    name: str,
    replacement: tirx.PrimFunc,
    buffers: Sequence[Any],
    allocated: Sequence[Any],
) -> tirx.PrimFunc:
    """Return the function with the stage ``name`` replaced by the stages of another function.

    ``buffers`` stand for the parameters of the other function; those that are in ``allocated`` are
    new.
    """
    values = dict(zip(replacement.params, buffers, strict=True))
    inserted = substitute(replacement.body.block.body, values)
    new = list(inserted) if isinstance(inserted, tirx.SeqStmt) else [inserted]
    nests: list[Any] = []
    for stage, nest in stages(function):
        nests.extend(new if stage == name else [nest])
    alloc = [*function.body.block.alloc_buffers, *replacement.body.block.alloc_buffers, *allocated]
    return with_stages(function, nests, alloc)


def replace_nest(function: tirx.PrimFunc, name: str, nest: Any) -> tirx.PrimFunc:
    """Return the function with the loop nest of the stage ``name`` replaced."""
    nests = [nest if stage == name else old for stage, old in stages(function)]
    return with_stages(function, nests, function.body.block.alloc_buffers)


def insert_stage(function: tirx.PrimFunc, after: str, nest: Any) -> tirx.PrimFunc:
    """Return the function with a loop nest inserted behind the stage ``after``."""
    nests: list[Any] = []
    for stage, old in stages(function):
        nests.extend([old, nest] if stage == after else [old])
    return with_stages(function, nests, function.body.block.alloc_buffers)


def insert_stage_before(
    function: tirx.PrimFunc, before: str, nest: Any, buffer: Any
) -> tirx.PrimFunc:
    """Return the function with a loop nest inserted before a stage, and its new buffer."""
    nests: list[Any] = []
    for stage, old in stages(function):
        nests.extend([nest, old] if stage == before else [old])
    return with_stages(function, nests, [*function.body.block.alloc_buffers, buffer])


def replace_nodes(function: tirx.PrimFunc, name: str, old: Any, new: Any) -> tirx.PrimFunc:
    """Return the function with an expression replaced wherever the stage ``name`` has it."""

    def replace(node: Any) -> Any:
        return new if tvm_ffi.structural_equal(node, old) else node

    def on_block(block: Any) -> Any:
        body = tvm_ffi.structural_map(block.body, (type(old), replace), order="pre")
        return with_body(block, body)

    nests = dict(stages(function))
    return replace_nest(function, name, tvm_ffi.structural_map(nests[name], (SBlock, on_block)))


def with_buffers(function: tirx.PrimFunc, buffers: Sequence[Any]) -> tirx.PrimFunc:
    """Return the function that allocates these buffers."""
    return with_stages(function, [nest for _, nest in stages(function)], buffers)


def with_body(block: SBlock, body: Any) -> SBlock:
    """Return the block with another body, and the regions that this one reads and writes."""
    bare = SBlock(block.iter_vars, [], [], block.name_hint, body, block.init)
    reads, writes, _ = get_sblock_access_region(bare, _buffers(body))
    return SBlock(
        block.iter_vars,
        reads,
        writes,
        block.name_hint,
        body,
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )


def nest_of(
    name: str,
    variables: Sequence[Any],
    extents: Sequence[int],
    body: Any,
    reductions: Sequence[bool] | None = None,
    init: Any = None,
) -> Any:
    """Return loops around a block of these axes; ``reductions`` says which are summed over."""
    loops = [tirx.Var(str(v.name), v.ty.dtype) for v in variables]
    summed = reductions or [False] * len(loops)
    kinds = [tirx.IterVar.CommReduce if s else tirx.IterVar.DataPar for s in summed]
    axes = [
        tirx.IterVar(_range(extent, variable), variable, kind)
        for variable, extent, kind in zip(variables, extents, kinds, strict=True)
    ]
    block = with_body(SBlock(axes, [], [], name, body, init), body)
    nest: Any = SBlockRealize(list(loops), True, block)
    for loop, extent in zip(reversed(loops), reversed(extents), strict=True):
        span = _range(extent, loop)
        nest = tirx.For(loop, span.min, span.extent, tirx.ForKind.SERIAL, nest)
    return nest


def _range(extent: int, variable: Any) -> ir.Range:
    dtype = str(variable.ty.dtype)
    return ir.Range(tirx.const(0, dtype), tirx.const(extent, dtype))


def _buffers(body: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}

    def on_load(load: Any) -> None:
        found[load.source] = load.source

    def on_store(store: Any) -> None:
        found[store.buffer] = store.buffer

    tvm_ffi.structural_walk(body, [(ir.TensorLoad, on_load), (tirx.BufferStore, on_store)])
    return found


def with_stages(function: tirx.PrimFunc, nests: Sequence[Any], alloc: Sequence[Any]) -> Any:
    """Return the function with these loop nests and buffers instead of its own."""
    root = function.body.block
    body = nests[0] if len(nests) == 1 else tirx.SeqStmt(list(nests))
    block = SBlock([], [], [], root.name_hint, body, None, list(alloc), [], root.annotations)
    return function.with_body(SBlockRealize([], True, block))


def _block_name(nest: Any) -> str:
    while isinstance(nest, tirx.For):
        nest = nest.body
    return str(nest.block.name_hint) if isinstance(nest, SBlockRealize) else ""
