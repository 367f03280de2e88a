"""The direct convolution of operands rounded to bfloat16, summed in float32.

    image -> pixels -> V -> products -> output

Axes as in ``direct_image``. V and U are stored as the bits of bfloat16, uint16: what computes with
them are instructions on whole tiles. They sum pairs of products in an order of their own, so that
results equal ``wqtvm.quantization.bfloat16_reference`` up to the rounding of float32 sums.
"""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from .arithmetic import bfloat16_bits, bfloat16_value
from .direct_stages import in_block, pixels_of, products_of
from .direct_workload import DirectWorkload

OPERATOR = "wq.direct_bfloat16_conv2d"


def direct_bfloat16_conv2d(work: DirectWorkload) -> tirx.PrimFunc:
    """Define the convolution of one layer.

    Parameters of the function: x (batch, height, width, channel) float32; U ``packed_shape``
    uint16; the result (batch, height, width, channel) float32.
    """
    x = te.placeholder((work.batch, work.height, work.width, work.in_channels), name="x")
    u = te.placeholder(work.packed_shape, work.dot.stored_weight, name="U")
    pixels = pixels_of(work, x)
    v = te.compute(work.input_shape, lambda *at: bfloat16_bits(pixels(*at)), name="V")
    products = products_of(work, v, u, bfloat16_value)

    def value(z: Any, y: Any, x: Any, k: Any) -> Any:
        return products[z, *in_block(work, y, x), k]

    output = te.compute(
        (work.batch, work.out_height, work.out_width, work.out_channels),
        value,
        name="output",
        attrs=work.annotations(OPERATOR),
    )
    # Relax counts in int64, and fuses only functions that do.
    function = te.create_prim_func([x, u, output], index_dtype_override="int64")
    # 4 is kOutEWiseFusable: bias, residual and activation fuse behind the output.
    return function.with_attr("op_pattern", 4)
