"""Sums of products of two tensors: convolutions and matrix products of every layout.

One of the output's axes, f, is an axis of the weights alone (output channels, columns); another, x,
of the data alone (image columns, rows of a matrix). A tile of x by f is accumulated in registers:

    for tasks of other axes and blocks of rows, in parallel:
        padding of the rows, if the operator pads
        for each panel of f:
            for each row and tile of x:
                for every summed element: one broadcast of data a row of the tile, times the panel
                epilogue of the tile

Budget: with p pixels by v vectors of f, p * v accumulators, v vectors of weights and one broadcast
fit the register file (14 x 2 + 3 of 32 with AVX-512 and NEON, 6 x 2 + 3 of 16 with AVX2). A panel
of weights, summed elements times v vectors, streams from L2 once a tile; a task's rows of data
stay in L2. Tails: f is padded with zeros in the packed weights, x repeats its last row, and what
is computed too much is never stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm.target
import tvm_ffi
from tvm import ir, s_tir, te, tirx

from .access import Access, BlockInfo, NotAnalysableError, block_info
from .inline import top_blocks
from .injective import extent_of, schedule_injective
from .machine import Machine, machine_of
from .reduction import padding_at
from .rewrite import (
    insert_stage,
    nest_of,
    replace_loads,
    replace_nest,
    replace_stage,
    substitute,
    with_buffers,
)
from .stages import schedule_stages, stage_names

_ACCUMULATE, _PACK, _EPILOGUE = "contraction_sum", "contraction_pack", "contraction_epilogue"

# Independent sums that a core needs in flight: two FMA units with a latency of four cycles.
_CHAINS = 8

# Fewer rows than this do not pay for packing the weights.
_ROWS_WORTH_PACKING = 16


@dataclass(frozen=True)
class Contraction:
    """A block that sums products ``data * weights``, and the roles of its axes.

    Attributes
    ----------
    info : the block.
    data, weights : the two operands.
    x : axis of the data that is tiled, None if there is none.
    f : axis of the weights that is vectorised.
    groups : groups of a grouped convolution; f is then divided into so many equal parts.
    """

    info: BlockInfo
    data: Access
    weights: Access
    x: int | None
    f: int
    groups: int

    @property
    def outer(self) -> tuple[int, ...]:
        """Spatial axes that are neither x nor f."""
        return tuple(axis for axis in self.info.spatial() if axis not in (self.x, self.f))

    @property
    def rows(self) -> int:
        return 1 if self.x is None else self.info.extents[self.x]

    @property
    def columns(self) -> int:
        """Extent of f within a group."""
        return self.info.extents[self.f] // self.groups

    @property
    def summed(self) -> int:
        return math.prod(self.info.extents[axis] for axis in self.info.reduced())


@dataclass(frozen=True)
class Tile:
    """Register tile: ``rows`` of x by ``vectors`` of ``lanes`` columns; weights packed or not."""

    rows: int
    vectors: int
    lanes: int
    packed: bool

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def match_contraction(info: BlockInfo) -> Contraction | None:
    """Recognise a block as a contraction that this file can schedule."""
    operands = _operands(info)
    if operands is None:
        return None
    best: Contraction | None = None
    for data, weights in (operands, operands[::-1]):
        found = _roles(info, data, weights)
        if found is not None and (best is None or _preference(found) > _preference(best)):
            best = found
    return best


def choose_tile(work: Contraction, machine: Machine) -> Tile:
    """Return the register tile that costs the fewest cycles by a simple model of a core."""
    lanes = min(machine.lanes, _power_of_two_above(work.columns))
    contiguous = work.weights.strides is not None and work.weights.strides[work.f] == 1
    passes = math.prod(work.info.extents[a] for a in work.outer) * work.rows
    may_pack = passes >= _ROWS_WORTH_PACKING or not contiguous
    if not may_pack and work.columns % lanes:
        lanes = math.gcd(work.columns, lanes) if math.gcd(work.columns, lanes) >= 4 else lanes
    candidates = [
        Tile(rows, vectors, lanes, packed=not contiguous or work.columns % (vectors * lanes) != 0)
        for vectors in (1, 2, 3, 4, 6, 8)
        for rows in range(1, machine.registers)
        if rows * vectors + vectors + 1 < machine.registers
    ]

    def cycles(tile: Tile) -> tuple[float, int]:
        tiles = math.ceil(work.rows / tile.rows) * math.ceil(work.columns / tile.columns)
        products = tile.rows * tile.vectors
        step = max(products, _CHAINS) / 2 + 0.3 * tile.vectors + 0.1 * tile.rows
        packing = 1.5 * work.columns * work.rows / passes / lanes if tile.packed else 0
        return tiles * step + packing, -tile.columns

    return min(candidates, key=cycles)


def apply(
    function: tirx.PrimFunc, target: tvm.target.Target, name: str
) -> tirx.PrimFunc | None:
    """Schedule a function that has a contraction; None if it has none."""
    sch = s_tir.Schedule(function)
    for block in top_blocks(sch):
        try:
            info = block_info(sch.get(block))
        except NotAnalysableError:
            continue
        work = match_contraction(info)
        if work is not None:
            machine = machine_of(target)
            sch, rest = schedule_contraction(function, info.name, work, machine)
            schedule_stages(sch, machine, rest)
            return sch.mod["main"]
    return None


def schedule_contraction(
    function: tirx.PrimFunc, name: str, work: Contraction, machine: Machine
) -> tuple[s_tir.Schedule, list[str]]:
    """Rebuild the stage ``name`` with register tiles and schedule it with what is around it.

    Returns the schedule and the names of the stages that are still to be scheduled.
    """
    tile = choose_tile(work, machine)
    epilogue = _find_epilogue(function, name, work)
    sums = tirx.decl_buffer(_sum_shape(work, tile), "float32", name=_ACCUMULATE)
    written = work.info.writes[0].buffer
    rebuilt = replace_stage(
        function, name, _tiled(work, tile), [work.data.buffer, work.weights.buffer, sums], [sums]
    )
    if epilogue is None:
        copy = _tiled_epilogue(work, tile, sums, None)
        rebuilt = insert_stage(rebuilt, _ACCUMULATE, copy)
    else:
        rebuilt = replace_nest(rebuilt, epilogue.name, _tiled_epilogue(work, tile, sums, epilogue))
        kept = [b for b in rebuilt.body.block.alloc_buffers if not b.same_as(written)]
        rebuilt = with_buffers(rebuilt, kept)
    sch = s_tir.Schedule(rebuilt)
    done = {_ACCUMULATE, _EPILOGUE, _PACK}
    names = stage_names(sch)
    total = sch.get_sblock(_ACCUMULATE)
    tasks, tile_loop = _tile_loops(sch, work, tile, machine)
    _schedule_sum(sch, total, tile_loop, tile)
    if tile.packed:
        schedule_injective(sch, sch.get_sblock(_PACK), machine)
    done |= padding_at(sch, total, tasks, machine)
    return sch, [name for name in names if name not in done]


def _operands(info: BlockInfo) -> tuple[Access, Access] | None:
    body = info.node.body
    if not isinstance(body, tirx.BufferStore) or not isinstance(body.value, tirx.Add):
        return None
    product = body.value.b
    if not info.is_reduction or not isinstance(product, tirx.Mul) or len(info.reads) != 2:
        return None
    if not all(isinstance(side, ir.TensorLoad) for side in (body.value.a, product.a, product.b)):
        return None
    if str(product.ty.dtype) != "float32" or info.reads[0].buffer.same_as(info.reads[1].buffer):
        return None
    return info.reads[0], info.reads[1]


def _roles(info: BlockInfo, data: Access, weights: Access) -> Contraction | None:
    """Assign roles; the weights' indices have to be plain variables, so that they can be packed."""
    if not all(isinstance(index, (tirx.Var, tirx.IntImm)) for index in weights.indices):
        return None
    in_data = _axes(info, data.indices)
    in_weights = _axes(info, weights.indices)
    spatial = [axis for axis in info.spatial() if info.extents[axis] > 1]
    columns = [axis for axis in spatial if axis in in_weights and axis not in in_data]
    groups = 1
    if not columns:
        for axis in spatial:
            group = _group_size(info, data, axis)
            if axis in in_weights and group is not None and info.extents[axis] % group == 0:
                columns, groups = [axis], info.extents[axis] // group
    rows = [axis for axis in spatial if axis in in_data and axis not in in_weights]
    written = info.writes[0].strides
    if not columns or written is None or any(a in in_data and a in in_weights for a in ()):
        return None
    f = max(columns, key=lambda axis: (written[axis] == 1, info.extents[axis]))
    x = max(rows, key=lambda axis: (info.extents[axis] >= 4, axis), default=None)
    return Contraction(info, data, weights, x, f, groups)


