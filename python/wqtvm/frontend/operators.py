"""Imports of the operators that TVM's importer lacks or gets wrong, keyed as it keys them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import fx
from tvm import relax

Convert = Callable[[fx.Node, Any], Any]
"""Takes a node and TVM's importer, of which ``env`` and ``block_builder`` are used."""


def _pixel_shuffle(node: fx.Node, importer: Any) -> relax.Var:
    """(N, C r r, H, W) -> (N, C, H r, W r); TVM's relax.nn.pixel_shuffle has no implementation."""
    x, factor = importer.env[node.args[0]], cast(int, node.args[1])
    batch, channels, height, width = (int(size) for size in x.ty.shape)
    kept = channels // (factor * factor)
    emit = importer.block_builder.emit
    split = emit(relax.op.reshape(x, (batch, kept, factor, factor, height, width)))
    moved = emit(relax.op.permute_dims(split, (0, 1, 4, 2, 5, 3)))
    return emit(relax.op.reshape(moved, (batch, kept, height * factor, width * factor)))


def _pixel_unshuffle(node: fx.Node, importer: Any) -> relax.Var:
    """(N, C, H r, W r) -> (N, C r r, H, W); channel c r r + i r + j holds offset (i, j) of c."""
    x, factor = importer.env[node.args[0]], cast(int, node.args[1])
    batch, channels, height, width = (int(size) for size in x.ty.shape)
    rows, columns = height // factor, width // factor
    emit = importer.block_builder.emit
    split = emit(relax.op.reshape(x, (batch, channels, rows, factor, columns, factor)))
    moved = emit(relax.op.permute_dims(split, (0, 1, 3, 5, 2, 4)))
    return emit(relax.op.reshape(moved, (batch, channels * factor * factor, rows, columns)))


def _pad2d(mode: str) -> Convert:
    def convert(node: fx.Node, importer: Any) -> relax.Var:
        x = importer.env[node.args[0]]
        left, right, top, bottom = cast(Sequence[int], node.args[1])
        widths = [0, 0] * (x.ty.ndim - 2) + [top, bottom, left, right]
        return importer.block_builder.emit(relax.op.nn.pad(x, widths, mode))

    return convert


def _resize2d(method: str, coordinates: str, rounding: str = "") -> Convert:
    """Interpolation to a size, or by scale factors that give a whole number of pixels.

    TVM's own conversion samples "nearest" at pixel centres, where PyTorch takes corners.
    """

    def convert(node: fx.Node, importer: Any) -> relax.Var:
        x = importer.env[node.args[0]]
        size = _argument(node, "output_size")
        factors = _argument(node, "scale_factors")
        if size is None:
            size = _scaled_size([int(extent) for extent in x.ty.shape[2:]], factors)
        aligned = method != "nearest_neighbor" and _argument(node, "align_corners")
        return importer.block_builder.emit(
            relax.op.image.resize2d(
                x,
                tuple(int(extent) for extent in size),
                layout="NCHW",
                method=method,
                coordinate_transformation_mode="align_corners" if aligned else coordinates,
                rounding_method=rounding,
                cubic_alpha=-0.75,
            )
        )

    return convert


def _argument(node: fx.Node, name: str) -> Any:
    """Return the argument of the node's operator by its name in the operator's schema."""
    if name in node.kwargs:
        return node.kwargs[name]
    schema = cast(torch._ops.OpOverload[..., Any], node.target)._schema
    names = [argument.name for argument in schema.arguments]
    position = names.index(name)
    return node.args[position] if position < len(node.args) else None


def _scaled_size(extents: Sequence[int], factors: Sequence[float]) -> list[int]:
    sizes = [extent * factor for extent, factor in zip(extents, factors, strict=True)]
    if any(size != int(size) for size in sizes):
        raise ValueError(
            f"scale factors {list(factors)} of {list(extents)} pixels give {sizes}, "
            "not whole numbers; give size= instead"
        )
    return [int(size) for size in sizes]


OWN_CONVERTERS: dict[str, Convert] = {
    "pixel_shuffle.default": _pixel_shuffle,
    "pixel_unshuffle.default": _pixel_unshuffle,
    "reflection_pad2d.default": _pad2d("reflect"),
    "replication_pad2d.default": _pad2d("replicate"),
    "upsample_nearest2d.vec": _resize2d("nearest_neighbor", "asymmetric", "floor"),
    "_upsample_nearest_exact2d.vec": _resize2d("nearest_neighbor", "half_pixel", "round"),
    "upsample_bilinear2d.vec": _resize2d("linear", "half_pixel"),
    "upsample_bicubic2d.vec": _resize2d("cubic", "half_pixel"),
}

REFUSED = frozenset({"_upsample_bilinear2d_aa.default", "randn.default", "randn_like.default"})
"""Operators that TVM's importer takes, but computes something else for."""
