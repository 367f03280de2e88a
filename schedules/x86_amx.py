"""AVX-512 with AMX: products of 16 x 64 by 64 x 16 bytes an instruction (``tdpbusd``).

Of bfloat16 it is half as many (``tdpbf16ps``).
All but the products is that of ``x86_vnni``, the packing of weights included.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx

from . import x86_vnni
from .cpu import CpuKernels
from .instructions import TileInstructions


def _call(name: str, *arguments: Any) -> Any:
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _register(number: int) -> Any:
    return tirx.const(number, "int8")


_TILES = TileInstructions(
    configure=lambda place: _call("ldtilecfg", tirx.address_of(place)),
    release=lambda: _call("tilerelease"),
    load=lambda register, place, stride: _call(
        "tileloadd64", _register(register), tirx.address_of(place), stride
    ),
    store=lambda register, place, stride: _call(
        "tilestored64", _register(register), tirx.address_of(place), stride
    ),
    zero=lambda register: _call("tilezero", _register(register)),
    multiply=lambda *registers: _call("tdpbusd", *map(_register, registers)),
)
_BFLOAT16_TILES = replace(
    _TILES, multiply=lambda *registers: _call("tdpbf16ps", *map(_register, registers))
)

# Two registers of V, up to 32 tiles, by two of U, 32 output channels. L2 is 2 MiB: V and M of a
# block take half of it, since U streams through it, too.
_WINOGRAD = replace(
    x86_vnni.KERNELS.winograd,
    register_tiles=32,
    register_vectors=2,
    l2_bytes=1024 * 1024,
    few_tiles=0,
    tiles=_TILES,
)

# The same registers: 2 x 16 pixels by 32 output channels. A task reads V of its pixels and U of a
# panel once a group; counts and sums of a block of pixels, 4 KiB each, stay in L1.
_DIRECT = replace(x86_vnni.KERNELS.direct, tiles=_TILES)

_BFLOAT16 = replace(_DIRECT, dot_reduce=2, tiles=_BFLOAT16_TILES)

KERNELS = CpuKernels(_WINOGRAD, _DIRECT, _BFLOAT16)
