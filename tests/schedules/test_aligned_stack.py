"""A vector of each task asks for an aligned stack; nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock

from wqtvm.schedules.aligned_stack import with_aligned_stack


def loops(parallel: int, serial: int) -> tirx.PrimFunc:
    """Some parallel loops, and some serial ones, each of which stores a number."""
    buffer = tirx.decl_buffer((8,), "float32", "x")
    kinds = [tirx.ForKind.PARALLEL] * parallel + [tirx.ForKind.SERIAL] * serial
    statements = []
    for kind in kinds:
        i = tirx.Var("i", "int64")
        store = tirx.BufferStore(buffer, tirx.const(1.0, "float32"), [i])
        extent = tirx.const(8, "int64")
        statements.append(tirx.For(i, tirx.const(0, "int64"), extent, kind, store))
    return tirx.PrimFunc([buffer], tirx.SeqStmt(statements))


def vectors(function: tirx.PrimFunc) -> list[str]:
    """The dtypes of the vectors that were added."""
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, (SBlock, found.append))
    return [str(buffer.ty.dtype) for block in found for buffer in block.alloc_buffers]


@pytest.mark.parametrize(("lanes", "dtype"), [(8, "int64x4"), (16, "int64x8")])
def test_each_parallel_loop_has_one(lanes: int, dtype: str) -> None:
    assert vectors(with_aligned_stack(loops(2, 1), lanes)) == [dtype, dtype]


def test_serial_loops_and_narrow_vectors_are_left_alone() -> None:
    for function, lanes in ((loops(0, 2), 16), (loops(2, 1), 4)):
        same = with_aligned_stack(function, lanes)
        assert tvm_ffi.structural_equal(same, function)
        assert vectors(same) == []
