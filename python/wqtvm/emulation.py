"""Quantized convolutions in PyTorch: the arithmetic of the kernels, fast, on any machine.

For measuring what a scheme costs a layer or a whole network without compiling it. Steps and
roundings are those of ``quantization.reference``; sums of floats may be added in another order, so
that a value next to a rounding tie may fall on its other side.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .learning.emulation import Layer, quantize
from .quantization.arithmetic import round_up
from .quantization.scheme import Scheme
from .quantization.weights import quantize_weights

_CHUNK_BYTES = 64 << 20  # of transformed input at a time: larger chunks gain nothing


class EmulatedConvolution(nn.Module):
    """One convolution of stride 1, quantized as a scheme says.

    Parameters
    ----------
    weight : float (output channel, input channel, r, r).
    scheme : algorithm, scales, precision, group size and steps.
    padding : zeros at each edge of the image, in pixels.
    bias : float32 (output channel,), or None.

    Raises
    ------
    NotEligibleError
        If the kernel is not r x r for the scheme's algorithm.
    NonFiniteError
        If a weight is NaN or infinite.
    """

    bias: Tensor | None
    _u: Tensor  # these three in precision "hadamard"
    _input: Tensor
    _output: Tensor
    _s_b: Tensor  # these two in precision "full"
    _s_g: Tensor

    def __init__(
        self,
        weight: NDArray[np.floating],
        scheme: Scheme,
        padding: int = 0,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.scheme, self.padding = scheme, padding
        quantized = quantize_weights(weight, scheme)
        self._outputs, self._channels = weight.shape[:2]
        algorithm = scheme.algorithm
        self._m, self._n, self._t = algorithm.m, algorithm.n, algorithm.t
        self._full = Layer(weight, scheme) if scheme.precision == "full" else None
        self._hold("bias", bias)
        if self._full is not None:
            self._hold("_s_b", torch.tensor(scheme.effective_scales.s_b, dtype=torch.float64))
            self._hold("_s_g", torch.tensor(scheme.effective_scales.s_g, dtype=torch.float64))
            return
        products = quantized.u.astype(np.float32) * quantized.step[..., None]
        flat = products.reshape(self._n**2, self._outputs, -1).transpose(0, 2, 1)
        self._hold("_u", torch.from_numpy(np.ascontiguousarray(flat)))  # (taps, channels, k)
        rows = np.asarray(scheme.input_matrix.rows, dtype=np.float32)
        self._hold("_input", torch.from_numpy(np.kron(rows, rows)))
        output = scheme.output_matrix
        self._hold("_output", torch.from_numpy(np.kron(output, output).astype(np.float32)))

    def _hold(self, name: str, value: Tensor | None) -> None:
        """Keep a tensor that goes with the module to a device, but is no part of its state."""
        self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Do as nn.Module for ``to``; what precision "full" holds moves along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._full is not None:
            for name, value in vars(self._full).items():
                if isinstance(value, Tensor):
                    setattr(self._full, name, value.to(self._s_b.device))
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Convolve float32 (image, channel, row, column)."""
        batch, _, height, width = x.shape
        edge, taps = self._t, self.scheme.algorithm.r
        out_height = height + 2 * self.padding - taps + 1
        out_width = width + 2 * self.padding - taps + 1
        rows, columns = math.ceil(out_height / self._m), math.ceil(out_width / self._m)
        below = rows * self._m + taps - 1 - height - self.padding
        right = columns * self._m + taps - 1 - width - self.padding
        padded = functional.pad(x, (self.padding, right, self.padding, below))
        windows = padded.unfold(2, edge, self._m).unfold(3, edge, self._m)  # (b, c, y, x, i, j)
        tile_bytes = 4 * self._n**2 * max(self._channels, self._outputs)
        step = max(1, _CHUNK_BYTES // (tile_bytes * batch * columns))
        strips = []
        for first in range(0, rows, step):
            strip = windows[:, :, first : first + step]
            count = strip.shape[2]
            y = self._tiles(strip.permute(4, 5, 0, 2, 3, 1).reshape(edge**2, -1, self._channels))
            y = y.reshape(self._m, self._m, batch, count, columns, self._outputs)
            image = y.permute(2, 5, 3, 0, 4, 1)
            strips.append(image.reshape(batch, self._outputs, count * self._m, columns * self._m))
        result = torch.cat(strips, dim=2)[:, :, :out_height, :out_width]
        return result if self.bias is None else result + self.bias[:, None, None]

    def _tiles(self, d: Tensor) -> Tensor:
        """Convolve tiles (i * j, p, c) to (a * b, p, k)."""
        if self._full is not None:
            tiles = d.reshape(self._t, self._t, *d.shape[1:]).permute(2, 0, 1, 3)
            y = self._full(tiles, self._s_b, self._s_g).y  # (p, a, b, k)
            return y.permute(1, 2, 0, 3).flatten(0, 1)
        v = (self._input @ d.flatten(1)).reshape(-1, *d.shape[1:])
        size = self.scheme.channels_per_group(self._channels)
        v = functional.pad(v, (0, round_up(self._channels, size) - self._channels))
        q, q_step = quantize(v.reshape(*v.shape[:-1], -1, size), (-1,))
        m = torch.bmm((q * q_step).flatten(-2), self._u)  # (taps, p, k)
        return (self._output @ m.flatten(1)).reshape(-1, *m.shape[1:])


def emulate_network(model: nn.Module, schemes: dict[str, Scheme | None]) -> nn.Module:
    """Return a copy of a network whose named convolutions are emulated; None leaves one in float.

    The copy lies on the network's device; weights are quantized on the CPU.

    Raises
    ------
    KeyError
        If a name is no module of the network.
    """
    emulated = copy.deepcopy(model)
    modules = dict(emulated.named_modules())
    for name, scheme in schemes.items():
        if scheme is None:
            continue
        convolution = modules[name]
        replacement = EmulatedConvolution(
            convolution.weight.detach().cpu().double().numpy(),
            scheme,
            int(convolution.padding[0]),
            None if convolution.bias is None else convolution.bias.detach(),
        )
        parent, _, leaf = name.rpartition(".")
        setattr(modules[parent], leaf, replacement.to(convolution.weight.device))
    return emulated
