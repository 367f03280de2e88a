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

from collections.abc import Iterator
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from .cpu_generic.rewrite import substitute
from .instructions import TileInstructions
from .prefetch import TASKS, loop_variables, realized
from .tile_product_kernel import ACCUMULATORS, ACTIVATIONS, ROWS, WEIGHTS, chunk_of, configured

START = "wq.tile_start"  # on the outermost loop of what sets the products of a tap
PRODUCTS = "wq.tile_products"  # on the loop over the steps of a tap's products
_COUNT_BYTES = 4


def pixels_of_a_register(columns: int) -> int:
    """The most pixels of a register that cut a row of a task into equal parts."""
    return max(n for n in range(1, min(columns, ROWS) + 1) if columns % n == 0)


def write_direct_tiles(
    function: tirx.PrimFunc,
    rows: int,
    parts: int,
    vectors: int,
    stride: int,
    lanes: int,
    reduce: int,
    instructions: TileInstructions,
) -> tirx.PrimFunc:
    """Replace the marked loops of a direct convolution by tile instructions.

    Parameters
    ----------
    rows, parts : pixels of a register of V, all in one row of the image, and such registers.
    vectors : of output channels, at most two.
    stride : of the convolution.
    """
    chunk = 0

    def replaced(loop: tirx.For) -> Any:
        nonlocal chunk
        if START in loop.annotations:
            kernel = _Kernel(loop, rows, parts, vectors, stride, lanes, reduce, instructions)
            return tirx.stmt_seq(*kernel.start())
        if PRODUCTS in loop.annotations:
            kernel = _Kernel(loop, rows, parts, vectors, stride, lanes, reduce, instructions)
            body = tirx.stmt_seq(*kernel.products())
            chunk = kernel.chunk
            return body
        return loop

    written = tvm_ffi.structural_map(function.body, (tirx.For, replaced))

    def tasks(loop: tirx.For) -> Any:
        if TASKS not in loop.annotations:
            return loop
        return configured(loop, (rows,) * parts, chunk, reduce, instructions)

    return function.with_body(tvm_ffi.structural_map(written, (tirx.For, tasks)))


class _Kernel:
    """What a marked loop computes, and where the block of pixels lies in its tensors."""

    def __init__(
        self,
        loop: tirx.For,
        rows: int,
        parts: int,
        vectors: int,
        stride: int,
        lanes: int,
        reduce: int,
        instructions: TileInstructions,
    ) -> None:
        self.rows, self.parts, self.vectors, self.stride = rows, parts, vectors, stride
        self.lanes, self.reduce, self.instructions = lanes, reduce, instructions
        (realize,) = realized(loop)
        self.block = realize.block
        inner = {variable: tirx.const(0, "int64") for variable in loop_variables(loop)}
        values = [substitute(value, inner) for value in realize.iter_values]
        self.axes = [axis.var for axis in self.block.iter_vars]
        self.first = dict(zip(self.axes, values, strict=True))
        loads: list[Any] = []
        tvm_ffi.structural_walk(self.block.body, (ir.TensorLoad, loads.append))
        self.loads = loads

    def start(self) -> list[Any]:
        """Load what takes off the zero point, the same for each pixel."""
        (correction,) = self.loads
        zero = tirx.const(0, "int64")
        return [
            self.instructions.load(register, self._at(correction, part, vector), zero)
            for register, part, vector in self._accumulators()
        ]

    def products(self) -> list[Any]:
        """Multiply a tap's channels, chunk by chunk, and store the sums."""
        counts = self.block.writes[0].source
        operands = [load for load in self.loads if not load.source.same_as(counts)]
        v, u = sorted(operands, key=lambda load: load.source.name != "V")
        self.size = int(v.source.ty.shape[-1])
        self.chunk = chunk_of(self.size, self.reduce)
        between_pixels = tirx.const(self.stride * self.size, "int64")
        between_steps = tirx.const(self.lanes * self.reduce, "int64")
        body: list[Any] = []
        for start in range(0, self.size, self.chunk):
            loaded: set[int] = set()
            for register, part, vector in self._accumulators():
                a, b = ACTIVATIONS[part], WEIGHTS[vector]
                if a not in loaded:
                    place = self._at(v, part, 0, start)
                    body.append(self.instructions.load(a, place, between_pixels))
                if b not in loaded:
                    place = self._at(u, 0, vector, start)
                    body.append(self.instructions.load(b, place, between_steps))
                loaded |= {a, b}
                body.append(self.instructions.multiply(register, a, b))
        between_counts = tirx.const(_COUNT_BYTES * self.vectors * self.lanes, "int64")
        first = tirx.BufferLoad(counts, self.axes[:8])
        for register, part, vector in self._accumulators():
            place = self._at(first, part, vector)
            body.append(self.instructions.store(register, place, between_counts))
        return body

    def _accumulators(self) -> Iterator[tuple[int, int, int]]:
        for part in range(self.parts):
            for vector in range(self.vectors):
                yield ACCUMULATORS[part * len(WEIGHTS) + vector], part, vector

    def _at(self, load: Any, part: int, vector: int, channel: int = 0) -> Any:
        """A load, moved to a register's first pixel, output channel and input channel."""
        at = dict(self.first)
        # (z, b, c, p, g, e, v, k), and s where there are products.
        pixel, k = self.axes[3], self.axes[7]
        at[pixel] = at[pixel] + part * self.rows
        at[k] = at[k] + vector * self.lanes
        if len(self.axes) > 8:
            at[self.axes[8]] = tirx.const(channel, "int64")
        return tirx.BufferLoad(load.source, [substitute(index, at) for index in load.indices])
