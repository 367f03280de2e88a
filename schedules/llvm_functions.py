"""Functions in LLVM's language, for instructions that TVM's calls of intrinsics cannot name.

A kernel that calls one (``call_extern``) brings its text along; LLVM inlines it and drops the rest.
"""

from __future__ import annotations

from tvm import ir, tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

_PRAGMA = "pragma_import_llvm"  # TVM's name


def with_llvm_functions(function: tirx.PrimFunc, text: str) -> tirx.PrimFunc:
    """The function with the definitions that it calls, if any.

    They have to be ``internal``: kernels of one module may bring the same.
    """
    if not text:
        return function
    root = function.body.block
    body = tirx.AttrStmt(tirx.const(0, "int32"), _PRAGMA, ir.StringImm(text), root.body)
    block = SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init,
        root.alloc_buffers, root.match_buffers, root.annotations,
    )  # fmt: skip
    return function.with_body(SBlockRealize([], True, block))
