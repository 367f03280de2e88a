"""FFDNet in PyTorch's own static int8: direct convolutions of oneDNN, one step a tensor.

It is what int8 libraries offer today, and unlike wqtvm needs calibration; here the calibration data
is the very image that it is then run on, the best case.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wqtvm.demo.network import SHRINK, FFDNet

LEVELS = 255  # of an activation, quint8
LARGEST = 127  # of a weight, qint8


class StaticInt8:
    """The network with every convolution, its bias and its ReLU in int8, for one size of image."""

    def __init__(self, network: FFDNet, image: Tensor, sigma: Tensor) -> None:
        torch.backends.quantized.engine = "x86"
        convolutions = [network.head, *network.body, network.tail]
        x = before(image, sigma)
        self.input_step, self.input_zero = affine(x)
        self.layers = []
        for convolution in convolutions:
            last = convolution is network.tail
            x = convolution(x) if last else functional.relu(convolution(x))
            self.layers.append((pack(convolution), *affine(x)))

    def __call__(self, image: Tensor, sigma: Tensor) -> Tensor:
        """Denoise, as ``FFDNet.forward``."""
        x = before(image, sigma).contiguous(memory_format=torch.channels_last)
        x = torch.quantize_per_tensor(x, self.input_step, self.input_zero, torch.quint8)
        *others, tail = self.layers
        for weight, step, zero in others:
            x = torch.ops.quantized.conv2d_relu(x, weight, step, zero)
        x = torch.ops.quantized.conv2d(x, *tail).dequantize()
        return functional.pixel_shuffle(x, SHRINK)


def before(image: Tensor, sigma: Tensor) -> Tensor:
    """What the first convolution takes; the image's edges have to be even."""
    x = functional.pixel_unshuffle(image, SHRINK)
    return torch.cat((x, sigma.expand(x.shape[0], 1, *x.shape[2:])), dim=1)


def affine(x: Tensor) -> tuple[float, int]:
    """Step and zero point that map the range of x, which zero is made part of, to 0 to 255."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    step = (high - low) / LEVELS
    return step, round(-low / step)


def pack(convolution: nn.Conv2d) -> torch.ScriptObject:
    """Quantize the weights, a step an output channel."""
    weight = convolution.weight.detach()
    steps = weight.abs().amax((1, 2, 3)) / LARGEST
    zeros = torch.zeros(len(steps), dtype=torch.int64)
    quantized = torch.quantize_per_channel(weight, steps, zeros, 0, torch.qint8)
    bias = convolution.bias.detach()
    return torch.ops.quantized.conv2d_prepack(quantized, bias, [1, 1], [1, 1], [1, 1], 1)
