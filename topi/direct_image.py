"""The direct int8 convolution with one step an image: what is computed, without a word of any ISA.

Between its least and its largest value, 0 among them, an image has 256 levels, for all pixels and
channels alike. So the products of all taps and channels are one sum of integers:

    image -> row_extremes -> extremes -> V_step, V_inverse, V_zero -> start
    image -> pixels -> V -> products -> output

Axes: (z, y, x) an image and its row and column, zeros around it; g a part of the input channels
that is stored together, s a channel within it, k an output channel, (e, v) a tap; (b, c) a block of
outputs and p an output within it, row by row. The arithmetic is that of
``wqtvm.quantization.image_reference`` to the bit.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import te, tirx

from ..quantization.image_reference import LEVELS, ZERO_BELOW
from .arithmetic import float32, hide_parameter, int32, start_reduction
from .direct_stages import in_block, pixels_of, products_of
from .direct_workload import DirectWorkload

OPERATOR = "wq.direct_image_conv2d"
_INFINITY_BITS = 0x7F800000
_SIGN_BIT = -(2**31)


def direct_image_conv2d(work: DirectWorkload) -> tirx.PrimFunc:
    """Define the convolution of one layer.

    Parameters of the function: x (batch, height, width, channel) float32; U ``packed_shape`` in the
    dot product's weight dtype; U's steps (k) float32; the sums of U over taps and channels (k)
    int32; the result (batch, height, width, channel) float32.
    """
    x = te.placeholder((work.batch, work.height, work.width, work.in_channels), name="x")
    channels = (work.packed_channels,)
    u = te.placeholder(work.packed_shape, work.dot.weight_dtype, name="U")
    u_step = te.placeholder(channels, "float32", name="U_step")
    u_sum = te.placeholder(channels, "int32", name="U_sum")

    step, inverse, zero = _steps(_extremes(work, x))
    v = _quantize(work, x, inverse, zero)
    products = products_of(work, v, u, lambda value: value.astype("int32"))
    output = _image(work, products, step, u_step)
    start = _start(work, zero, u_sum)

    # Relax counts in int64, and fuses only functions that do.
    function = te.create_prim_func(
        [x, u, u_step, u_sum, start, output], index_dtype_override="int64"
    )
    function = hide_parameter(function, "start")
    function = start_reduction(function, "products", "start", lambda at: [at[0], at[4]])
    # 4 is kOutEWiseFusable: bias, residual and activation fuse behind the output.
    return function.with_attr("op_pattern", 4)


def _extremes(work: DirectWorkload, image: te.Tensor) -> te.Tensor:
    """Bits of the largest value (z, 0) and of the largest of all values' negatives (z, 1), int32.

    As integers, numbers of positive sign order like the numbers themselves, infinity and NaN above
    all, and those of negative sign are below them.
    """
    lanes = math.gcd(work.in_channels, work.dot.lanes)
    x = te.reduce_axis((0, work.width), "x")
    j = te.reduce_axis((0, work.in_channels // lanes), "j")

    def of_row(z: Any, y: Any, sign: Any, lane: Any) -> Any:
        bits = tirx.reinterpret("int32", image(z, y, x, j * lanes + lane))
        return te.max(tirx.Select(sign == 0, bits, bits ^ int32(_SIGN_BIT)), axis=(x, j))

    shape = (work.batch, work.height, 2, lanes)
    rows = te.compute(shape, of_row, name="row_extremes")
    y, lane = te.reduce_axis((0, work.height), "y"), te.reduce_axis((0, lanes), "l")
    return te.compute(
        (work.batch, 2), lambda z, sign: te.max(rows(z, y, sign, lane), axis=(y, lane)),
        name="extremes",
    )  # fmt: skip


def _steps(extremes: te.Tensor) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Step, its inverse and the level of zero, float32 (z)."""

    def bound(z: Any, sign: int) -> Any:
        """The largest value, or its negatives', and at least 0."""
        value = tirx.reinterpret("float32", extremes(z, sign))
        return tirx.Select(extremes(z, sign) > int32(0), value, float32(0))

    def extent(z: Any) -> Any:
        return bound(z, 0) + bound(z, 1)

    def is_finite(z: Any) -> Any:
        return tirx.reinterpret("int32", extent(z)) < int32(_INFINITY_BITS)

    def is_usable(z: Any) -> Any:
        return tirx.all(is_finite(z), extent(z) >= float32(ZERO_BELOW))

    def step(z: Any) -> Any:
        quotient = tirx.Select(is_finite(z), extent(z) / float32(LEVELS), float32(float("nan")))
        is_zero = tirx.all(is_finite(z), extent(z) < float32(ZERO_BELOW))
        return tirx.Select(is_zero, float32(0), quotient)

    def inverse(z: Any) -> Any:
        return tirx.Select(is_usable(z), float32(LEVELS) / extent(z), float32(0))

    shape = (extremes.shape[0],)
    inverses = te.compute(shape, inverse, name="V_inverse")

    def zero(z: Any) -> Any:
        level = tirx.Select(is_usable(z), bound(z, 1) * inverses(z), float32(0))
        return tirx.nearbyint(level)

    return (
        te.compute(shape, step, name="V_step"),
        inverses,
        te.compute(shape, zero, name="V_zero"),
    )


def _quantize(
    work: DirectWorkload, image: te.Tensor, inverse: te.Tensor, zero: te.Tensor
) -> te.Tensor:
    """Quantize to V (z, g, y, x, s), zeros around the image."""
    pixels = pixels_of(work, image)

    def value(*index: Any) -> Any:
        z = index[0]
        level = tirx.nearbyint(pixels(*index) * inverse(z)) + zero(z)
        # Ordered comparisons, so that a NaN becomes a number: its step is NaN.
        level = tirx.Select(level < float32(LEVELS), level, float32(LEVELS))
        level = tirx.Select(level > float32(0), level, float32(0))
        stored = level - float32(work.level_offset) if work.level_offset else level
        return stored.astype("int32").astype(work.dot.activation_dtype)

    return te.compute(work.input_shape, value, name="V")


def _start(work: DirectWorkload, zero: te.Tensor, u_sum: te.Tensor) -> te.Tensor:
    """Where sums (z, k) start, int32: less what the level of zero adds to each product."""
    return te.compute(
        (work.batch, work.packed_channels),
        lambda z, k: (int32(work.level_offset) - zero(z).astype("int32")) * u_sum(k),
        name="start",
    )


def _image(
    work: DirectWorkload, products: te.Tensor, step: te.Tensor, u_step: te.Tensor
) -> te.Tensor:
    """Scale the sums, in their places of the image; what lies outside it is dropped."""
    factor = te.compute(
        (work.batch, work.packed_channels), lambda z, k: step(z) * u_step(k), name="factor"
    )

    def value(z: Any, y: Any, x: Any, k: Any) -> Any:
        at = in_block(work, y, x)
        # A product that feeds a sum, such as the bias, would be fused or not, as an ISA likes.
        return tirx.op.fma(products[z, *at, k].astype("float32"), factor(z, k), float32(0))

    return te.compute(
        (work.batch, work.out_height, work.out_width, work.out_channels),
        value,
        name="output",
        attrs=work.annotations(OPERATOR),
    )
