"""Stages of direct convolutions whose products, of all taps and channels, are one sum.

Axes as in ``direct_image``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te

from .direct_workload import DirectWorkload
from .image import image_or_zero


def pixels_of(work: DirectWorkload, image: te.Tensor) -> te.Tensor:
    """The pixels of the image that V has, zeros around them: ``input_shape``."""

    def pixel(z: Any, g: Any, *place: Any) -> Any:
        *taps, y, x, s = place  # a column of taps where V is flat
        x = sum(taps, x)
        row, column = (at * work.sampling - work.padding for at in (y, x))
        return image_or_zero(work, image, (z, row, column), g, s)

    return te.compute(work.input_shape, pixel, name="pixels")


def products_of(
    work: DirectWorkload, v: te.Tensor, u: te.Tensor, widened: Callable[[Any], Any]
) -> te.Tensor:
    """Sums of all taps and channels (z, b, c, p, k), of what is stored widened to their dtype."""
    dot, edge, stride = work.dot, work.scheme.kernel, work.quantized_stride
    rows, columns = work.block
    e, c = te.reduce_axis((0, edge), "e"), te.reduce_axis((0, edge), "v")
    g, s = te.reduce_axis((0, work.groups), "g"), te.reduce_axis((0, work.group_size), "s")

    def product(z: Any, block_row: Any, block_column: Any, p: Any, k: Any) -> Any:
        y, x = block_row * rows + p // columns, block_column * columns + p % columns
        weight = u(k // dot.lanes, g, e, c, s // dot.reduce, k % dot.lanes, s % dot.reduce)
        place = (c, y + e, x) if work.flat else (y * stride + e, x * stride + c)
        activation = v(z, g, *place, s)
        return te.sum(widened(activation) * widened(weight), axis=(g, e, c, s))

    shape = (work.batch, *work.blocks, work.block_pixels, work.packed_channels)
    return te.compute(shape, product, name="products")


def in_block(work: DirectWorkload, y: Any, x: Any) -> tuple[Any, Any, Any]:
    """Where an output lies: its block's row and column, and its place in it, row by row."""
    rows, columns = work.block
    return y // rows, x // columns, y % rows * columns + x % columns
