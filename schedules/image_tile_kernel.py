"""The products of a direct convolution that are one sum, on tile registers.

    configure the tile registers, once a task
    for each register block, up to 4 x 16 pixels by 16 output channels, or 2 x 16 by 32:
        up to four accumulators of 16 x 16 = what takes off the level of zero, or zero
        for each 64 channels of int8, or 32 of bfloat16, for each tap:
            load V and U, up to four products of 16 x 16 x 64, fetch a part of the next V
            after the taps of 64 channels: store a register of V, to where the sums will be
        store the accumulators, as what is scaled next

The registers are those of ``tile_product_kernel``, of V in turns. Four products take 64 cycles; a
row of a register takes one to load from L1, and 1.4 from L2, where U is. So four products of 2 x 16
pixels by 32 channels wait for their loads, 77 cycles, and of 4 x 16 by 16 longer, 86; but rows of 7
or 8 pixels, whose products wait for each other, take 54 instead of 61. A register of V
holds neighbouring pixels of one row of the image, straight from V: a kilobyte that begins elsewhere
for each tap. Rows of 8 pixels and less leave half of it empty: V may have the pixels of each column
of taps by themselves, flat, and registers go on from one row to the next.

A store of a tile register that is the first for 700 ns, 33 times four products, waits 270 ns on
CPUs of the Granite Rapids class, as if what stores had been asleep, and the products behind it wait
too. So one of the registers is stored in vain, to 64 bytes that are overwritten: layers of more
than 192 channels take 8 to 13 % less for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from .cpu_generic.rewrite import substitute
from .instructions import TileInstructions
from .prefetch import TASKS, fetch, loop_variables, realized
from .tile_product_kernel import ACCUMULATORS, ACTIVATIONS, Accumulator, configured, multiply

REDUCTION = "wq.image_reduction"  # on the outermost loop of the sums of a register block
_COUNT_BYTES = 4


@dataclass(frozen=True)
class ImageTiles:
    """How the products of a register block lie in the registers.

    Attributes
    ----------
    block : rows and columns of pixels.
    flat : whether a register of V holds pixels of more than one row, as they follow each other.
    rows : pixels of a register of V, all in one row of the image unless it is flat.
    vectors : of output channels, at most two, and no more than four registers of accumulators.
    stride : of the convolution.
    lanes, reduce : of the dot product.
    chunk : channels of one product, those that V stores together.
    each : bytes of a channel in V and U.
    fetch_pixels : whether V is fetched ahead.
    """

    block: tuple[int, ...]
    flat: bool
    rows: int
    vectors: int
    stride: int
    lanes: int
    reduce: int
    chunk: int
    each: int
    instructions: TileInstructions
    fetch_pixels: bool

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Row and column of each register's first pixel."""
        rows, columns = self.block
        if self.flat:
            return [divmod(first, columns) for first in range(0, rows * columns, self.rows)]
        return [(row, at) for row in range(rows) for at in range(0, columns, self.rows)]

    @property
    def used(self) -> list[Accumulator]:
        """Registers of accumulators, with the part of the pixels and the vector that they hold."""
        places = product(range(len(self.parts)), range(self.vectors))
        return [(register, *place) for register, place in zip(ACCUMULATORS, places, strict=False)]


def write_image_tiles(function: tirx.PrimFunc, tiles: ImageTiles) -> tirx.PrimFunc:
    """Replace the marked loops by tile instructions, and configure where tasks begin."""

    def reduction(loop: tirx.For) -> Any:
        return _products(loop, tiles) if REDUCTION in loop.annotations else loop

    written = tvm_ffi.structural_map(function.body, (tirx.For, reduction))

    def tasks(loop: tirx.For) -> Any:
        if TASKS not in loop.annotations:
            return loop
        parts = (tiles.rows,) * len(ACTIVATIONS)
        return configured(
            loop, parts, tiles.chunk * tiles.each, tiles.reduce * tiles.each, tiles.instructions
        )

    return function.with_body(tvm_ffi.structural_map(written, (tirx.For, tasks)))


