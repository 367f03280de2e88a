"""Quantized convolutions in PyTorch: the arithmetic of the kernels, fast, on any machine.

For measuring what a scheme costs a layer or a whole network without compiling it. Steps and
roundings are those of ``quantization.reference``; sums of floats may be added in another order, so
that a value next to a rounding tie may fall on its other side.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .errors import NotEligibleError
from .learning.emulation import Layer, hold_tensor, quantize
from .quantization.arithmetic import round_up
from .quantization.balance import balanced_weights
from .quantization.bfloat16_reference import bfloat16_values
from .quantization.image_reference import LEVELS, ZERO_BELOW
from .quantization.plan import LayerPlan
from .quantization.scheme import Scheme
from .quantization.weights import quantize_weights

_CHUNK_BYTES = 64 << 20  # of transformed input at a time: larger chunks gain nothing

_SCALES = ("_row_s_b", "_row_s_g", "_column_s_b", "_column_s_g")  # buffers in precision "full"


def _levels(x: Tensor) -> Tensor:
    """Images (image, channel, row, column) rounded to the levels of ``image_reference``."""
    high, low = (each.amax((1, 2, 3), keepdim=True).clamp(min=0) for each in (x, -x))
    extent = high + low
    inverse = torch.where(extent >= float(ZERO_BELOW), LEVELS / extent, 0.0)
    zero = torch.round(low * inverse)
    levels = torch.clamp(torch.round(x * inverse) + zero, max=LEVELS)
    return (levels - zero) * (extent / LEVELS)


def _to_bfloat16(x: Tensor) -> Tensor:
    """Values rounded to bfloat16."""
    return x.bfloat16().float()


class EmulatedConvolution(nn.Module):
    """One convolution, quantized as a scheme says.

    Parameters
    ----------
    weight : float (output channel, input channel, r, r).
    scheme : algorithm, scales, precision, group size and steps.
    padding : zeros at each edge of the image, in pixels.
    bias : float32 (output channel,), or None.
    balance : what each input channel is multiplied, and its weights are divided by; None: nothing.
    stride : pixels of the input from one output to the next, along both axes.

    Raises
    ------
    NotEligibleError
        If the kernel is not r x r for the scheme's algorithm, or the stride is not 1 and the
        algorithm not direct.
    NonFiniteError
        If a weight is NaN or infinite.
    """

    bias: Tensor | None
    _balance: Tensor | None
    _u: Tensor  # these three in precision "hadamard"
    _input: Tensor
    _output: Tensor

    def __init__(
        self,
        weight: NDArray[np.floating],
        scheme: Scheme,
        padding: int = 0,
        bias: Tensor | None = None,
        balance: Sequence[float] | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if stride != 1 and not scheme.is_direct:
            raise NotEligibleError(
                f"stride is {stride}; {scheme.name} is for stride 1, the direct convolution in "
                "precision 'hadamard' for others"
            )
        factors = None
        if balance is not None:
            weight = balanced_weights(weight, np.asarray(balance))
            factors = torch.tensor(balance, dtype=torch.float32)[:, None, None]
        hold_tensor(self, "_balance", factors)
        self.scheme, self.padding, self.stride = scheme, padding, stride
        quantized = quantize_weights(weight, scheme)
        self._outputs, self._channels = weight.shape[:2]
        self._full = Layer(weight, scheme, quantized) if scheme.precision == "full" else None
        # What rounds a whole image, where that is all that happens to it before the products.
        self._rounded = _to_bfloat16 if scheme.is_bfloat16 else None
        if scheme.activation_steps == "image":
            self._rounded = _levels
        hold_tensor(self, "bias", bias)
        axes = (scheme.row_axis, scheme.column_axis)
        if self._full is not None:
            values = [values for axis in axes for values in (axis.scales.s_b, axis.scales.s_g)]
            for name, scales in zip(_SCALES, values, strict=True):
                hold_tensor(self, name, torch.tensor(scales, dtype=torch.float64))
            return
        u = bfloat16_values(quantized.u) if scheme.is_bfloat16 else quantized.u.astype(np.float32)  # type: ignore[arg-type]
        products = u * quantized.step[..., None]
        if self._rounded is not None:
            weight = products[..., 0, : self._channels].transpose(2, 3, 0, 1)
            hold_tensor(self, "_u", torch.from_numpy(np.ascontiguousarray(weight)))
            return
        flat = products.reshape(math.prod(scheme.products), self._outputs, -1).transpose(0, 2, 1)
        hold_tensor(self, "_u", torch.from_numpy(np.ascontiguousarray(flat)))  # (taps, channels, k)
        rows, columns = (np.asarray(axis.input_matrix.rows, dtype=np.float32) for axis in axes)
        hold_tensor(self, "_input", torch.from_numpy(np.kron(rows, columns)))
        output = np.kron(*(axis.output_matrix for axis in axes))
        hold_tensor(self, "_output", torch.from_numpy(output.astype(np.float32)))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 (image, channel, row, column)."""
        if self._balance is not None:
            x = x * self._balance
        if self._rounded is not None:
            rounded = self._rounded(x)
            return functional.conv2d(rounded, self._u, self.bias, self.stride, self.padding)
        batch, _, height, width = x.shape
        taps = self.scheme.kernel
        (m_y, m_x), (t_y, t_x) = self.scheme.output_tile, self.scheme.input_tile
        out_height = (height + 2 * self.padding - taps) // self.stride + 1
        out_width = (width + 2 * self.padding - taps) // self.stride + 1
        rows, columns = math.ceil(out_height / m_y), math.ceil(out_width / m_x)
        step_y, step_x = m_y * self.stride, m_x * self.stride
        below = (rows - 1) * step_y + t_y - height - self.padding
        right = (columns - 1) * step_x + t_x - width - self.padding
        padded = functional.pad(x, (self.padding, right, self.padding, below))
        windows = padded.unfold(2, t_y, step_y).unfold(3, t_x, step_x)  # (b, c, y, x, i, j)
        products = math.prod(self.scheme.products)
        tile_bytes = 4 * products * max(self._channels, self._outputs)
        step = max(1, _CHUNK_BYTES // (tile_bytes * batch * columns))
        strips = []
        for first in range(0, rows, step):
            strip = windows[:, :, first : first + step]
            count = strip.shape[2]
            y = self._tiles(strip.permute(4, 5, 0, 2, 3, 1).reshape(t_y * t_x, -1, self._channels))
            y = y.reshape(m_y, m_x, batch, count, columns, self._outputs)
            image = y.permute(2, 5, 3, 0, 4, 1)
            strips.append(image.reshape(batch, self._outputs, count * m_y, columns * m_x))
        result = torch.cat(strips, dim=2)[:, :, :out_height, :out_width]
        return result if self.bias is None else result + self.bias[:, None, None]

    def _tiles(self, d: Tensor) -> Tensor:
        """Convolve tiles (i * j, p, c) to (a * b, p, k)."""
        if self._full is not None:
            tiles = d.reshape(*self.scheme.input_tile, *d.shape[1:]).permute(2, 0, 1, 3)
            scales = (self.get_buffer(name) for name in _SCALES)
            y: Tensor = self._full(tiles, *scales).y  # (p, a, b, k)
            return y.permute(1, 2, 0, 3).flatten(0, 1)
        v = (self._input @ d.flatten(1)).reshape(-1, *d.shape[1:])
        size = self.scheme.channels_per_group(self._channels)
        v = functional.pad(v, (0, round_up(self._channels, size) - self._channels))
        q, q_step = quantize(v.reshape(*v.shape[:-1], -1, size), (-1,))
        m = torch.bmm((q * q_step).flatten(-2), self._u)  # (taps, p, k)
        return (self._output @ m.flatten(1)).reshape(-1, *m.shape[1:])


def emulated_convolution(
    weight: NDArray[np.floating],
    layer: Scheme | LayerPlan,
    padding: int = 0,
    bias: Tensor | None = None,
    stride: int = 1,
) -> EmulatedConvolution:
    """Return one convolution by a scheme, or as it is planned, balanced and corrected.

    The stride is of a scheme's; a plan has its own.
    """
    if isinstance(layer, Scheme):
        return EmulatedConvolution(weight, layer, padding, bias, stride=stride)
    if layer.correction is not None:
        correction = torch.tensor(layer.correction, dtype=torch.float32)
        bias = correction if bias is None else bias + correction.to(bias.device)
    return EmulatedConvolution(
        weight, layer.scheme(), padding, bias, layer.balance, layer.stride[0]
    )


def emulate_network(model: nn.Module, layers: Mapping[str, Scheme | LayerPlan | None]) -> nn.Module:
    """Return a copy of a network whose named convolutions are emulated; None leaves one in float.

    The copy lies on the network's device; weights are quantized on the CPU.

    Raises
    ------
    KeyError
        If a name is no module of the network.
    """
    emulated = copy.deepcopy(model)
    modules = dict(emulated.named_modules())
    for name, layer in layers.items():
        if layer is None or (isinstance(layer, LayerPlan) and layer.algorithm == "float"):
            continue
        convolution = modules[name]
        weight = convolution.weight.detach().cpu().double().numpy()
        bias = None if convolution.bias is None else convolution.bias.detach()
        padding, stride = int(convolution.padding[0]), int(convolution.stride[0])
        replacement = emulated_convolution(weight, layer, padding, bias, stride)
        parent, _, leaf = name.rpartition(".")
        setattr(modules[parent], leaf, replacement.to(convolution.weight.device))
    return emulated
