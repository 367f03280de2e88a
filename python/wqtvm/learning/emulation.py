"""Precision "full" in PyTorch, differentiable with respect to the scales.

The arithmetic is that of ``quantization.full_reference``: the same stages, steps and roundings, in
float32. Only sums of floats may be added in another order, so that a value next to a rounding tie
may fall on its other side. Axes are named as there: p tiles; i, j rows and columns of an input
tile; e, v taps; a, b rows and columns of an output tile; c channels as (g groups, s channels of a
group); k output channels as (h, s).

A rounding passes gradients on unchanged (straight-through), but a step, ``amax / 127``, is
differentiated as it is: with a constant step the gradient of the error would be noise alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..quantization.arithmetic import LARGEST, ZERO_BELOW, round_up
from ..quantization.scheme import SHARED_AXES, Axis, Scheme
from ..quantization.weights import QuantizedWeights, transform_weights

_LARGEST_OUTPUT_INTEGER = 2**15 - 1


@dataclass(frozen=True)
class Emulated:
    """Stages to compare with ``quantization.FullStages``; integers as float32.

    Attributes
    ----------
    v : (p, e, v, g, s), the transformed input.
    m_q : (p, e, v, k), sums of products.
    a_m_q : (p, a, v, k), after the first pass of the output transform.
    y : float32 (p, a, b, k), output tiles.
    """

    v: Tensor
    m_q: Tensor
    a_m_q: Tensor
    y: Tensor


class Layer(nn.Module):
    """One convolution, whose scales are given with each call.

    Parameters
    ----------
    weight : float (k, c, r, r).
    scheme : all but the scales, which are not used.
    quantized : the weights by the scales of all calls, if these are known. Without, each call
        rounds each weight by itself to the nearest integer, differentiably.
    """

    _weight: Tensor
    _u: Tensor

    def __init__(
        self,
        weight: NDArray[np.floating],
        scheme: Scheme,
        quantized: QuantizedWeights | None = None,
    ) -> None:
        super().__init__()
        self.channels = weight.shape[1]
        self._outputs = weight.shape[0]
        self._input_group = scheme.channels_per_group(self.channels)
        self._output_group = scheme.channels_per_group(self._outputs)
        self._shared_axes = SHARED_AXES[scheme.steps]
        self._filter_steps = scheme.weight_steps == "filter"
        hold_tensor(
            self, "_weight", torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32))
        )
        axes = (scheme.row_axis, scheme.column_axis)
        self._is_quantized = quantized is not None
        if quantized is None:
            g = (np.asarray(axis.algorithm.g, dtype=np.float64) for axis in axes)
            u = _split(torch.from_numpy(transform_weights(weight, *g)), self._input_group)
        else:
            u = torch.from_numpy(quantized.u.astype(np.float32) * quantized.step[..., None])
        hold_tensor(self, "_u", u)
        self._row_axis, self._column_axis = map(_Matrices, axes)

    def exact(self, d: Tensor) -> Tensor:
        """Convolve tiles (p, i, j, c) directly, to (p, a, b, k)."""
        return functional.conv2d(d.permute(0, 3, 1, 2), self._weight).permute(0, 2, 3, 1)

    def sqnr_db(self, d: Tensor, s_b: Tensor, s_g: Tensor) -> Tensor:
        """SQNR of the emulated against the direct convolution of tiles, in dB; differentiable."""
        exact = self.exact(d)
        noise = (self(d, s_b, s_g).y - exact).square().sum()
        return 10 * torch.log10(exact.square().sum() / noise)

    def forward(
        self,
        d: Tensor,
        s_b: Tensor,
        s_g: Tensor,
        column_s_b: Tensor | None = None,
        column_s_g: Tensor | None = None,
    ) -> Emulated:
        """Convolve tiles.

        Parameters
        ----------
        d : float32 (p, i, j, c).
        s_b, s_g : float64 (n,), the diagonals of S_B and S_G.
        column_s_b, column_s_g : those of the columns, if the tile is no square.
        """
        first, second = self._shared_axes
        if column_s_b is None or column_s_g is None:
            column_s_b, column_s_g = s_b, s_g
        rows, columns = self._row_axis, self._column_axis
        row_scale = (s_b * rows.row_scale).float()
        column_scale = (column_s_b * columns.row_scale).float()
        d_q, d_step = quantize(_split(d, self._input_group), first)
        sums = torch.einsum("ei,pijgs->pejgs", rows.integers, d_q)
        b_d, b_d_step = quantize(sums * (d_step * row_scale[:, None, None, None]), second)
        sums = torch.einsum("vj,pejgs->pevgs", columns.integers, b_d)
        v, v_step = quantize(sums * (b_d_step * column_scale[:, None, None]), (4,))

        u = self._u if self._is_quantized else self._quantized_weights(s_g, column_s_g)
        m = torch.einsum("pevgs,evkgs->pevk", v * v_step, u)

        a_rows, a_row_step = rows.output_integers(s_b, s_g)
        a_columns, a_column_step = columns.output_integers(column_s_b, column_s_g)
        m_q, m_step = quantize(_split(m, self._output_group), first)
        sums = torch.einsum("ae,pevhs->pavhs", a_rows, m_q)
        a_m, a_m_step = quantize(sums * (m_step * a_row_step), second)
        sums = torch.einsum("bv,pavhs->pabhs", a_columns, a_m)
        y = sums * (a_m_step * a_column_step)
        return Emulated(v, self._join(m_q), self._join(a_m), self._join(y))

    def _quantized_weights(self, s_g: Tensor, column_s_g: Tensor) -> Tensor:
        """U times its steps, float32 (e, v, k, g, s)."""
        scales = s_g[:, None, None, None, None] * column_s_g[:, None, None, None]
        u = (self._u * scales).float()
        q, step = quantize(u, (0, 1, 4) if self._filter_steps else (4,))
        return q * step

    def _join(self, values: Tensor) -> Tensor:
        return values.flatten(-2)[..., : self._outputs]


class _Matrices(nn.Module):
    """B^T, as integers and row scales, and A^T of one axis."""

    integers: Tensor
    row_scale: Tensor
    _a_t: Tensor

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        matrix = axis.input_matrix
        scales = [float(scale) for scale in matrix.row_scale]
        hold_tensor(self, "integers", torch.tensor(matrix.rows, dtype=torch.float32))
        hold_tensor(self, "row_scale", torch.tensor(scales, dtype=torch.float64))
        hold_tensor(
            self, "_a_t", torch.from_numpy(np.asarray(axis.algorithm.a_t, dtype=np.float64))
        )

    def output_integers(self, s_b: Tensor, s_g: Tensor) -> tuple[Tensor, Tensor]:
        """A^T S_A rounded to 16 bits, and its step."""
        scaled = self._a_t / (s_b * s_g)
        step = scaled.abs().amax() / _LARGEST_OUTPUT_INTEGER
        return _round(scaled / step).float(), step.float()


def hold_tensor(module: nn.Module, name: str, value: Tensor | None) -> None:
    """Keep a tensor that goes with the module to a device, but is no part of its state."""
    module.register_buffer(name, value, persistent=False)


def quantize(values: Tensor, shared: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Integers and steps as of ``quantization.quantize``, of finite values, with gradients."""
    largest = values.abs().amax(dim=shared, keepdim=True)
    zero = largest < float(ZERO_BELOW)
    positive = torch.where(zero, 1.0, largest)
    # Not a number over a tensor: PyTorch would round the reciprocal first.
    inverse = torch.where(zero, 0.0, torch.full_like(positive, LARGEST) / positive)
    step = torch.where(zero, 0.0, positive / torch.full_like(positive, LARGEST))
    return _round(values * inverse), step


def _round(values: Tensor) -> Tensor:
    """To the nearest integer, ties to even; the gradient is that of the values."""
    # The difference of a float and its nearest integer is exact, so that the sum is the integer.
    return values + (values.round() - values).detach()


def _split(values: Tensor, size: int) -> Tensor:
    """Last axis (channels) as (groups, size), the last group padded with zeros."""
    channels = values.shape[-1]
    padded = functional.pad(values, (0, round_up(channels, size) - channels))
    return padded.reshape(*values.shape[:-1], -1, size)