def _products(loop: tirx.For, tiles: ImageTiles) -> Any:
    """The sums of a register block, in place of their loops."""
    (realize,) = realized(loop)
    block = realize.block
    axes = [axis.var for axis in block.iter_vars]  # (z, b, c, p, k, g, e, v, s)
    inner = {variable: tirx.const(0, "int64") for variable in loop_variables(loop)}
    values = [substitute(value, inner) for value in realize.iter_values]
    first = dict(zip(axes, values, strict=True))
    loads: list[Any] = []
    tvm_ffi.structural_walk(block.body, (ir.TensorLoad, loads.append))
    counts = block.writes[0].source
    operands = [load for load in loads if not load.source.same_as(counts)]
    v, u = sorted(operands, key=lambda load: load.source.name != "V")
    starts: list[Any] = []
    tvm_ffi.structural_walk(block.init.value, (ir.TensorLoad, starts.append))
    taps = int(u.source.ty.shape[2])
    g, e, c = (tirx.Var(name, "int64") for name in ("g", "e", "v"))
    columns = tiles.block[1]

    def at(load: Any, pixel: int, vector: int) -> Any:
        place = {**first, axes[5]: g, axes[6]: e, axes[7]: c}
        place[axes[3]] = place[axes[3]] + pixel
        place[axes[4]] = place[axes[4]] + vector * tiles.lanes
        return tirx.BufferLoad(load.source, [substitute(index, place) for index in load.indices])

    def activations(part: int) -> tuple[Any, Any]:
        row, column = tiles.parts[part]
        place = at(v, row * columns + column, 0)
        return place, tirx.const(tiles.stride * tiles.chunk * tiles.each, "int64")

    def weights(vector: int) -> tuple[Any, Any]:
        return at(u, 0, vector), tirx.const(tiles.lanes * tiles.reduce * tiles.each, "int64")

    instructions = tiles.instructions
    products = multiply(instructions, tiles.used, activations, weights)
    first_tap = {axes[5]: g, axes[6]: tirx.const(0, "int64"), axes[7]: tirx.const(0, "int64")}
    corner = [substitute(index, {**first, **first_tap}) for index in v.indices]
    ahead: list[Any] = []
    if tiles.fetch_pixels:
        ahead = _fetches(v.source, corner, g, int(loop.extent), e * taps + c, taps, tiles)
    body: Any = _loop(e, taps, _loop(c, taps, tirx.stmt_seq(*products, *ahead)))
    written = tirx.BufferLoad(counts, axes[:5])
    if int(loop.extent) > 1:
        awake = instructions.store(ACTIVATIONS[0], at(written, 0, 0), tirx.const(0, "int64"))
        body = tirx.SeqStmt([body, awake])
    body = _loop(g, int(loop.extent), body)
    between = tirx.const(_COUNT_BYTES * tiles.vectors * tiles.lanes, "int64")
    stores = []
    for register, part, vector in tiles.used:
        row, column = tiles.parts[part]
        place = at(written, row * columns + column, vector)
        stores.append(instructions.store(register, place, between))
    begin = [
        instructions.load(register, at(starts[0], 0, vector), tirx.const(0, "int64"))
        if starts
        else instructions.zero(register)
        for register, _, vector in tiles.used
    ]
    return tirx.SeqStmt([*begin, body, *stores])


def _loop(variable: Any, extent: int, body: Any) -> Any:
    zero = tirx.const(0, "int64")
    return tirx.For(variable, zero, tirx.const(extent, "int64"), tirx.ForKind.SERIAL, body)


def _fetches(
    v: Any, corner: Sequence[Any], part: Any, parts: int, tap: Any, taps: int, tiles: ImageTiles
) -> list[Any]:
    """A tap's share of fetching what is next of V: a line a pixel, of the block's next channels.

    After the last ones come the first ones of the register block beside it; where there is none,
    that does no harm. A register that is loaded from L2 keeps the loads behind it waiting.
    """
    rows, columns = ((edge - 1) * tiles.stride + taps for edge in tiles.block)
    share = math.ceil(rows * columns / taps**2)
    z, _, y, x, s = corner
    is_last = part == parts - 1
    beside = tirx.Select(is_last, tirx.const(tiles.block[1] * tiles.stride, "int64"), 0 * part)
    following = tirx.Select(is_last, 0 * part, part + 1)
    fetched = []
    for each in range(share):
        line = tap * share + each
        row, column = tirx.truncdiv(line, columns), tirx.truncmod(line, columns)
        fetched.append(fetch(tirx.BufferLoad(v, [z, following, y + row, x + column + beside, s])))
    return fetched
