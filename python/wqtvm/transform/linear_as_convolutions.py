"""Make convolutions of 1x1 of linear layers, so that plans, kernels and tuning are for them, too.

The tokens of an image are its pixels, in as square an image as there is of so many: which one does
not matter to a kernel of 1x1, but blocks of pixels are of rows and columns. Where images have few
tokens, as in front of a classifier, all images are one.

Ordering: after `channels_last` and after all weights are constants; before plans are made.
`convolutions_as_products` turns back what stays float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import ir, relax
from tvm.relax.expr_functor import mutator
from tvm.relax.transform import function_pass

from ..frontend.names import operator_name
from .constants import array_of, is_tensor_constant, shape_of
from .reshaped_layers import ReshapedLayers

# Of one image; fewer fill no register of 16 pixels.
_LEAST_TOKENS = 16


@function_pass(opt_level=0, name="LinearAsConvolutions")
def linear_as_convolutions(
    function: relax.Function, module: ir.IRModule, context: ir.transform.PassContext
) -> relax.Function:
    """Make convolutions, NHWC and HWIO, of products with constant matrices."""
    return _Convert(module).visit_expr(function)


def image_of(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Images, rows and columns of tokens, and channels, of a shape (..., tokens, channels)."""
    tokens = math.prod(shape[:-1])
    images = shape[0] if len(shape) > 2 and tokens // shape[0] >= _LEAST_TOKENS else 1
    tokens //= images
    rows = max(n for n in range(1, math.isqrt(tokens) + 1) if tokens % n == 0)
    return images, rows, tokens // rows, shape[-1]


@mutator
class _Convert(ReshapedLayers):
    def new_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return image_of(shape)

    def layer(self, value: relax.Expr) -> relax.Expr | None:
        if not _is_linear(value):
            return None
        x, weight = value.args
        matrix = np.ascontiguousarray(array_of(weight)[None, None])
        return relax.op.nn.conv2d(
            self.given(x), relax.const(matrix), data_layout="NHWC", kernel_layout="HWIO"
        )


def _is_linear(value: relax.Expr) -> bool:
    if operator_name(value) != "relax.matmul":
        return False
    x, weight = value.args
    dtypes = {str(each.ty.dtype) for each in (x, weight, value)}
    return (
        is_tensor_constant(weight)
        and not is_tensor_constant(x)
        and len(shape_of(weight)) == 2
        and len(shape_of(x)) >= 2
        and dtypes == {"float32"}
    )
