"""Which PyTorch operators are broken up before the import, and how the others are imported.

``torch.export``'s default decomposition to core ATen turns padding into gathers, bicubic
interpolation into a hundred operators, and activations into several passes over the tensor. The
operators of `KEPT` stay whole: TVM imports them, or `operators` does.
"""

from __future__ import annotations

import warnings

import torch

_aten = torch.ops.aten

KEPT = (
    _aten.linear.default,
    _aten.matmul.default,
    _aten.max_pool1d.default,
    _aten.max_pool2d.default,
    _aten.max_pool3d.default,
    _aten.pixel_shuffle.default,
    _aten.pixel_unshuffle.default,
    _aten.prelu.default,
    _aten.reflection_pad2d.default,
    _aten.replication_pad2d.default,
    _aten.scaled_dot_product_attention.default,
    _aten.silu.default,
    _aten.upsample_bicubic2d.vec,
    _aten.upsample_nearest2d.vec,
    _aten._upsample_nearest_exact2d.vec,
)
"""Operators that the decomposition leaves alone."""


def decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Lower a program to core ATen and the operators of `KEPT`."""
    table = dict(torch.export.default_decompositions())
    with warnings.catch_warnings():
        # torch's own pytree code warns about itself on every export.
        warnings.simplefilter("ignore", FutureWarning)
        lowered: torch.export.ExportedProgram = program.run_decompositions(
            {operator: lowering for operator, lowering in table.items() if operator not in KEPT}
        )
    return lowered
