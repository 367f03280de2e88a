"""A kernel that takes or gives some of its tensors in 16 bits, and computes in float32 as before.

What it reads is widened, which is exact, and what it writes is rounded to the nearest, ties to
even.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.ir.expr import TensorLoad, TensorRegion
from tvm.s_tir import renew_defs

from ..topi.arithmetic import bfloat16_bits, bfloat16_value, like

WIDE = "float32"


@dataclass(frozen=True)
class Conversion:
    """How float32 values are had from narrow ones, exactly, and narrow ones from float32."""

    widen: Callable[[Any], Any]
    round: Callable[[Any], Any]


def _widened_bfloat16(load: Any) -> Any:
    return bfloat16_value(tirx.reinterpret(like(load, "uint16"), load))


def _rounded_bfloat16(value: Any) -> Any:
    return tirx.reinterpret(like(value, "bfloat16"), bfloat16_bits(value))


CONVERSIONS = {
    "bfloat16": Conversion(_widened_bfloat16, _rounded_bfloat16),
    "float16": Conversion(
        lambda load: tirx.Cast(like(load, WIDE), load),
        lambda value: tirx.Cast(like(value, "float16"), value),
    ),
}
"""By the dtype of images. Beyond 65504 float16 is infinite; bfloat16 has the range of float32."""


def narrow_parameters(
    function: tirx.PrimFunc, positions: Sequence[int], dtype: str
) -> tirx.PrimFunc:
    """The function that takes or gives these parameters, by position, as another dtype."""
    conversion = CONVERSIONS[dtype]
    own = {
        function.params[i]: tirx.decl_buffer(
            function.params[i].shape,
            dtype,
            function.params[i].name,
            layout=function.params[i].layout,
        )
        for i in positions
    }

    def load(node: Any) -> Any:
        if node.source not in own:
            return node
        return conversion.widen(tirx.BufferLoad(own[node.source], node.indices))

    def store(node: tirx.BufferStore) -> Any:
        value = conversion.round(node.value) if node.buffer in own else node.value
        # Widened only to be rounded again: as it is.
        load = _load_of(value, dtype, lambda load: conversion.round(conversion.widen(load)))
        value = value if load is None else load
        return tirx.BufferStore(own.get(node.buffer, node.buffer), value, node.indices)

    def region(node: Any) -> Any:
        return tirx.BufferRegion(own[node.source], node.region) if node.source in own else node

    def address(call: Any) -> Any:
        narrow = _load_of(call.args[0], dtype, conversion.widen) if is_address(call) else None
        return call if narrow is None else tirx.address_of(narrow)

    body = tvm_ffi.structural_map(
        function.body,
        [(TensorLoad, load), (tirx.BufferStore, store), (TensorRegion, region), (ir.Call, address)],
    )
    params = [own.get(param, param) for param in function.params]
    # With variables of its own: the module has the function it was made from, too.
    return renew_defs(tirx.PrimFunc(params, body, function.ret_type, function.attrs))


def _load_of(value: Any, dtype: str, convert: Callable[[Any], Any]) -> Any:
    """The load of this dtype that a value is converted from and nothing else; else None."""
    loads: list[Any] = []
    tvm_ffi.structural_walk(value, (TensorLoad, loads.append))
    if not loads or str(loads[0].ty.dtype) != like(loads[0], dtype):
        return None
    return loads[0] if tvm_ffi.structural_equal(value, convert(loads[0])) else None


def is_address(call: Any) -> bool:
    """Whether a call takes the address of what it is given."""
    return isinstance(call.op, ir.Op) and str(call.op.name) == "tirx.address_of"
