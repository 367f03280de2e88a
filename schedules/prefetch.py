"""Fetching ahead what the hardware does not foresee: many short runs, far from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from .cpu_generic.rewrite import substitute

TILES = "wq.tiles"  # on the loop over the tiles of a block
VECTORS = "wq.vectors"  # on the loop over a tile's vectors of output channels
TASKS = "wq.tasks"  # on the loop over the tasks of a direct convolution
PIXELS = "wq.pixels"  # on the loop over a task's blocks of pixels
NEAREST = 1  # the level of the cache beside the registers


def fetch(load: Any, level: int = NEAREST, write: bool = False) -> Any:
    """Fetch the cache line of a load, to be read or written soon, into caches from a level on."""
    locality = 4 - level  # as LLVM counts: 3 is nearest
    kind = [tirx.const(value, "int32") for value in (int(write), locality, 1)]
    address = tirx.address_of(load)
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *kind))


def fetch_next_tile(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Fetch M of the next tile, and the lines of its results, while a tile is transformed."""

    def tiles(loop: tirx.For) -> Any:
        if TILES not in loop.annotations:
            return loop
        following = tirx.min(loop.loop_var + 1, loop.extent - 1)

        def vectors(inner: tirx.For) -> Any:
            if VECTORS not in inner.annotations:
                return inner
            ahead = [substitute(s, {loop.loop_var: following}) for s in _fetches(inner)]
            body = tirx.SeqStmt([*ahead, inner.body])
            return tirx.For(inner.loop_var, inner.min, inner.extent, inner.kind, body)

        body = tvm_ffi.structural_map(loop.body, (tirx.For, vectors))
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, tiles)))


def _fetches(loop: tirx.For) -> list[Any]:
    blocks = {realize.block.name_hint: realize for realize in realized(loop)}
    inner = {variable: tirx.const(0, "int64") for variable in loop_variables(loop.body)}
    rows = blocks["output_rows"]
    z, y, x, _, _, k = (substitute(value, inner) for value in rows.iter_values)
    m = rows.block.reads[0].source
    taps = product(range(int(m.ty.shape[0])), range(int(m.ty.shape[1])))
    statements = [fetch(tirx.BufferLoad(m, [*tap, z, y, x, k])) for tap in taps]

    output = blocks["output"]
    z, row, column, k = (substitute(value, inner) for value in output.iter_values)
    edges = (range(int(edge)) for edge in output.block.annotations["wq.output_tile"])
    result = output.block.writes[0].source
    for a, b in product(*edges):
        load = tirx.BufferLoad(result, [z, row + a, column + b, k])
        statements.append(fetch(load, write=True))
    return statements


def fetch_for_sums(function: tirx.PrimFunc, vectors: int, lanes: int) -> tirx.PrimFunc:
    """Fetch what a task of a direct convolution needs next, while its pixels are summed up.

    Each block of pixels fetches its share of the next group's U and, in the first group, the lines
    of its results.
    """

    def tasks(task: tirx.For) -> Any:
        if TASKS not in task.annotations:
            return task
        (output,) = (r for r in realized(task) if r.block.name_hint == "output")
        inner = {variable: tirx.const(0, "int64") for variable in loop_variables(task.body)}
        first = [substitute(value, inner) for value in output.iter_values]

        def ahead(loop: tirx.For) -> Any:
            if PIXELS not in loop.annotations:
                return loop
            group, fetches = _group_fetches(loop, vectors, lanes)
            results = _result_fetches(loop, output.block, first, vectors, lanes)
            fetches.append(tirx.IfThenElse(group == 0, tirx.stmt_seq(*results), None))
            body = tirx.SeqStmt([*fetches, loop.body])
            return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

        body = tvm_ffi.structural_map(task.body, (tirx.For, ahead))
        return tirx.For(
            task.loop_var, task.min, task.extent, task.kind, body, annotations=task.annotations
        )

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, tasks)))


def _group_fetches(loop: tirx.For, vectors: int, lanes: int) -> tuple[Any, list[Any]]:
    """The group, and fetches of the next one's U, the first again after the last.

    None where all channels are one group: a run as long as that the hardware foresees.
    """
    products = next(r for r in realized(loop) if r.block.name_hint.startswith("products_update"))
    inner = {variable: tirx.const(0, "int64") for variable in loop_variables(loop.body)}
    *_, g, _, _, panel, _ = (substitute(value, inner) for value in products.iter_values)
    if not products.block.name_hint.endswith("_o"):  # not tensorized: of channels, not vectors
        panel = tirx.truncdiv(panel, lanes)
    # Stages keep their names; parameters lose theirs when a network's functions are fused.
    counts = products.block.writes[0].source
    reads = [r.source for r in products.block.reads if not r.source.same_as(counts)]
    (u,) = (source for source in reads if source.name not in ("V", "start"))
    _, groups, *lines = (int(extent) for extent in u.ty.shape[:5])
    if groups == 1:
        return g, []
    following = tirx.truncmod(g + 1, groups)
    count = math.prod(lines)
    share = math.ceil(count / int(loop.extent))
    zero, fetched = tirx.const(0, "int64"), []
    for vector, each in product(range(vectors), range(share)):
        line = tirx.min(loop.loop_var * share + each, count - 1)
        row, step = tirx.truncdiv(line, lines[2]), tirx.truncmod(line, lines[2])
        e, v = tirx.truncdiv(row, lines[1]), tirx.truncmod(row, lines[1])
        load = tirx.BufferLoad(u, [panel + vector, following, e, v, step, zero, zero])
        fetched.append(fetch(load))
    return g, fetched


def _result_fetches(
    loop: tirx.For, output: SBlock, first: Sequence[Any], vectors: int, lanes: int
) -> list[Any]:
    """Fetches of a block of pixels' results; ``first`` is the task's first result.

    Where a task reaches beyond the image they are of other lines, or none: that does no harm.
    """
    columns, pixels = int(output.annotations["wq.block"][1]), int(output.annotations["wq.pixels"])
    z, y, x, k = first
    fetched = []
    for pixel, vector in product(range(pixels), range(vectors)):
        p = loop.loop_var * pixels + pixel
        row, column = tirx.truncdiv(p, columns), tirx.truncmod(p, columns)
        at = [z, y + row, x + column, k + vector * lanes]
        fetched.append(fetch(tirx.BufferLoad(output.writes[0].source, at), write=True))
    return fetched


def realized(statement: Any) -> list[Any]:
    """The blocks in a statement."""
    found: list[Any] = []
    tvm_ffi.structural_walk(statement, (SBlockRealize, found.append))
    return found


def loop_variables(statement: Any) -> Sequence[Any]:
    """The variables of the loops in a statement."""
    found: list[Any] = []
    tvm_ffi.structural_walk(statement, (tirx.For, lambda loop: found.append(loop.loop_var)))
    return found
