"""The integer product of a register block on two-dimensional tile registers, written out.

    configure the tile registers, once a block of tiles
    for each register block of M, up to 32 tiles by 32 output channels:
        for each group:
            up to four accumulators of 16 x 16 = correction of the zero point
            for each 64 channels of the group: load V and U, up to four products of 16 x 16 x 64
            store the accumulators; for each row of them: M += row * steps

Eight tile registers: four accumulators, two of V (rows are tiles, a row a tile's channels of the
group, straight from V), two of U (rows are four channels of 16 output channels, as packed). The
accumulators go through 4 KiB of the L1 cache to the vector registers, which is most of the work
where groups are small: a group of 64 takes one product of 16 cycles for 16 rows to convert and
scale. M lies in the L1 or L2 cache between groups.

U of the next tap is fetched ahead, as in ``product_kernel``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from .instructions import TileInstructions
from .prefetch import NEAREST, realized
from .product_kernel import Product, write_marked
from .scratch import with_scratch

ROWS, ROW_BYTES = 16, 64  # of a tile register
ACCUMULATORS, ACTIVATIONS, WEIGHTS = (0, 1, 2, 3), (4, 5), (6, 7)  # registers
Accumulator = tuple[int, int, int]  # a register, the part of the rows and the vector that it holds
_CONFIG_BYTES = 64
_PALETTE = 1
_FIRST_ROW_BYTES, _FIRST_ROWS = 16, 48  # offsets in the configuration


def write_tile_products(
    function: tirx.PrimFunc,
    rows: tuple[int, int],
    vectors: int,
    lanes: int,
    reduce: int,
    instructions: TileInstructions,
    fetch_weights: int = NEAREST,
) -> tirx.PrimFunc:
    """Replace each loop over groups that is marked by the kernel; configure where blocks begin.

    ``fetch_weights`` is the level of the cache into which the next tap's U is fetched, or 0.
    """
    chunk = 0
    scratch = tirx.decl_buffer((len(ACCUMULATORS), ROWS, lanes), "int32", "accumulators")

    def kernel(loop: tirx.For, blocks: list[Any]) -> Any:
        nonlocal chunk
        product = TileProduct(loop, blocks, rows, vectors, lanes, reduce, instructions, scratch)
        chunk = product.chunk
        return product.statement(fetch_weights)

    written = write_marked(function, kernel)

    tiles = math.prod(rows)
    parts = [min(ROWS, tiles - first) for first in range(0, tiles, ROWS)]

    def blocks(loop: tirx.For) -> Any:
        products = any(block.block.name_hint == "M" for block in realized(loop))
        if loop.kind != tirx.ForKind.PARALLEL or not products:
            return loop
        return with_scratch(configured(loop, parts, chunk, reduce, instructions), scratch)

    return written.with_body(tvm_ffi.structural_map(written.body, (tirx.For, blocks)))


class TileProduct(Product):
    """One register block: tiles in up to two registers, by up to two vectors of output channels.

    ``rows`` of more than one tile row must span the block of tiles: the rows of a register lie
    apart by the same distance.
    """

    def __init__(
        self,
        loop: tirx.For,
        blocks: list[Any],
        rows: tuple[int, int],
        vectors: int,
        lanes: int,
        reduce: int,
        instructions: TileInstructions,
        scratch: Any,
    ) -> None:
        super().__init__(loop, blocks, vectors, lanes, reduce)
        self.rows, self.instructions = rows, instructions
        self.size = self.steps * reduce
        self.chunk = chunk_of(self.size, reduce)
        self.places = [(row, column) for row in range(rows[0]) for column in range(rows[1])]
        self.scratch = scratch

    def statement(self, fetch_weights: int) -> Any:
        """The kernel, in place of the loop."""
        group = tirx.Var("g", "int64")
        zero = tirx.const(0, "int64")

        def ahead(of: Any) -> list[Any]:
            return self._fetch(of, fetch_weights) if fetch_weights else []

        body = [*ahead(zero), *self._group(zero, first=True)]
        if self.groups > 1:
            others = [*ahead(group + 1), *self._group(group + 1, first=False)]
            count = tirx.const(self.groups - 1, "int64")
            body.append(tirx.For(group, zero, count, tirx.ForKind.SERIAL, tirx.SeqStmt(others)))
        block = SBlock([], self.reads, self.writes, "M", tirx.SeqStmt(body))
        return SBlockRealize([], True, block)

    def _group(self, group: Any, first: bool) -> list[Any]:
        used = accumulators(math.ceil(len(self.places) / ROWS), self.vectors)
        body = [self._start(group, register, vector) for register, _, vector in used]
        for start in range(0, self.size, self.chunk):
            body += self._multiply(group, start, used)
        for register, *_ in used:
            place = self._scratch(register, 0)
            stride = tirx.const(4 * self.lanes, "int64")
            body.append(self.instructions.store(register, place, stride))
        for register, part, vector in used:
            for row in range(self._part_rows(part)):
                body.append(self._scaled(group, register, part * ROWS + row, vector, first))
        return body

    def _start(self, group: Any, register: int, vector: int) -> Any:
        """Load what takes off the zero point, the same in each row."""
        e, v, *_, k = self.at
        place = tirx.BufferLoad(self.correction, [e, v, group, k + vector * self.lanes])
        return self.instructions.load(register, place, tirx.const(0, "int64"))

    def _part_rows(self, part: int) -> int:
        return min(ROWS, len(self.places) - part * ROWS)

    def _multiply(self, group: Any, start: int, used: Sequence[Accumulator]) -> list[Any]:
        """Multiply a chunk of the group's channels."""
        e, v, z, y, x, k = self.at
        zero = tirx.const(0, "int64")

        def activations(part: int) -> Any:
            row, column = self.places[part * ROWS]
            place = tirx.BufferLoad(self.v, [e, v, z, y + row, x + column, group, zero + start])
            return place, tirx.const(self.groups * self.size, "int64")

        def weights(vector: int) -> Any:
            panel = tirx.floordiv(k, self.lanes) + vector
            step = zero + start // self.reduce
            place = tirx.BufferLoad(self.u, [panel, e, v, group, step, zero, zero])
            return place, tirx.const(self.lanes * self.reduce, "int64")

        return multiply(self.instructions, used, activations, weights)

    def _scaled(self, group: Any, register: int, tile: int, vector: int, first: bool) -> Any:
        """M of a tile and vector: the accumulators' row times its steps, added from group 1 on."""
        e, v, z, y, x, k = self.at
        row, column = self.places[tile]
        lanes = tirx.Ramp(k + vector * self.lanes, tirx.const(1, "int64"), self.lanes)
        place = [e, v, z, y + row, x + column, lanes]
        count = tirx.BufferLoad(self.scratch, self._scratch_index(register, tile % ROWS))
        step = tirx.BufferLoad(self.v_step, [z, y + row, x + column, group, e, v])
        u_step = tirx.BufferLoad(self.u_step, [e, v, group, lanes])
        factor = tirx.Broadcast(step, self.lanes) * u_step
        count = count.astype(f"float32x{self.lanes}")
        total = self._zero() if first else tirx.BufferLoad(self.m, place)
        return tirx.BufferStore(self.m, tirx.op.fma(count, factor, total), place)

    def _scratch_index(self, register: int, row: int) -> list[Any]:
        return [tirx.const(register, "int64"), tirx.const(row, "int64"), self._lanes()]

    def _scratch(self, register: int, row: int) -> Any:
        place = [*self._scratch_index(register, row)[:2], tirx.const(0, "int64")]
        return tirx.BufferLoad(self.scratch, place)