def _preference(work: Contraction) -> tuple[bool, int]:
    written = work.info.writes[0].strides
    return (written is not None and written[work.f] == 1, work.columns)


def _axes(info: BlockInfo, indices: Iterable[Any]) -> set[int]:
    found: set[int] = set()

    def on_variable(variable: Any) -> None:
        found.update(i for i, v in enumerate(info.variables) if v.same_as(variable))

    for index in indices:
        tvm_ffi.structural_walk(index, (tirx.Var, on_variable))
    return found


def _group_size(info: BlockInfo, data: Access, axis: int) -> int | None:
    """Return c if the data depend on the axis as ``axis // c`` alone."""
    sizes: list[int] = []
    uses: list[Any] = []
    variable = info.variables[axis]

    def on_division(division: Any) -> None:
        if isinstance(division.b, tirx.IntImm) and division.a.same_as(variable):
            sizes.append(int(division.b))

    def on_variable(found: Any) -> None:
        if found.same_as(variable):
            uses.append(found)

    for index in data.indices:
        tvm_ffi.structural_walk(index, [(tirx.FloorDiv, on_division), (tirx.Var, on_variable)])
    return sizes[0] if sizes and len(sizes) == len(uses) and len(set(sizes)) == 1 else None


def _power_of_two_above(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


def _tiled(work: Contraction, tile: Tile) -> tirx.PrimFunc:
    """Return the contraction as stages: weights in panels, sums in tiles, result."""
    info = work.info
    index = str(info.variables[0].ty.dtype)
    panels = math.ceil(work.columns / tile.columns)
    data = _placeholder("data", work.data)
    weights = _placeholder("weights", work.weights)

    def const(value: int) -> Any:
        return tirx.const(value, index)

    def shape(extents: Sequence[int]) -> list[Any]:
        return [const(extent) for extent in extents]

    def column(group: Any, panel: Any, lane: Any) -> Any:
        return group * const(work.columns) + panel * const(tile.columns) + lane

    packed_outer = [a for a in work.outer if a in _axes(info, work.weights.indices)]
    reduced = list(info.reduced())

    def pack(*axes: Any) -> Any:
        outers, (group, panel), rest = (
            axes[: len(packed_outer)],
            axes[len(packed_outer) : len(packed_outer) + 2],
            axes[len(packed_outer) + 2 :],
        )
        lane = rest[-1]
        values = dict(zip(_variables(info, packed_outer), outers, strict=True))
        values.update(zip(_variables(info, reduced), rest[:-1], strict=True))
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
        *(info.extents[a] for a in reduced),
        tile.columns,
    ]
    packed = te.compute(shape(packed_shape), pack, name=_PACK) if tile.packed else None
    sums = [te.reduce_axis((const(0), const(info.extents[axis])), f"k{axis}") for axis in reduced]

    def total(*axes: Any) -> Any:
        outers, (x_tile, group, panel, row, lane) = axes[:-5], axes[-5:]
        values = dict(zip(_variables(info, work.outer), outers, strict=True))
        values.update(zip(_variables(info, reduced), (axis.var for axis in sums), strict=True))
        if work.x is not None:
            place = x_tile * const(tile.rows) + row
            last = const(work.rows - 1)
            values[info.variables[work.x]] = (
                tirx.min(place, last) if work.rows % tile.rows else place
            )
        # A panel lies in one group, so its first column stands for all where data are chosen.
        values[info.variables[work.f]] = group * const(work.columns)
        operand = data(*(substitute(i, values) for i in work.data.indices))
        if packed is not None:
            place_of = dict(zip(work.outer, outers, strict=True))
            chosen = [place_of[a] for a in packed_outer]
            weight = packed(*chosen, group, panel, *sums, lane)
        else:
            values[info.variables[work.f]] = column(group, panel, lane)
            weight = weights(*(substitute(i, values) for i in work.weights.indices))
        return te.sum(operand * weight, axis=sums)

    accumulated = te.compute(_sum_shape(work, tile), total, name=_ACCUMULATE)
    return te.create_prim_func([data, weights, accumulated])


