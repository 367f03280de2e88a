"""The numpy reference: every stage of a quantized convolution, to the bit.

Kernels are compared with it, integers with tolerance 0, on every ISA. Axes: p tiles in the order
(image, tile row, tile column); i, j rows and columns of an input tile (t each); e, v rows and
columns of taps (n each); a, b rows and columns of an output tile (m each); c input channels, as
(g groups, s channels of a group); k output channels, h groups of output channels. An axis along
which a step is shared has length 1 in it: channels unless ``steps="channel"``, the tile's other
axis where ``steps="tile"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputMismatchError
from ..fastconv import evaluate_rows
from .arithmetic import F32, I8, I32, LARGEST, NumpyRowOps, fma32, quantize, split_groups
from .bfloat16_reference import Bfloat16Stages
from .direct_reference import DirectStages, direct_reference
from .image_reference import ImageStages
from .scheme import SHARED_AXES, Axis, Scheme
from .weights import QuantizedWeights

_FLOAT32_INTEGERS = 2**24  # integers below are exact in float32, and so are their sums
_OPS = NumpyRowOps()
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class HadamardStages:
    """Stages of precision "hadamard": transforms in float32, the products in int8.

    Attributes
    ----------
    d : float32 (p, i, j, c), input tiles.
    b_d, b_d_b : float32 (p, e, j, c) and (p, e, v, c), passes of the input transform.
    v, v_step : int8 (p, e, v, g, s) and float32 (p, e, v, g).
    acc : int32 (p, e, v, k, g), sums of a group; None unless asked for.
    m : float32 (p, e, v, k), sums of products.
    a_m, y : float32 (p, a, v, k) and (p, a, b, k), passes of the output transform.
    output : float32 (image, row, column, k).
    """

    d: F32
    b_d: F32
    b_d_b: F32
    v: I8
    v_step: F32
    acc: I32 | None
    m: F32
    a_m: F32
    y: F32
    output: F32


@dataclass(frozen=True)
class FullStages:
    """Stages of precision "full": each is in int8, with steps that the next pass can sum under.

    Attributes
    ----------
    d : float32 (p, i, j, c), input tiles.
    d_q, d_step : int8 (p, i, j, g, s) and float32 (p, j, g, s).
    b_d_q, b_d_step : int8 (p, e, j, g, s) and float32 (p, e, g, s).
    v, v_step : int8 (p, e, v, g, s) and float32 (p, e, v, g).
    acc : int32 (p, e, v, k, g), sums of a group; None unless asked for.
    m : float32 (p, e, v, k), sums of products.
    m_q, m_step : int8 (p, e, v, k) and float32 (p, v, h, s).
    a_m_q, a_m_step : int8 (p, a, v, k) and float32 (p, a, h, s).
    y : float32 (p, a, b, k).
    output : float32 (image, row, column, k).
    """

    d: F32
    d_q: I8
    d_step: F32
    b_d_q: I8
    b_d_step: F32
    v: I8
    v_step: F32
    acc: I32 | None
    m: F32
    m_q: I8
    m_step: F32
    a_m_q: I8
    a_m_step: F32
    y: F32
    output: F32


def convolution_reference(
    x: F32,
    weights: QuantizedWeights,
    scheme: Scheme,
    padding: int,
    keep_accumulators: bool = False,
) -> DirectStages | ImageStages | Bfloat16Stages | HadamardStages | FullStages:
    """Every stage of the convolution, by the operator that computes the scheme.

    Parameters
    ----------
    x : float32 (image, row, column, channel).
    padding : zeros on each side, in pixels.
    keep_accumulators : also return the int32 sums of every group.

    Raises
    ------
    InputMismatchError
        If x is no float32 image batch of the weights' channels, or smaller than the kernel.
    """
    if scheme.is_direct:
        return direct_reference(x, weights, scheme, padding, keep_accumulators)
    if scheme.precision == "full":
        return full_reference(x, weights, scheme, padding, keep_accumulators)
    return hadamard_reference(x, weights, scheme, padding, keep_accumulators)


def hadamard_reference(
    x: F32,
    weights: QuantizedWeights,
    scheme: Scheme,
    padding: int,
    keep_accumulators: bool = False,
) -> HadamardStages:
    """Stages of precision "hadamard"; parameters and errors as in convolution_reference."""
    d = extract_tiles(x, weights, scheme, padding)
    with np.errstate(all="ignore"):
        b_d = _transform(scheme.row_axis.input_matrix.rows, d, axis=1)
        b_d_b = _transform(scheme.column_axis.input_matrix.rows, b_d, axis=2)
        v = quantize(_split(b_d_b, scheme), shared=(4,))
        v_step = v.step[..., 0]
        m, acc = _products(v.q, v_step, weights, keep_accumulators)
        a_m = _transform(scheme.row_axis.output_matrix.tolist(), m, axis=1)
        y = _transform(scheme.column_axis.output_matrix.tolist(), a_m, axis=2)
    output = assemble_tiles(y, x.shape, scheme, padding)
    return HadamardStages(d, b_d, b_d_b, v.q, v_step, acc, m, a_m, y, output)


def full_reference(
    x: F32,
    weights: QuantizedWeights,
    scheme: Scheme,
    padding: int,
    keep_accumulators: bool = False,
) -> FullStages:
    """Stages of precision "full"; parameters and errors as in convolution_reference."""
    d = extract_tiles(x, weights, scheme, padding)
    rows, row_scale, a_rows, a_row_step = _integer_matrices(scheme.row_axis)
    columns, column_scale, a_columns, a_column_step = _integer_matrices(scheme.column_axis)
    over_rows, over_columns = SHARED_AXES[scheme.steps]
    with np.errstate(all="ignore"):
        # Each pass sums along one axis of the tile, where a step must be shared.
        d_q = quantize(_split(d, scheme), over_rows)
        sums = _integer_pass(rows, d_q.q, axis=1)  # p e j g s
        factor = d_q.step * row_scale[:, None, None, None]
        b_d = quantize(sums * factor, over_columns)
        sums = _integer_pass(columns, b_d.q, axis=2)  # p e v g s
        factor = b_d.step * column_scale[:, None, None]
        v = quantize(sums * factor, shared=(4,))
        v_step = v.step[..., 0]
        m, acc = _products(v.q, v_step, weights, keep_accumulators)

        m_q = quantize(_split(m, scheme), over_rows)
        sums = _integer_pass(a_rows, m_q.q, axis=1)  # p a v h s
        a_m = quantize(sums * (m_q.step * a_row_step), over_columns)
        sums = _integer_pass(a_columns, a_m.q, axis=2)  # p a b h s
        y = _join(sums * (a_m.step * a_column_step), m.shape[-1])
    output = assemble_tiles(y, x.shape, scheme, padding)
    return FullStages(
        d=d,
        d_q=d_q.q,
        d_step=d_q.step[:, 0],
        b_d_q=b_d.q,
        b_d_step=b_d.step[:, :, 0],
        v=v.q,
        v_step=v_step,
        acc=acc,
        m=m,
        m_q=_join(m_q.q, m.shape[-1]),
        m_step=m_q.step[:, 0],
        a_m_q=_join(a_m.q, m.shape[-1]),
        a_m_step=a_m.step[:, :, 0],
        y=y,
        output=output,
    )


def extract_tiles(x: F32, weights: QuantizedWeights, scheme: Scheme, padding: int) -> F32:
    """Overlapping input tiles, float32 (p, i, j, c), zeros outside the image."""
    if x.ndim != 4 or x.dtype != np.float32 or x.shape[3] != weights.channels:
        raise InputMismatchError(
            f"input is {x.dtype} of shape {x.shape}; give float32 of shape "
            f"(images, rows, columns, {weights.channels})"
        )
    batch, height, width, channels = x.shape
    (m_y, m_x), (t_y, t_x) = scheme.output_tile, scheme.input_tile
    tiles_y = -(-_outputs(height, scheme, padding) // m_y)
    tiles_x = -(-_outputs(width, scheme, padding) // m_x)
    covered_y = tiles_y * m_y + scheme.kernel - 1
    covered_x = tiles_x * m_x + scheme.kernel - 1
    padded = np.zeros(
        (batch, max(covered_y, padding + height), max(covered_x, padding + width), channels),
        dtype=np.float32,
    )
    padded[:, padding : padding + height, padding : padding + width] = x
    row = np.arange(tiles_y)[:, None] * m_y + np.arange(t_y)
    column = np.arange(tiles_x)[:, None] * m_x + np.arange(t_x)
    tiles = padded[:, row[:, None, :, None], column[None, :, None, :]]
    return tiles.reshape(-1, t_y, t_x, channels)


def assemble_tiles(y: F32, x_shape: tuple[int, ...], scheme: Scheme, padding: int) -> F32:
    """Output tiles (p, a, b, k) as float32 (image, row, column, k), results outside dropped."""
    batch = x_shape[0]
    height = _outputs(x_shape[1], scheme, padding)
    width = _outputs(x_shape[2], scheme, padding)
    m_y, m_x = scheme.output_tile
    tiles_y, tiles_x = -(-height // m_y), -(-width // m_x)
    image = y.reshape(batch, tiles_y, tiles_x, m_y, m_x, -1).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, tiles_y * m_y, tiles_x * m_x, -1)
    return np.ascontiguousarray(image[:, :height, :width])


def _outputs(size: int, scheme: Scheme, padding: int) -> int:
    outputs = size + 2 * padding - scheme.kernel + 1
    if outputs < 1:
        raise InputMismatchError(
            f"an input edge of {size} pixels with padding {padding} has no output for "
            f"{scheme.kernel} taps; give a larger image"
        )
    return outputs


def _integer_matrices(
    axis: Axis,
) -> tuple[NDArray[np.float64], F32, NDArray[np.float64], np.float32]:
    """Integer rows of B^T, their scales, the integers of A^T S_A, and their step."""
    integers, step = axis.output_integers
    rows = np.asarray(axis.input_matrix.rows, dtype=np.float64)
    return rows, axis.input_row_scale.astype(np.float32), integers.astype(np.float64), step


def _split(values: F32, scheme: Scheme) -> F32:
    return split_groups(values, scheme.channels_per_group(values.shape[-1]))


def _join(values: NDArray[_Number], channels: int) -> NDArray[_Number]:
    """Last two axes (groups, size) joined to one of channels, padding dropped."""
    joined = values.reshape(*values.shape[:-2], -1)[..., :channels]
    return np.ascontiguousarray(joined)


def _transform(matrix: Sequence[Sequence[float | Fraction]], values: F32, axis: int) -> F32:
    """One float32 pass of a transform along an axis, in the order of evaluate_rows."""
    inputs: list[F32] = list(np.moveaxis(values, axis, 0))
    rows = evaluate_rows(matrix, inputs, _OPS)
    return np.stack(rows, axis=axis)


def _integer_pass(matrix: NDArray[np.float64], values: I8, axis: int) -> F32:
    """One int32 pass of a transform along an axis, rounded to float32.

    Computed in float64, where the sums are exact.
    """
    columns = np.moveaxis(values, axis, 0)
    flat = columns.reshape(columns.shape[0], -1).astype(np.float64)
    sums = (matrix @ flat).astype(np.float32)
    return np.moveaxis(sums.reshape(-1, *columns.shape[1:]), 0, axis)


def _products(
    v: I8, v_step: F32, weights: QuantizedWeights, keep_accumulators: bool
) -> tuple[F32, I32 | None]:
    """Products summed over channels: M (p, e, v, k), and the int32 sums of each group."""
    tiles, rows, columns, groups, size = v.shape
    outputs = weights.u.shape[2]
    # A matrix product of floats is exact as long as the sums are, and far faster than integers.
    exact = np.dtype(np.float32 if size * LARGEST**2 < _FLOAT32_INTEGERS else np.float64)
    m = np.zeros((rows, columns, tiles, outputs), dtype=np.float32)
    accumulators = []
    for group in range(groups):
        left = v[:, :, :, group].transpose(1, 2, 0, 3).astype(exact)
        right = weights.u[:, :, :, group].transpose(0, 1, 3, 2).astype(exact)
        acc = left @ right  # (e, v, p, k)
        step = v_step[..., group].transpose(1, 2, 0)[..., None] * weights.step[:, :, None, :, group]
        m = fma32(acc.astype(np.float32), step, m)
        if keep_accumulators:
            accumulators.append(acc.astype(np.int32).transpose(2, 0, 1, 3))
    kept = np.stack(accumulators, axis=-1) if keep_accumulators else None
    return np.ascontiguousarray(m.transpose(2, 0, 1, 3)), kept
