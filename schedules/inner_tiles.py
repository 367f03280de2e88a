"""Tiles that lie inside the image are transformed from where they are, not from a copy of them.

if the first and the last pixel and channel of a tile are inside:
    rows of B^T times the image
else:
    the tile, zeros where it reaches beyond the image; rows of B^T times the tile
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, sym, tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from .cpu_generic.rewrite import own_variables, substitute, with_body
from .prefetch import loop_variables, realized

_COPY_AND_ROWS = [["tile"], ["input_rows"]]  # the blocks of two nests, one after the other


def read_inner_tiles(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Where a tile is copied and then transformed, do both only if it reaches beyond the image."""

    def replace(sequence: tirx.SeqStmt) -> Any:
        nests = list(sequence)
        names = [[each.block.name_hint for each in realized(nest)] for nest in nests]
        places = [i for i in range(len(nests)) if names[i : i + 2] == _COPY_AND_ROWS]
        if not places:
            return sequence
        (first,) = places
        copy, rows = nests[first : first + 2]
        inside, read = _inside(copy), _read(copy, rows)
        either = tirx.IfThenElse(inside, read, tirx.SeqStmt([copy, rows]))
        return tirx.stmt_seq(*nests[:first], either, *nests[first + 2 :])

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.SeqStmt, replace)))


def _pixel(realize: SBlockRealize) -> tuple[Any, Any]:
    """When a value of the tile is a pixel's, and the pixel."""
    value = realize.block.body.value
    return value.args[0], value.args[1]


def _inside(copy: Any) -> Any:
    """Whether a tile's first and last values are pixels: so are those between."""
    (realize,) = realized(copy)
    condition, _ = _pixel(realize)
    zero = tirx.const(0, "int64")
    start = dict.fromkeys(loop_variables(copy), zero)
    simplify = sym.Analyzer().simplify
    first, last = {}, {}
    for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True):
        at = simplify(substitute(value, start))
        # Rows, columns and channels begin at 0 in each tile.
        is_own = tvm_ffi.structural_equal(at, zero)
        first[axis.var], last[axis.var] = at, axis.dom.extent - 1 if is_own else at
    return tirx.all(*(simplify(substitute(condition, end)) for end in (first, last)))


def _read(copy: Any, rows: Any) -> Any:
    """The rows' loops with each load of the tile replaced by one of the image."""
    (tile,) = realized(copy)
    _, pixel = _pixel(tile)
    buffer = tile.block.writes[0].source
    axes = [axis.var for axis in tile.block.iter_vars]

    def load(node: Any) -> Any:
        if not node.source.same_as(buffer):
            return node
        return substitute(pixel, dict(zip(axes, node.indices, strict=True)))

    def block(node: SBlock) -> Any:
        return with_body(node, tvm_ffi.structural_map(node.body, (ir.TensorLoad, load)))

    read = tvm_ffi.structural_map(rows, (SBlock, block))
    return substitute(read, own_variables(read))