def _placeholder(name: str, access: Access) -> Any:
    return te.placeholder(list(access.buffer.shape), "float32", name=name)


def _variables(info: BlockInfo, axes: Sequence[int]) -> list[Any]:
    return [info.variables[axis] for axis in axes]


def _sum_shape(work: Contraction, tile: Tile) -> list[Any]:
    extents = [
        *(work.info.extents[axis] for axis in work.outer),
        math.ceil(work.rows / tile.rows),
        work.groups,
        math.ceil(work.columns / tile.columns),
        tile.rows,
        tile.columns,
    ]
    return [tirx.const(extent, _index_type(work)) for extent in extents]


def _index_type(work: Contraction) -> str:
    return str(work.info.variables[0].ty.dtype)


def _find_epilogue(function: tirx.PrimFunc, name: str, work: Contraction) -> BlockInfo | None:
    """Return the one stage that reads the result, if it does so at its own place."""
    sch = s_tir.Schedule(function)
    result = sch.get_sblock(name)
    consumers = sch.get_consumers(result)
    if len(consumers) != 1:
        return None
    consumer = block_info(sch.get(consumers[0]))
    written = work.info.writes[0]
    place = tuple(written.strides[a] for a in work.info.spatial()) if written.strides else None
    reads = [read for read in consumer.reads if read.buffer.same_as(written.buffer)]
    fits = (
        not consumer.is_reduction
        and consumer.extents == tuple(work.info.extents[a] for a in work.info.spatial())
        and all(read.strides == place for read in reads)
        and all(write.strides == place for write in consumer.writes)
    )
    return consumer if fits else None


