"""The quantized Winograd convolution: what is computed, stage by stage, without a word of any ISA.

Axes: (z, y, x) an image and its tile's row and column, padded to whole blocks of tiles, g a group
of input channels, s a channel within its group, k an output channel, h a group of output channels,
(e, v) a tap, (i, j) a place in the input tile, (a, b) a place in the output tile. The arithmetic is
that of ``wqtvm.quantization.reference`` to the bit.

Every stage is a block of its own name, by which schedules find it:

    tile -> [input transform] -> V_amax -> V_step, V_inverse -> V -> products -> M
         -> [output transform] -> Y -> output

with the transforms' stages in ``hadamard.py`` and ``full.py``.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from . import full, hadamard
from .arithmetic import (
    absolute_bits,
    contract_reduction,
    int32,
    start_reduction,
    steps_of,
)
from .image import image_or_zero
from .workload import WinogradWorkload

OPERATOR = "wq.winograd_conv2d"
_PRECISIONS = {"hadamard": hadamard, "full": full}


def winograd_conv2d(work: WinogradWorkload) -> tirx.PrimFunc:
    """Define the convolution of one layer.

    Parameters of the function: x (batch, height, width, channel) float32; U ``packed_shape`` in the
    dot product's weight dtype; U's steps ``step_shape`` float32; the correction of the zero point
    ``step_shape`` int32, only where the dot product has one; the result (batch, height, width,
    channel) float32.
    """
    x = te.placeholder((work.batch, work.height, work.width, work.in_channels), name="x")
    weights = [
        te.placeholder(work.packed_shape, work.dot.weight_dtype, name="U"),
        te.placeholder(work.step_shape, "float32", name="U_step"),
    ]
    if work.dot.zero_point:
        weights.append(te.placeholder(work.step_shape, "int32", name="U_correction"))

    precision = _PRECISIONS[work.scheme.precision]
    taps = precision.input_transform(work, _input_tile(work, x))
    v, v_step = _quantize_taps(work, taps)
    m = _hadamard_product(work, v, v_step, *weights[:2])
    output = _untile(work, precision.output_transform(work, m))

    # Relax counts in int64, and fuses only functions that do.
    function = te.create_prim_func([x, *weights, output], index_dtype_override="int64")
    function = contract_reduction(function, m.name)
    if work.dot.zero_point:
        # (e, v, z, y, x, g, k) of the products; the step (e, v, g, k) is the same for all tiles.
        function = start_reduction(
            function, "products", "U_correction", lambda at: [*at[:2], *at[5:]]
        )
    # 4 is kOutEWiseFusable: bias, residual and activation fuse behind the output transform.
    return function.with_attr("op_pattern", 4)


def _input_tile(work: WinogradWorkload, image: te.Tensor) -> te.Tensor:
    """Cut the image into overlapping tiles, zeros outside it: (z, y, x, g, i, j, s) float32."""
    m_y, m_x = work.scheme.output_tile

    def value(z: Any, y: Any, x: Any, g: Any, i: Any, j: Any, s: Any) -> Any:
        row = y * m_y + i - work.padding
        column = x * m_x + j - work.padding
        return image_or_zero(work, image, (z, row, column), g, s)

    shape = (*work.tile_shape, work.groups, *work.scheme.input_tile, work.group_size)
    return te.compute(shape, value, name="tile")


def _quantize_taps(work: WinogradWorkload, taps: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """Quantize (z, y, x, g, e, v, s) to V (e, v, z, y, x, g, s), a step each (z, y, x, g, e, v)."""
    products, size, dot = work.scheme.products, work.group_size, work.dot
    channel = te.reduce_axis((0, size), "s")
    amax = te.compute(
        (*work.tile_shape, work.groups, *products),
        lambda *index: te.max(absolute_bits(taps(*index, channel)), axis=channel),
        name="V_amax",
    )
    steps = steps_of("V", amax)

    def value(e: Any, v: Any, z: Any, y: Any, x: Any, g: Any, s: Any) -> Any:
        signed = steps.quantize(taps[z, y, x, g, e, v, s], (z, y, x, g, e, v))
        return (signed + int32(dot.zero_point)).astype(dot.activation_dtype)

    shape = (*products, *work.tile_shape, work.groups, size)
    return te.compute(shape, value, name="V"), steps.step


def _hadamard_product(
    work: WinogradWorkload,
    activations: te.Tensor,
    v_step: te.Tensor,
    u: te.Tensor,
    u_step: te.Tensor,
) -> te.Tensor:
    """M (e, v, z, y, x, k) float32: a group's int32 products, scaled, added by ascending group."""
    taps, dot, channels = work.scheme.products, work.dot, work.packed_channels
    s = te.reduce_axis((0, work.group_size), "s")
    g = te.reduce_axis((0, work.groups), "g")

    def product(e: Any, v: Any, z: Any, y: Any, x: Any, g: Any, k: Any) -> Any:
        weight = u[k // dot.lanes, e, v, g, s // dot.reduce, k % dot.lanes, s % dot.reduce]
        activation = activations[e, v, z, y, x, g, s]
        return te.sum(activation.astype("int32") * weight.astype("int32"), axis=s)

    products = te.compute(
        (*taps, *work.tile_shape, work.groups, channels), product, name="products"
    )

    def scaled(e: Any, v: Any, z: Any, y: Any, x: Any, k: Any) -> Any:
        count = products[e, v, z, y, x, g, k]
        step = v_step[z, y, x, g, e, v] * u_step[e, v, g, k]
        return te.sum(count.astype("float32") * step, axis=g)

    return te.compute((*taps, *work.tile_shape, channels), scaled, name="M")


def _untile(work: WinogradWorkload, results: te.Tensor) -> te.Tensor:
    """Put the tiles' results in their places of the image; what lies outside it is dropped."""
    m_y, m_x = work.scheme.output_tile
    return te.compute(
        (work.batch, work.out_height, work.out_width, work.out_channels),
        lambda z, row, column, k: results[z, row // m_y, column // m_x, row % m_y, column % m_x, k],
        name="output",
        attrs={
            "wq.operator": OPERATOR,
            "wq.precision": work.scheme.precision,
            "wq.block": list(work.block),
            "wq.output_tile": [m_y, m_x],
            "wq.out_group_size": work.out_group_size,
            **({"wq.choices": dict(work.choices)} if work.choices else {}),
        },
    )
