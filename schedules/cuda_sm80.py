"""CUDA, plainly: a kernel a stage, a thread an element, no intrinsic.

Correct, and no more: V and M of a whole layer lie in global memory. Budget: a stage keeps its few
operands in registers and uses no shared memory.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.ir import Call
from tvm.tirx import IterVar

from .loops import inline_epilogue
from .space import Point, Space

_THREADS = 256
_FMA = ir.Op.get("tirx.fma")
# Read by several stages, or reductions: computed once. All else is computed where it is read.
_KEPT = frozenset(
    {
        "input_rows", "input_taps", "V_amax", "V", "M", "output_rows", "output",
        "d_amax", "d_quantized", "rows_amax", "rows_quantized",
        "M_amax", "M_quantized", "A_amax", "A_quantized", "products", "taps",
        "row_extremes", "extremes",
    }
)  # fmt: skip


class CudaKernels:
    """Both operators; see ``kernels.Kernels``. A layer is not divided: an output is a thread's."""

    def space(self, work: Any, threads: int) -> Space:
        """Nothing may be chosen."""
        return Space({}, {}, lambda point: True)

    def divided(self, work: Any, threads: int, point: Point | None = None) -> Any:
        """The workload as it is."""
        return work

    def schedule(self, function: tirx.PrimFunc) -> tirx.PrimFunc:
        """Schedule a function that holds a quantized operator."""
        sch = s_tir.Schedule(function)
        inline_epilogue(sch, sch.get_sblock("output"))
        for block in sch.get_child_blocks(sch.get_sblock("root")):
            if sch.get(block).name_hint not in _KEPT:
                sch.compute_inline(block)
        for block in sch.get_child_blocks(sch.get_sblock("root")):
            _bind(sch, block)
        return _with_exact_rounding(sch.mod["main"])


KERNELS = CudaKernels()


def _bind(sch: s_tir.Schedule, block: Any) -> None:
    """A thread for each element of a block's result; its reduction is a loop of the thread."""
    axes = sch.get(block).iter_vars
    loops = zip(sch.get_loops(block), axes, strict=True)
    spatial = [loop for loop, axis in loops if axis.iter_type == IterVar.DataPar]
    blocks, threads = sch.split(sch.fuse(*spatial), [None, _THREADS])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")


def _with_exact_rounding(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Spell fused multiply-add and division as the CUDA functions that round correctly.

    TVM has no rule for the first, and has nvcc approximate the second (``--use_fast_math``).
    """

    def spell_fma(call: Call) -> Any:
        if call.op.same_as(_FMA):
            return tirx.call_pure_extern("float32", "__fmaf_rn", *call.args)
        return call

    def spell_division(division: tirx.Div) -> Any:
        return tirx.call_pure_extern("float32", "__fdiv_rn", division.a, division.b)

    spellings = ((Call, spell_fma), (tirx.Div, spell_division))
    return function.with_body(tvm_ffi.structural_map(function.body, spellings))
