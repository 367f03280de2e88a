"""The integer products of a direct convolution's tap on two-dimensional tile registers.

    configure the tile registers, once a task
    for each block of pixels, up to 2 x 16 of them, by up to 32 output channels:
        for each tap of a group:
            accumulators of pixels x 16 = correction of the zero point
            for each 64 channels of the group: load V and U, up to four products of 16 x 16 x 64
            store the accumulators; vector registers scale and add them

The registers are those of ``tile_product_kernel``. A register of V holds neighbouring pixels of one
row of the image, straight from V: its rows lie apart by the channels of a group, and a tap begins
elsewhere. The accumulators pass through 4 KiB of the L1 cache once a tap. For one product of 16
cycles and its loads that is 16 rows to convert, scale and add: a group of 64 spends most of its
time there, one of all channels little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from .cpu_generic.rewrite import substitute
from .instructions import TileInstructions
from .prefetch import TASKS, loop_variables, realized
from .tile_product_kernel import ROWS, accumulators, chunk_of, configured, multiply

START = "wq.tile_start"  # on the outermost loop of what sets the products of a tap
PRODUCTS = "wq.tile_products"  # on the loop over the steps of a tap's products
_COUNT_BYTES = 4


def pixels_of_a_register(columns: int) -> int:
    """The most pixels of a register that cut a row of a task into equal parts."""
    return max(n for n in range(1, min(columns, ROWS) + 1) if columns % n == 0)


@dataclass(frozen=True)
class DirectTiles:
    """How the products of a direct convolution lie in the registers.

    Attributes
    ----------
    rows, parts : pixels of a register of V, all in one row of the image, and such registers.
    vectors : of output channels, at most two.
    stride : of the convolution.
    lanes, reduce : of the dot product.
    """

    rows: int
    parts: int
    vectors: int
    stride: int
    lanes: int
    reduce: int
    instructions: TileInstructions


def write_direct_tiles(function: tirx.PrimFunc, tiles: DirectTiles) -> tirx.PrimFunc:
    """Replace the marked loops of a direct convolution by tile instructions."""
    chunk = 0

    def replaced(loop: tirx.For) -> Any:
        nonlocal chunk
        if START in loop.annotations:
            return tirx.stmt_seq(*_Kernel(loop, tiles).start())
        if PRODUCTS in loop.annotations:
            statements, chunk = _Kernel(loop, tiles).products()
            return tirx.stmt_seq(*statements)
        return loop

    written = tvm_ffi.structural_map(function.body, (tirx.For, replaced))

    def tasks(loop: tirx.For) -> Any:
        if TASKS not in loop.annotations:
            return loop
        parts = (tiles.rows,) * tiles.parts
        return configured(loop, parts, chunk, tiles.reduce, tiles.instructions)

    return function.with_body(tvm_ffi.structural_map(written, (tirx.For, tasks)))


class _Kernel:
    """What a marked loop computes, and where the block of pixels lies in its tensors."""

    def __init__(self, loop: tirx.For, tiles: DirectTiles) -> None:
        self.tiles, self.instructions = tiles, tiles.instructions
        self.used = accumulators(tiles.parts, tiles.vectors)
        (realize,) = realized(loop)
        self.block = realize.block
        inner = {variable: tirx.const(0, "int64") for variable in loop_variables(loop)}
        values = [substitute(value, inner) for value in realize.iter_values]
        self.axes = [axis.var for axis in self.block.iter_vars]
        self.first = dict(zip(self.axes, values, strict=True))
        self.loads: list[Any] = []
        tvm_ffi.structural_walk(self.block.body, (ir.TensorLoad, self.loads.append))

    def start(self) -> list[Any]:
        """Load what takes off the zero point, the same for each pixel."""
        (correction,) = self.loads
        zero = tirx.const(0, "int64")
        return [
            self.instructions.load(register, self._at(correction, part, vector), zero)
            for register, part, vector in self.used
        ]

    def products(self) -> tuple[list[Any], int]:
        """Multiply a tap's channels, chunk by chunk, and store the sums; and a chunk's channels."""
        tiles, counts = self.tiles, self.block.writes[0].source
        operands = [load for load in self.loads if not load.source.same_as(counts)]
        v, u = sorted(operands, key=lambda load: load.source.name != "V")
        size = int(v.source.ty.shape[-1])
        chunk = chunk_of(size, tiles.reduce)
        between_pixels = tirx.const(tiles.stride * size, "int64")
        between_steps = tirx.const(tiles.lanes * tiles.reduce, "int64")
        body: list[Any] = []
        for start in range(0, size, chunk):

            def activations(part: int, start: int = start) -> Any:
                return self._at(v, part, 0, start), between_pixels

            def weights(vector: int, start: int = start) -> Any:
                return self._at(u, 0, vector, start), between_steps

            body += multiply(self.instructions, self.used, activations, weights)
        between_counts = tirx.const(_COUNT_BYTES * tiles.vectors * tiles.lanes, "int64")
        first = tirx.BufferLoad(counts, self.axes[:8])
        for register, part, vector in self.used:
            place = self._at(first, part, vector)
            body.append(self.instructions.store(register, place, between_counts))
        return body, chunk

    def _at(self, load: Any, part: int, vector: int, channel: int = 0) -> Any:
        """A load, moved to a register's first pixel, output channel and input channel."""
        at = dict(self.first)
        # (z, b, c, p, g, e, v, k), and s where there are products.
        pixel, k = self.axes[3], self.axes[7]
        at[pixel] = at[pixel] + part * self.tiles.rows
        at[k] = at[k] + vector * self.tiles.lanes
        if len(self.axes) > 8:
            at[self.axes[8]] = tirx.const(channel, "int64")
        return tirx.BufferLoad(load.source, [substitute(index, at) for index in load.indices])
