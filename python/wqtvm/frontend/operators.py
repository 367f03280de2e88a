"""Imports of the operators that TVM's importer lacks or gets wrong, keyed as it keys them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
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


def _prelu(node: fx.Node, importer: Any) -> relax.Var:
    """One slope a channel; relax.nn.prelu does not broadcast a single slope."""
    x, slope = (importer.env[argument] for argument in node.args)
    emit = importer.block_builder.emit
    axis = min(1, x.ty.ndim - 1)
    slope = emit(relax.op.broadcast_to(slope, [int(x.ty.shape[axis])]))
    return emit(relax.op.nn.prelu(x, slope, axis))


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
            size = _scaled_size([int(extent) for extent in x.ty.shape][2:], factors)
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


def _adaptive_max_pool2d(node: fx.Node, importer: Any) -> tuple[relax.Var]:
    """Pooling to an extent that divides the input's; the indices are not computed."""
    x = importer.env[node.args[0]]
    extents = [int(extent) for extent in x.ty.shape][-2:]
    sizes = cast(Sequence[int], node.args[1])
    if any(extent % size for extent, size in zip(extents, sizes, strict=True)):
        raise ValueError(f"the output {list(sizes)} does not divide the input {extents}")
    window = [extent // size for extent, size in zip(extents, sizes, strict=True)]
    return (importer.block_builder.emit(relax.op.nn.max_pool2d(x, window, window)),)


def _max_pool2d(node: fx.Node, importer: Any) -> relax.Var:
    """TVM's own conversion takes an omitted stride for no stride."""
    window = cast(Sequence[int], node.args[1])
    return importer.block_builder.emit(
        relax.op.nn.max_pool2d(
            importer.env[node.args[0]],
            window,
            _argument(node, "stride") or window,
            _argument(node, "padding") or 0,
            _argument(node, "dilation") or 1,
            bool(_argument(node, "ceil_mode")),
        )
    )


def _avg_pool2d(node: fx.Node, importer: Any) -> relax.Var:
    """TVM's own conversion ignores the divisor."""
    if _argument(node, "divisor_override") is not None:
        raise ValueError("divisor_override is not supported")
    window = cast(Sequence[int], node.args[1])
    return importer.block_builder.emit(
        relax.op.nn.avg_pool2d(
            importer.env[node.args[0]],
            window,
            _argument(node, "stride") or window,
            _argument(node, "padding") or 0,
            ceil_mode=bool(_argument(node, "ceil_mode")),
            count_include_pad=_argument(node, "count_include_pad") is not False,
        )
    )


def _reduce(operator: Callable[..., relax.Expr]) -> Convert:
    def convert(node: fx.Node, importer: Any) -> relax.Var:
        axes = list(_argument(node, "dim") or []) or None
        keep = bool(_argument(node, "keepdim"))
        return importer.block_builder.emit(operator(importer.env[node.args[0]], axes, keep))

    return convert


def _with_alpha(in_relax: Callable[..., relax.Expr], in_python: Callable[..., Any]) -> Convert:
    """x + alpha y, or x - alpha y; TVM's own conversion ignores alpha."""

    def convert(node: fx.Node, importer: Any) -> Any:
        x, y = _promoted(node, importer)
        alpha = _argument(node, "alpha")
        if alpha not in (None, 1):
            if isinstance(y, relax.Expr):
                factor = relax.const(alpha, y.ty.dtype)
                y = importer.block_builder.emit(relax.op.multiply(y, factor))
            else:
                y = y * alpha
        # The arguments are converted already; converting them once more leaves them as they are.
        return importer._binary_op(in_relax, in_python)(SimpleNamespace(args=(x, y)))

    return convert


def _binary(in_relax: Callable[..., relax.Expr], in_python: Callable[..., Any]) -> Convert:
    """An operator of two tensors or of a tensor and a number, types promoted as in PyTorch.

    TVM's own conversion rounds a number to the type of a tensor of integers.
    """

    def convert(node: fx.Node, importer: Any) -> Any:
        arguments = tuple(_promoted(node, importer))
        return importer._binary_op(in_relax, in_python)(SimpleNamespace(args=arguments))

    return convert


def _promoted(node: fx.Node, importer: Any) -> list[Any]:
    """Both arguments of a binary operator, tensors in the type of the result."""
    result = node.meta.get("val")
    arguments = list(importer.retrieve_args(node))[:2]
    if not isinstance(result, torch.Tensor):
        return arguments
    wanted = str(result.dtype).removeprefix("torch.")
    return [
        importer.block_builder.emit(relax.op.astype(argument, wanted))
        if isinstance(argument, relax.Expr) and str(argument.ty.dtype.dtype) != wanted
        else argument
        for argument in arguments
    ]


def _elu(node: fx.Node, importer: Any) -> relax.Var:
    """scale (x if x > 0 else alpha (exp(input_scale x) - 1)); TVM's own takes both scales as 1."""
    x = importer.env[node.args[0]]
    alpha, scale, input_scale = (
        1 if value is None else value
        for value in (_argument(node, name) for name in ("alpha", "scale", "input_scale"))
    )

    def times(factor: float, value: relax.Expr) -> relax.Expr:
        return relax.op.multiply(relax.const(factor, x.ty.dtype), value)

    one = relax.const(1, x.ty.dtype)
    negative = times(-alpha * scale, relax.op.nn.relu(one - relax.op.exp(times(input_scale, x))))
    positive = times(scale, relax.op.nn.relu(x))
    return importer.block_builder.emit(relax.op.add(negative, positive))


def _select(node: fx.Node, importer: Any) -> relax.Var:
    """One index of an axis, which is dropped.

    TVM's own conversion gathers, which reads the index at run time and warns of it.
    """
    x = importer.env[node.args[0]]
    axis = cast(int, _argument(node, "dim")) % x.ty.ndim
    index = cast(int, _argument(node, "index")) % int(x.ty.shape[axis])
    emit = importer.block_builder.emit
    part = emit(relax.op.strided_slice(x, [axis], [index], [index + 1]))
    kept = [int(size) for at, size in enumerate(x.ty.shape) if at != axis]
    return emit(relax.op.reshape(part, kept))


def _squeeze(node: fx.Node, importer: Any) -> relax.Var:
    """A reshape; of TVM's own conversion, where the axis counts from behind, passes die."""
    shape = list(node.meta["val"].shape)
    return importer.block_builder.emit(relax.op.reshape(importer.env[node.args[0]], shape))


def _attention(node: fx.Node, importer: Any) -> relax.Var:
    """softmax(scale Q K^T) V over (..., length, channels).

    The default decomposition spends five operators on rows that a mask covers as a whole; here
    they come out zero, as in PyTorch, by masking the probabilities once more.
    """
    query, key, value = (importer.env[argument] for argument in node.args[:3])
    if _argument(node, "enable_gqa"):
        raise ValueError("enable_gqa is not supported; repeat the key and value heads")
    if _argument(node, "dropout_p"):
        raise ValueError("dropout_p is not 0; the model was captured in training mode")
    emit = importer.block_builder.emit
    scale = _argument(node, "scale")
    if scale is None:
        scale = int(query.ty.shape[query.ty.ndim - 1]) ** -0.5
    swapped = [*range(key.ty.ndim - 2), key.ty.ndim - 1, key.ty.ndim - 2]
    scaled = emit(relax.op.multiply(query, relax.const(scale, "float32")))
    scores = emit(relax.op.matmul(scaled, emit(relax.op.permute_dims(key, swapped))))
    allowed = None
    if _argument(node, "is_causal"):
        queries, keys = (int(size) for size in list(scores.ty.shape)[-2:])
        allowed = relax.const(np.tri(queries, keys, dtype="bool"))
    mask = _argument(node, "attn_mask")
    if mask is not None:
        allowed = importer.env[mask]
        if allowed.ty.dtype.dtype != "bool":
            scores = emit(relax.op.add(scores, allowed))
            allowed = emit(relax.op.greater(allowed, relax.const(-np.inf, "float32")))
    if allowed is not None:
        lowest = relax.const(np.finfo("float32").min, "float32")
        scores = emit(relax.op.where(allowed, scores, lowest))
    weights = emit(relax.op.nn.softmax(scores))
    if allowed is not None:
        weights = emit(relax.op.where(allowed, weights, relax.const(0.0, "float32")))
    return emit(relax.op.matmul(weights, value))


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
    "adaptive_max_pool2d.default": _adaptive_max_pool2d,
    "add.Tensor": _with_alpha(relax.op.add, operator.add),
    "amax.default": _reduce(relax.op.max),
    "amin.default": _reduce(relax.op.min),
    "avg_pool2d.default": _avg_pool2d,
    "div.Tensor": _binary(relax.op.divide, operator.truediv),
    "elu.default": _elu,
    "max_pool2d.default": _max_pool2d,
    "mul.Tensor": _binary(relax.op.multiply, operator.mul),
    "pixel_shuffle.default": _pixel_shuffle,
    "pixel_unshuffle.default": _pixel_unshuffle,
    "prelu.default": _prelu,
    "reflection_pad2d.default": _pad2d("reflect"),
    "replication_pad2d.default": _pad2d("replicate"),
    "scaled_dot_product_attention.default": _attention,
    "select.int": _select,
    "squeeze.default": _squeeze,
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "sub.Tensor": _with_alpha(relax.op.subtract, operator.sub),
    "upsample_nearest2d.vec": _resize2d("nearest_neighbor", "asymmetric", "floor"),
    "_upsample_nearest_exact2d.vec": _resize2d(
        "nearest_neighbor", "half_pixel", "round_prefer_ceil"
    ),
    "upsample_bilinear2d.vec": _resize2d("linear", "half_pixel"),
    "upsample_bicubic2d.vec": _resize2d("cubic", "half_pixel"),
}

REFUSED = frozenset(
    {
        "_upsample_bilinear2d_aa.default",
        "cond",
        "max_pool2d_with_indices.default",
        "max_pool3d_with_indices.default",
        "randn.default",
        "randn_like.default",
    }
)
"""Operators that TVM's importer takes, but computes something else for, and branches on data."""