def _tiled_epilogue(
    work: Contraction, tile: Tile, sums: Any, epilogue: BlockInfo | None
) -> Any:
    """Return a stage that takes the sums tile by tile and writes what lies inside the result.

    Its loops are: outer axes, tile of x, group, panel, row, vector and lane (or lane alone, if
    vectors straddle the edge of the result).
    """
    index = _index_type(work)
    whole_vectors = work.columns % tile.lanes == 0
    names = [
        *(f"o{axis}" for axis in work.outer),
        "x_tile",
        "group",
        "panel",
        "row",
        *(("vector", "lane") if whole_vectors else ("lane",)),
    ]
    extents = [int(extent) for extent in _sum_shape(work, tile)]
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
    if work.rows % tile.rows:
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
    return nest_of(_EPILOGUE, variables, extents, body)


def _tile_loops(
    sch: s_tir.Schedule, work: Contraction, tile: Tile, machine: Machine
) -> tuple[Any, Any]:
    """Order the loops of the epilogue; return the parallel loop and the loop of one tile."""
    loops = sch.get_loops(sch.get_sblock(_EPILOGUE))
    count = len(work.outer)
    outer, (x_tile, group, panel), per_tile = (
        loops[:count],
        loops[count : count + 3],
        loops[count + 3 :],
    )
    blocked, in_task = _row_block(sch, work, tile, machine, outer, x_tile)
    sch.reorder(*blocked, group, panel, *in_task, *per_tile)
    tasks = math.prod(extent_of(sch, loop) for loop in blocked)
    task = sch.fuse(*blocked, *([group, panel] if tasks < machine.tasks else []))
    sch.parallel(task)
    if work.columns % tile.lanes == 0:
        sch.vectorize(per_tile[-1])  # Otherwise LLVM does it, with masks.
    return task, in_task[-1]


def _row_block(
    sch: s_tir.Schedule,
    work: Contraction,
    tile: Tile,
    machine: Machine,
    outer: list[Any],
    x_tile: Any,
) -> tuple[list[Any], list[Any]]:
    """Split rows into blocks whose data fit L2; return the loops outside and inside of a task."""
    info = work.info
    in_weights = _axes(info, work.weights.indices)
    rows = [
        i for i, a in enumerate(work.outer) if a not in in_weights and info.extents[a] > 1
    ]
    line = 4 * work.summed * tile.rows  # bytes of data that one tile reads, at most
    if rows:
        position = rows[-1]
        count = extent_of(sch, outer[position])
        line *= math.ceil(work.rows / tile.rows)
        others = math.prod(extent_of(sch, loop) for i, loop in enumerate(outer) if i != position)
        size = _block(count, others, machine, line)
        blocks, inside = sch.split(outer[position], [None, size])
        return [*outer[:position], blocks, *outer[position + 1 :]], [inside, x_tile]
    others = math.prod(extent_of(sch, loop) for loop in outer)
    size = _block(extent_of(sch, x_tile), others, machine, line)
    blocks, inside = sch.split(x_tile, [None, size])
    return [*outer, blocks], [inside]


def _block(count: int, others: int, machine: Machine, line_bytes: int) -> int:
    """Return the largest divisor that leaves enough tasks and fits L2."""
    best = 1
    for size in range(1, count + 1):
        enough = others * (count // size) >= machine.tasks
        if count % size == 0 and enough and size * line_bytes <= machine.l2_bytes:
            best = size
    return best


def _schedule_sum(sch: s_tir.Schedule, total: Any, tile_loop: Any, tile: Tile) -> None:
    sch.compute_at(total, tile_loop, preserve_unit_loops=True)
    info = block_info(sch.get(total))
    loops = sch.get_loops(total)[-len(info.extents) :]
    spatial, sums = loops[: len(info.spatial())], loops[len(info.spatial()) :]
    row, column = spatial[-2:]
    vector, lane = sch.split(column, [None, tile.lanes])
    sch.reorder(*sums, row, vector, lane)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    start = sch.decompose_reduction(total, sums[0])
    row, vector, lane = sch.get_loops(start)[-3:]
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
