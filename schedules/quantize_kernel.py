"""Quantization of V by an ISA's own instructions."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from .cpu_generic.rewrite import substitute
from .instructions import Instructions
from .prefetch import realized

LANES = "wq.quantize"  # on the loop over the lanes of a vector of V


def write_quantization(function: tirx.PrimFunc, instructions: Instructions) -> tirx.PrimFunc:
    """Replace each marked loop, with the block V in it, by the instructions for a vector.

    They need no clamping: a finite group's values are within +-127 once rounded. Integers of a
    group that is not finite may differ from the reference's; its step is NaN, and so is M.
    """

    def replace(loop: tirx.For) -> Any:
        return _vectors(loop, instructions) if LANES in loop.annotations else loop

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, replace)))


def _vectors(loop: tirx.For, instructions: Instructions) -> Any:
    (realize,) = realized(loop)
    block, count = realize.block, int(loop.extent)
    first = {loop.loop_var: tirx.const(0, "int64")}
    e, v, z, y, x, g, s = (substitute(value, first) for value in realize.iter_values)
    sources = {region.source.name: region.source for region in block.reads}
    lanes = tirx.Ramp(s, tirx.const(1, "int64"), count)
    taps = tirx.BufferLoad(sources["input_taps"], [z, y, x, g, e, v, lanes])
    inverse = tirx.BufferLoad(sources["V_inverse"], [z, y, x, g, e, v])
    value = instructions.quantize(taps * tirx.Broadcast(inverse, count))
    store = tirx.BufferStore(block.writes[0].source, value, [e, v, z, y, x, g, lanes])
    return SBlockRealize([], True, SBlock([], block.reads, block.writes, "V", store))
