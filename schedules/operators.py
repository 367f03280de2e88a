"""Which of our operators a function holds: an annotation on its last block says so."""

from __future__ import annotations

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock

from ..topi.attention import OPERATOR as ATTENTION
from ..topi.direct import OPERATOR as DIRECT
from ..topi.direct_bfloat16 import OPERATOR as DIRECT_BFLOAT16
from ..topi.direct_image import OPERATOR as DIRECT_IMAGE
from ..topi.winograd import OPERATOR as WINOGRAD

__all__ = [
    "ATTENTION",
    "DIRECT",
    "DIRECT_BFLOAT16",
    "DIRECT_IMAGE",
    "WINOGRAD",
    "operator_of",
]

_ANNOTATION = "wq.operator"


def operator_of(function: tirx.PrimFunc) -> str | None:
    """Name of the operator, or None if the function holds none of ours."""
    found: list[str] = []

    def visit(block: SBlock) -> None:
        if _ANNOTATION in block.annotations:
            found.append(str(block.annotations[_ANNOTATION]))

    tvm_ffi.structural_walk(function.body, (SBlock, visit))
    return found[0] if found else None
