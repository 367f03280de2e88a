"""The direct int8 convolution: what is computed, stage by stage, without a word of any ISA.

Each pixel of the image is quantized once, for all taps and output channels:

    pixels -> V_amax -> V_step, V_inverse -> V, start -> products -> taps -> M -> output

Axes: (z, y, x) an image and its row and column, zeros around it; g a group of input channels, s a
channel within its group, k an output channel, (e, v) a tap; (b, c) a block of outputs and p an
output within it, row by row. The arithmetic is that of ``wqtvm.quantization.direct_reference`` to
the bit.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from .arithmetic import (
    absolute_bits,
    contract_reduction,
    hide_parameter,
    int32,
    start_reduction,
    steps_of,
)
from .direct_stages import in_block
from .direct_workload import DirectWorkload
from .image import image_or_zero

OPERATOR = "wq.direct_conv2d"


def direct_conv2d(work: DirectWorkload) -> tirx.PrimFunc:
    """Define the convolution of one layer.

    Parameters of the function: x (batch, height, width, channel) float32; U ``packed_shape`` in the
    dot product's weight dtype; U's steps ``step_shape`` float32; the correction of the zero point
    ``correction_shape`` int32, only where the dot product has one; the result (batch, height,
    width, channel) float32.
    """
    x = te.placeholder((work.batch, work.height, work.width, work.in_channels), name="x")
    weights = [
        te.placeholder(work.packed_shape, work.dot.weight_dtype, name="U"),
        te.placeholder(work.step_shape, "float32", name="U_step"),
    ]
    if work.dot.zero_point:
        weights.append(te.placeholder(work.correction_shape, "int32", name="U_correction"))

    v, v_step = _quantize_pixels(work, _pixels(work, x))
    m = _sums(work, v, v_step, *weights[:2])
    output = _image(work, m)
    starts = [_starts(work, weights[2])] if work.dot.zero_point else []

    # Relax counts in int64, and fuses only functions that do.
    function = te.create_prim_func([x, *weights, *starts, output], index_dtype_override="int64")
    for name in ("taps", "M"):
        function = contract_reduction(function, name)
    if starts:
        function = hide_parameter(function, "start")
        # (z, b, c, p, g, e, v, k) of the products.
        function = start_reduction(
            function, "products", "start", lambda at: [at[3] % work.pixels, *at[4:]]
        )
    # 4 is kOutEWiseFusable: bias, residual and activation fuse behind the output.
    return function.with_attr("op_pattern", 4)


def _starts(work: DirectWorkload, correction: te.Tensor) -> te.Tensor:
    """Repeat the zero point's correction for each pixel that is summed up together.

    So each accumulator is loaded from memory. Copies from register to register, which a compiler
    makes of one value for many accumulators, take their turn in the units that multiply.
    """
    return te.compute(
        (work.pixels, *work.correction_shape),
        lambda pixel, g, e, v, k: correction[g, e, v, k],
        name="start",
    )


def _pixels(work: DirectWorkload, image: te.Tensor) -> te.Tensor:
    """Put zeros around the image, and divide its channels: (z, g, y, x, s) float32."""

    def value(z: Any, g: Any, y: Any, x: Any, s: Any) -> Any:
        row, column = (at * work.sampling - work.padding for at in (y, x))
        return image_or_zero(work, image, (z, row, column), g, s)

    return te.compute(work.input_shape, value, name="pixels")


def _quantize_pixels(work: DirectWorkload, pixels: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """Quantize to V (z, g, y, x, s), a step each (z, g, y, x)."""
    channel = te.reduce_axis((0, work.group_size), "s")
    amax = te.compute(
        work.input_shape[:4],
        lambda *index: te.max(absolute_bits(pixels(*index, channel)), axis=channel),
        name="V_amax",
    )
    steps = steps_of("V", amax)

    def value(*index: Any) -> Any:
        signed = steps.quantize(pixels(*index), index[:4])
        return (signed + int32(work.dot.zero_point)).astype(work.dot.activation_dtype)

    return te.compute(work.input_shape, value, name="V"), steps.step


def _sums(
    work: DirectWorkload, v: te.Tensor, v_step: te.Tensor, u: te.Tensor, u_step: te.Tensor
) -> te.Tensor:
    """M (z, b, c, p, k) float32: int32 products of a tap and group, scaled, added tap by tap.

    A weight's step that all taps share is applied to the sum over them.
    """
    dot, edge, stride = work.dot, work.scheme.kernel, work.quantized_stride
    (rows, columns), channels = work.block, work.packed_channels
    pixels = (work.batch, *work.blocks, work.block_pixels)
    s = te.reduce_axis((0, work.group_size), "s")
    taps = te.reduce_axis((0, edge), "e"), te.reduce_axis((0, edge), "v")
    g = te.reduce_axis((0, work.groups), "g")
    a_step_a_tap = work.scheme.weight_steps == "tap"

    def place(b: Any, c: Any, p: Any, row: Any, column: Any) -> tuple[Any, Any]:
        y, x = b * rows + p // columns, c * columns + p % columns
        return y * stride + row, x * stride + column

    def product(z: Any, b: Any, c: Any, p: Any, *at: Any) -> Any:
        group, *tap, k = at
        weight = u[k // dot.lanes, group, *tap, s // dot.reduce, k % dot.lanes, s % dot.reduce]
        activation = v[(z, group, *place(b, c, p, *tap), s)]
        return te.sum(activation.astype("int32") * weight.astype("int32"), axis=s)

    products = te.compute((*pixels, work.groups, edge, edge, channels), product, name="products")

    def over_taps(z: Any, b: Any, c: Any, p: Any, group: Any, k: Any) -> Any:
        count = products[z, b, c, p, group, *taps, k].astype("float32")
        step = v_step[(z, group, *place(b, c, p, *taps))]
        if a_step_a_tap:
            step = step * u_step[group, *taps, k]
        return te.sum(count * step, axis=taps)

    sums = te.compute((*pixels, work.groups, channels), over_taps, name="taps")

    def over_groups(z: Any, b: Any, c: Any, p: Any, k: Any) -> Any:
        value = sums[z, b, c, p, g, k]
        return te.sum(value if a_step_a_tap else value * u_step[g, k], axis=g)

    return te.compute((*pixels, channels), over_groups, name="M")


def _image(work: DirectWorkload, m: te.Tensor) -> te.Tensor:
    """Put the sums in their places of the image; what lies outside it is dropped."""

    def value(z: Any, y: Any, x: Any, k: Any) -> Any:
        return m[z, *in_block(work, y, x), k]

    return te.compute(
        (work.batch, work.out_height, work.out_width, work.out_channels),
        value,
        name="output",
        attrs=work.annotations(OPERATOR),
    )
