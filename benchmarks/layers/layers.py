"""The layers of the race, and the data that all competitors take."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CORRELATION = 0.9  # of neighbouring pixels
SEED = 0
LARGE = 32  # least edge of the maps whose geometric mean is given

ARRAYS = ("x", "weight", "bias", "stride", "reference")


@dataclass(frozen=True)
class Layer:
    """A convolution with a bias, and as much padding as keeps the size of the image at stride 1.

    Attributes
    ----------
    network : that it is of.
    in_channels, out_channels, height, width, batch : its sizes, those of the input.
    kernel, stride : along both axes; the kernel's edge is odd.
    """

    network: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    batch: int = 1
    kernel: int = 3
    stride: int = 1

    @property
    def name(self) -> str:
        """As in the tables: "U-Net 640->320@64", with kernel and batch where they are not usual."""
        channels = f"{self.in_channels}"
        if self.out_channels != self.in_channels:
            channels += f"->{self.out_channels}"
        size = f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"
        batch = f" x{self.batch}" if self.batch != 1 else ""
        shape = "" if self.plain else f" {self.kernel}x{self.kernel}"
        shape += f"/{self.stride}" if self.stride != 1 else ""
        return f"{self.network} {channels}@{size}{shape}{batch}"

    @property
    def plain(self) -> bool:
        """Whether it is 3x3 with stride 1."""
        return (self.kernel, self.stride) == (3, 1)

    @property
    def pixels(self) -> int:
        """Of the output, of all images."""
        return (
            self.batch * math.ceil(self.height / self.stride) * math.ceil(self.width / self.stride)
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct convolution."""
        return self.pixels * self.out_channels * self.weights

    @property
    def weights(self) -> int:
        """Weights of one output channel."""
        return self.kernel**2 * self.in_channels

    @property
    def large(self) -> bool:
        """Whether it counts in the geometric mean, which is of 3x3 kernels."""
        return self.plain and min(self.height, self.width) >= LARGE

    @property
    def input_size(self) -> int:
        """Elements of the input."""
        return self.batch * self.height * self.width * self.in_channels

    def write(self, folder: Path) -> None:
        """Write the data that all competitors take, see ``write_data``."""
        write_data(self, folder)

    @property
    def output_size(self) -> int:
        """Elements of the output."""
        return self.pixels * self.out_channels

    @property
    def im2col_bytes(self) -> int:
        """What an im2col of the int8 input takes: what each output reads of it."""
        return self.pixels * self.weights


LAYERS = (
    Layer("ResNet", 64, 64, 56, 56),
    Layer("ResNet", 128, 128, 28, 28),
    Layer("ResNet", 256, 256, 14, 14),
    Layer("ResNet", 512, 512, 7, 7),
    Layer("U-Net", 320, 320, 64, 64),
    Layer("U-Net", 640, 320, 64, 64),
    Layer("U-Net", 960, 320, 64, 64),
    Layer("U-Net", 640, 640, 32, 32),
    Layer("U-Net", 1920, 640, 32, 32),
    Layer("U-Net", 1280, 1280, 16, 16),
    Layer("U-Net", 2560, 1280, 16, 16),
    Layer("U-Net", 1280, 1280, 8, 8),
    Layer("VAE", 512, 512, 64, 64),
    Layer("VAE", 256, 256, 256, 256),
    Layer("VAE", 128, 128, 512, 512),
    Layer("SR", 64, 64, 180, 320),
    Layer("Bottleneck", 256, 64, 56, 56, kernel=1),
    Layer("Bottleneck", 64, 256, 56, 56, kernel=1),
    Layer("Bottleneck", 256, 1024, 14, 14, kernel=1),
    Layer("Bottleneck", 1024, 256, 14, 14, kernel=1),
    Layer("Bottleneck", 512, 2048, 7, 7, kernel=1),
    Layer("Shortcut", 256, 512, 56, 56, kernel=1, stride=2),
    Layer("Skip", 640, 320, 64, 64, kernel=1),
    Layer("Down", 64, 128, 56, 56, stride=2),
    Layer("Down", 256, 512, 14, 14, stride=2),
    Layer("Down", 320, 320, 64, 64, stride=2),
    Layer("Large", 64, 64, 56, 56, kernel=5),
    Layer("Large", 64, 64, 56, 56, kernel=5, stride=2),
)


def chosen(patterns: list[str], batches: list[int]) -> list[Layer]:
    """Return the layers whose name without the batch fits a shell pattern, once for each batch.

    A pattern without wildcards fits where it is a part of the name.

    Raises
    ------
    ValueError
        If a pattern fits no layer.
    """
    for pattern in patterns:
        if not any(_fits(layer, pattern) for layer in LAYERS):
            names = ", ".join(layer.name for layer in LAYERS)
            raise ValueError(f"no layer is like {pattern!r}; there are: {names}")
    found = [layer for layer in LAYERS if not patterns or any(_fits(layer, p) for p in patterns)]
    return [replace(layer, batch=batch) for batch in batches for layer in found]


def _fits(layer: Layer, pattern: str) -> bool:
    return pattern in layer.name or fnmatch.fnmatch(layer.name, pattern)


def write_data(layer: Layer, folder: Path) -> None:
    """Write the layer's data as ``NAME.npy`` files, see ``ARRAYS``, for all workers to map.

    x (batch, height, width, channel) float32: a ReLU of Gaussian noise, autoregressive with
    ``CORRELATION`` along both axes, of variance 1. weight (out, in, row, column) float32: Gaussian,
    such that the output's variance is about the input's. bias (out) float32: Gaussian. stride: a
    number. reference: the convolution's result (batch, row, column, channel) by PyTorch in float32.
    """
    import torch

    rng = np.random.default_rng(SEED)
    x = smooth(rng, layer)
    shape = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
    weight = rng.standard_normal(shape, dtype=np.float32) / np.float32(layer.weights**0.5)
    bias = rng.standard_normal(layer.out_channels, dtype=np.float32)
    with torch.inference_mode():
        reference = torch.nn.functional.conv2d(
            torch.from_numpy(x).permute(0, 3, 1, 2),
            *map(torch.from_numpy, (weight, bias)),
            layer.stride,
            layer.kernel // 2,
        )
    stride = np.array(layer.stride)
    values = (x, weight, bias, stride, reference.permute(0, 2, 3, 1).contiguous().numpy())
    for name, value in zip(ARRAYS, values, strict=True):
        path = folder / f"{name}.npy"
        path.unlink(missing_ok=True)  # a worker may still map the last layer's
        np.save(path, value)


def smooth(rng: np.random.Generator, layer: Layer) -> NDArray[np.float32]:
    """Draw an input, float32 (batch, height, width, channel)."""
    shape = (layer.batch, layer.height, layer.width, layer.in_channels)
    x = rng.standard_normal(shape, dtype=np.float32)
    innovation = np.float32((1 - CORRELATION**2) ** 0.5)
    for rows in (x.swapaxes(0, 1), x.swapaxes(0, 2)):  # views whose first axis is that of an image
        for index in range(1, len(rows)):
            rows[index] = np.float32(CORRELATION) * rows[index - 1] + innovation * rows[index]
    return np.maximum(x, 0, out=x)