def accumulators(parts: int, vectors: int) -> list[Accumulator]:
    """Registers of accumulators, with the part of the rows and the vector that they hold."""
    return [
        (ACCUMULATORS[part * len(WEIGHTS) + vector], part, vector)
        for part in range(parts)
        for vector in range(vectors)
    ]


def multiply(
    instructions: TileInstructions,
    used: Sequence[Accumulator],
    activations: Callable[[int], tuple[Any, Any]],
    weights: Callable[[int], tuple[Any, Any]],
) -> list[Any]:
    """Load a chunk of channels, what a register holds once, and multiply.

    Parts take the registers of V in turns.

    ``activations`` of a part and ``weights`` of a vector: the load of a register's first element,
    and the bytes from one of its rows to the next.
    """
    body: list[Any] = []
    held: dict[int, int] = {}  # the part or vector in a register
    for register, part, vector in used:
        a, b = ACTIVATIONS[part % len(ACTIVATIONS)], WEIGHTS[vector]
        if held.get(a) != part:
            body.append(instructions.load(a, *activations(part)))
        if held.get(b) != vector:
            body.append(instructions.load(b, *weights(vector)))
        held |= {a: part, b: vector}
        body.append(instructions.multiply(register, a, b))
    return body


def chunk_of(size: int, reduce: int) -> int:
    """Channels of one product: the most that divide a group and fit a row of a register."""
    return max(c for c in range(reduce, min(size, ROW_BYTES) + 1, reduce) if size % c == 0)


def configured(
    loop: tirx.For, parts: Sequence[int], chunk: int, reduce: int, instructions: TileInstructions
) -> Any:
    """The loop with the tile registers configured for its body, and released behind it.

    ``parts`` are the rows of the registers of V that are used, and of their accumulators.
    """
    config = tirx.decl_buffer((_CONFIG_BYTES,), "uint8", "tile_config", scope="local")
    shapes = {}
    for part, activations in enumerate(ACTIVATIONS):
        rows = parts[part] if part < len(parts) else 1
        shapes[activations] = (rows, chunk)
        for vector in range(len(WEIGHTS)):
            shapes[ACCUMULATORS[part * len(WEIGHTS) + vector]] = (rows, ROW_BYTES)
    for weights in WEIGHTS:
        shapes[weights] = (chunk // reduce, ROW_BYTES)
    values = {0: _PALETTE}
    for register, (rows, row_bytes) in shapes.items():
        values[_FIRST_ROW_BYTES + 2 * register] = row_bytes
        values[_FIRST_ROWS + register] = rows
    stores = [
        tirx.BufferStore(config, tirx.const(values.get(i, 0), "uint8"), [tirx.const(i, "int64")])
        for i in range(_CONFIG_BYTES)
    ]
    place = tirx.BufferLoad(config, [tirx.const(0, "int64")])
    body = [*stores, instructions.configure(place), loop.body, instructions.release()]
    block = SBlock([], [], [], "tiles", tirx.SeqStmt(body), alloc_buffers=[config])
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, SBlockRealize([], True, block),
        annotations=loop.annotations,
    )  # fmt: skip
