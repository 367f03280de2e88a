"""Quantization of V by an ISA's own instructions."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from .cpu_generic.rewrite import substitute
from .instructions import Instructions
from .prefetch import realized

LANES = "wq.quantize"  # on the loop over the lanes of a vector of V


def write_quantization(function: tirx.PrimFunc, instructions: Instructions) -> tirx.PrimFunc:
    """Replace each marked loop, with the block V in it, by the instructions for a vector.

    They need no clamping: a finite group's values are within +-127 once rounded, levels within 0
    and 256, which saturates. Integers of a group that is not finite may differ from the
    reference's; its step is NaN, and so is M.
    """

    def replace(loop: tirx.For) -> Any:
        return _vectors(loop, instructions) if LANES in loop.annotations else loop

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, replace)))


def _vectors(loop: tirx.For, instructions: Instructions) -> Any:
    (realize,) = realized(loop)
    block, count = realize.block, int(loop.extent)
    first = {loop.loop_var: tirx.const(0, "int64")}
    values = [substitute(value, first) for value in realize.iter_values]
    at = {axis.var: value for axis, value in zip(block.iter_vars, values, strict=True)}
    source, inverse, *zero = (
        (read.source, [substitute(index, at) for index in read.indices])
        for read in _operands(block)
    )
    # The last axis, of V and of what is quantized, is that of the lanes.
    lanes = tirx.Ramp(values[-1], tirx.const(1, "int64"), count)
    vector = tirx.BufferLoad(source[0], [*source[1][:-1], lanes])
    factor = tirx.Broadcast(tirx.BufferLoad(*inverse), count)
    if zero:
        level = tirx.Broadcast(tirx.BufferLoad(*zero[0]), count)
        value = instructions.levels(vector * factor, level)
    else:
        value = instructions.quantize(vector * factor)
    store = tirx.BufferStore(block.writes[0].source, value, [*values[:-1], lanes])
    return SBlockRealize([], True, SBlock([], block.reads, block.writes, "V", store))


def _operands(block: SBlock) -> list[Any]:
    """The loads of a block V: what is quantized, its step's inverse, and the level of zero if any.

    Of each the first: as an expression, what is rounded occurs more than once.
    """
    loads: list[Any] = []
    tvm_ffi.structural_walk(block.body, (ir.TensorLoad, loads.append))
    steps = [
        next((load for load in loads if load.source.name == name), None)
        for name in ("V_inverse", "V_zero")
    ]
    source = next(load for load in loads if load.source.name not in ("V_inverse", "V_zero"))
    return [load for load in (source, *steps) if load is not None]
