"""A contraction written as stages of tiles: packed weights, sums of tiles, and the result.

Long sums are cut into blocks: a part of a sum is accumulated in registers, and the parts of a tile
are added up in a second stage. Where columns are too few to fill a vector, its lanes are parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from .access import Access, BlockInfo
from .contraction_match import Contraction, axes_of
from .rewrite import nest_of, replace_loads, substitute

ACCUMULATE, PARTIAL = "contraction_sum", "contraction_partial"
PACK, EPILOGUE = "contraction_pack", "contraction_epilogue"


@dataclass(frozen=True)
class Tile:
    """What is accumulated in registers.

    Attributes
    ----------
    rows : of x.
    vectors, lanes : vectors of so many columns.
    packed : whether weights are packed into panels in the order in which they are used.
    summed : a summed axis whose neighbours are lanes, a vector for each column; None: lanes are
        columns.
    """

    rows: int
    vectors: int
    lanes: int
    packed: bool
    summed: int | None = None

    @property
    def columns(self) -> int:
        """Columns of f in a panel."""
        return self.vectors if self.summed is not None else self.width

    @property
    def width(self) -> int:
        """Sums of a row."""
        return self.vectors * self.lanes


@dataclass(frozen=True)
class Rows:
    """The rows of a task.

    Attributes
    ----------
    axis : the outer axis that is cut into blocks, None if the tiles of x are.
    count : of that axis, or of tiles of x, in a task.
    x_tiles : tiles of x, the last of which may lie outside.
    tasks : into which the rows of the whole contraction are cut.
    """

    axis: int | None
    count: int
    x_tiles: int
    tasks: int


@dataclass(frozen=True)
class Blocks:
    """What of a contraction is computed together.

    Attributes
    ----------
    tile : in registers.
    part : of each summed axis, so much is summed in registers at once: a divisor of its extent.
    rows : in a task.
    """

    tile: Tile
    part: Mapping[int, int]
    rows: Rows


def tiled_sums(work: Contraction, blocks: Blocks) -> tirx.PrimFunc:
    """Return the contraction as stages: weights in panels, parts of sums, sums in tiles.

    There are no parts if one has the whole sum.
    """
    info, tile = work.info, blocks.tile
    block = {a: n // tile.lanes if a == tile.summed else n for a, n in blocks.part.items()}
    index = _index_type(work)
    panels = math.ceil(work.columns / tile.columns)
    data = _placeholder("data", work.data)
    weights = _placeholder("weights", work.weights)

    def const(value: int) -> Any:
        return tirx.const(value, index)

    def shape(extents: Sequence[int]) -> list[Any]:
        return [const(extent) for extent in extents]

    def column(group: Any, panel: Any, lane: Any) -> Any:
        if tile.summed is not None:
            lane = tirx.floordiv(lane, const(tile.lanes))
        return group * const(work.columns) + panel * const(tile.columns) + lane

    packed_outer = [a for a in work.outer if a in axes_of(info, work.weights.indices)]
    reduced = list(info.reduced())
    blocked = [a for a in reduced if blocks.part[a] < info.extents[a]]

    def summed(parts: Sequence[Any], places: Sequence[Any], lane: Any) -> dict[Any, Any]:
        """Map the variables of the summed axes to places in parts."""
        start = {a: p * const(block[a]) for a, p in zip(blocked, parts, strict=True)}
        found = {a: start[a] + p if a in start else p for a, p in zip(reduced, places, strict=True)}
        if tile.summed is not None:
            vector = found[tile.summed] * const(tile.lanes)
            found[tile.summed] = vector + tirx.floormod(lane, const(tile.lanes))
        return {info.variables[a]: place for a, place in found.items()}

    def pack(*axes: Any) -> Any:
        count = len(packed_outer)
        outers, (group, panel), rest = axes[:count], axes[count : count + 2], axes[count + 2 :]
        lane = rest[-1]
        values = dict(zip(_variables(info, packed_outer), outers, strict=True))
        values.update(summed(rest[: len(blocked)], rest[len(blocked) : -1], lane))
        values[info.variables[work.f]] = column(group, panel, lane)
        value = weights(*(substitute(i, values) for i in work.weights.indices))
        if work.columns % tile.columns == 0:
            return value
        inside = panel * const(tile.columns) + lane < const(work.columns)
        return tirx.if_then_else(inside, value, tirx.const(0, "float32"))

    packed_shape = [
        *(info.extents[a] for a in packed_outer),
        work.groups,
        panels,
        *(info.extents[a] // block[a] for a in blocked),
        *(block[a] for a in reduced),
        tile.width,
    ]
    packed = te.compute(shape(packed_shape), pack, name=PACK) if tile.packed else None
    sums = [te.reduce_axis((const(0), const(block[axis])), f"k{axis}") for axis in reduced]

    def part(*axes: Any) -> Any:
        parts, axes = axes[: len(blocked)], axes[len(blocked) :]
        outers, (x_tile, group, panel, row, lane) = axes[:-5], axes[-5:]
        values = dict(zip(_variables(info, work.outer), outers, strict=True))
        values.update(summed(parts, [axis.var for axis in sums], lane))
        if work.x is not None:
            place = x_tile * const(tile.rows) + row
            last = const(work.rows - 1)
            values[info.variables[work.x]] = (
                tirx.min(place, last) if _overhang(work, blocks) else place
            )
        # A panel lies in one group, so its first column stands for all where data are chosen.
        values[info.variables[work.f]] = group * const(work.columns)
        operand = data(*(substitute(i, values) for i in work.data.indices))
        if packed is not None:
            place_of = dict(zip(work.outer, outers, strict=True))
            chosen = [place_of[a] for a in packed_outer]
            weight = packed(*chosen, group, panel, *parts, *sums, lane)
        else:
            values[info.variables[work.f]] = column(group, panel, lane)
            weight = weights(*(substitute(i, values) for i in work.weights.indices))
        return te.sum(operand * weight, axis=sums)

    tiles = sum_shape(work, blocks)
    if tile.summed is not None:
        partial = te.compute([*tiles[:-1], const(tile.width)], part, name=PARTIAL)
        lanes = te.reduce_axis((const(0), const(tile.lanes)), "lane")
        accumulated = te.compute(
            tiles,
            lambda *axes: te.sum(partial(*axes[:-1], axes[-1] * const(tile.lanes) + lanes), lanes),
            name=ACCUMULATE,
        )
        return te.create_prim_func([data, weights, accumulated])
    if not blocked:
        accumulated = te.compute(tiles, part, name=ACCUMULATE)
        return te.create_prim_func([data, weights, accumulated])
    counts = [info.extents[a] // block[a] for a in blocked]
    partial = te.compute([*shape(counts), *tiles], part, name=PARTIAL)
    parts = [te.reduce_axis((const(0), const(count)), f"part{i}") for i, count in enumerate(counts)]
    accumulated = te.compute(
        tiles, lambda *axes: te.sum(partial(*parts, *axes), parts), name=ACCUMULATE
    )
    return te.create_prim_func([data, weights, accumulated])


def _placeholder(name: str, access: Access) -> Any:
    return te.placeholder(list(access.buffer.shape), "float32", name=name)


def _variables(info: BlockInfo, axes: Sequence[int]) -> list[Any]:
    return [info.variables[axis] for axis in axes]


def sum_shape(work: Contraction, blocks: Blocks) -> list[Any]:
    """Shape of the sums: outer axes, tile of x, group, panel, row, column."""
    extents = [
        *(work.info.extents[axis] for axis in work.outer),
        blocks.rows.x_tiles,
        work.groups,
        math.ceil(work.columns / blocks.tile.columns),
        blocks.tile.rows,
        blocks.tile.columns,
    ]
    return [tirx.const(extent, _index_type(work)) for extent in extents]


def _overhang(work: Contraction, blocks: Blocks) -> bool:
    """Say whether tiles of x reach beyond its end."""
    return blocks.rows.x_tiles * blocks.tile.rows > work.rows


def _index_type(work: Contraction) -> str:
    return str(work.info.variables[0].ty.dtype)


def tiled_epilogue(work: Contraction, blocks: Blocks, sums: Any, epilogue: BlockInfo | None) -> Any:
    """Return a stage that takes the sums tile by tile and writes what lies inside the result.

    Its loops are: outer axes, tile of x, group, panel, row, vector and lane (or lane alone, if
    vectors straddle the edge of the result).
    """
    index, tile = _index_type(work), blocks.tile
    whole_vectors = work.columns % tile.lanes == 0
    names = [
        *(f"o{axis}" for axis in work.outer),
        "x_tile",
        "group",
        "panel",
        "row",
        *(("vector", "lane") if whole_vectors else ("lane",)),
    ]
    extents = [int(extent) for extent in sum_shape(work, blocks)]
    if whole_vectors:
        extents[-1:] = [tile.vectors, tile.lanes]
    variables = [tirx.Var(name, index) for name in names]
    count = len(work.outer)
    x_tile, group, panel, row = variables[count : count + 4]
    lane = variables[-1] if not whole_vectors else variables[-2] * tile.lanes + variables[-1]

    x = x_tile * tile.rows + row
    within = panel * tile.columns + lane
    places = dict(zip(work.outer, variables[:count], strict=True))
    places[work.f] = group * work.columns + within
    if work.x is not None:
        places[work.x] = x
    guards = []
    if _overhang(work, blocks):
        guards.append(x < work.rows)
    if work.columns % tile.columns:
        guards.append(
            panel * tile.vectors + variables[-2] < work.columns // tile.lanes
            if whole_vectors
            else within < work.columns
        )
    value = tirx.BufferLoad(sums, [*variables[: count + 4], lane])
    spatial = work.info.spatial()
    if epilogue is None:
        written = work.info.writes[0]
        values = {work.info.variables[a]: places[a] for a in spatial}
        indices = [substitute(i, values) for i in written.indices]
        body = tirx.BufferStore(written.buffer, value, indices)
    else:
        old = work.info.writes[0].buffer
        values = {v: places[a] for v, a in zip(epilogue.variables, spatial, strict=True)}
        body = replace_loads(substitute(epilogue.node.body, values), old, value)
    if guards:
        body = tirx.IfThenElse(tirx.all(*guards), body, None)
    return nest_of(EPILOGUE, variables, extents, body)
