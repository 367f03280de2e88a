"""AVX-512 with AMX int8: products of 16 x 64 by 64 x 16 bytes an instruction (``tdpbssd``)."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from ..topi.workload import WinogradWorkload
from .instructions import Instructions, TileInstructions
from .winograd_cpu import CpuBlocking, schedule_winograd
from .x86_vnni import rounded_bytes

_LANES = 16


def _call(name: str, *arguments: Any) -> Any:
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _register(number: int) -> Any:
    return tirx.const(number, "int8")


TILES = TileInstructions(
    configure=lambda place: _call("ldtilecfg", tirx.address_of(place)),
    release=lambda: _call("tilerelease"),
    zero=lambda register: _call("tilezero", _register(register)),
    load=lambda register, place, stride: _call(
        "tileloadd64", _register(register), tirx.address_of(place), stride
    ),
    store=lambda register, place, stride: _call(
        "tilestored64", _register(register), tirx.address_of(place), stride
    ),
    multiply=lambda *registers: _call("tdpbssd", *map(_register, registers)),
)
