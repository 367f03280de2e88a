"""The layers of the race, and the data that all competitors take."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TAPS = 9
CORRELATION = 0.9  # of neighbouring pixels
SEED = 0
LARGE = 32  # least edge of the maps whose geometric mean is given

ARRAYS = ("x", "weight", "bias", "reference")


@dataclass(frozen=True)
class Layer:
    """A 3x3 convolution with a bias, stride 1, padding 1.

    Attributes
    ----------
    network : that it is of.
    in_channels, out_channels, height, width, batch : its sizes.
    """

    network: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    batch: int = 1

    @property
    def name(self) -> str:
        """As in the tables: "U-Net 640->320@64", with the batch where it is not 1."""
        channels = f"{self.in_channels}"
        if self.out_channels != self.in_channels:
            channels += f"->{self.out_channels}"
        size = f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"
        batch = f" x{self.batch}" if self.batch != 1 else ""
        return f"{self.network} {channels}@{size}{batch}"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct convolution."""
        return self.batch * self.height * self.width * self.out_channels * self.weights

    @property
    def weights(self) -> int:
        """Weights of one output channel."""
        return TAPS * self.in_channels

    @property
    def large(self) -> bool:
        """Whether it counts in the geometric mean."""
        return min(self.height, self.width) >= LARGE

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
        return self.batch * self.height * self.width * self.out_channels

    @property
    def im2col_bytes(self) -> int:
        """What an im2col of the int8 input takes: every pixel once for each tap."""
        return TAPS * self.input_size


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
    sizes = ("network", "in_channels", "out_channels", "height", "width")
    return [
        Layer(*(getattr(layer, size) for size in sizes), batch)
        for batch in batches
        for layer in found
    ]


def _fits(layer: Layer, pattern: str) -> bool:
    return pattern in layer.name or fnmatch.fnmatch(layer.name, pattern)


def write_data(layer: Layer, folder: Path) -> None:
    """Write the layer's data as ``NAME.npy`` files, see ``ARRAYS``, for all workers to map.

    x (batch, height, width, channel) float32: a ReLU of Gaussian noise, autoregressive with
    ``CORRELATION`` along both axes, of variance 1. weight (out, in, 3, 3) float32: Gaussian, such
    that the output's variance is about the input's. bias (out) float32: Gaussian. reference: the
    convolution's result (batch, height, width, channel) by PyTorch in float32.
    """
    import torch

    rng = np.random.default_rng(SEED)
    x = smooth(rng, layer)
    shape = (layer.out_channels, layer.in_channels, 3, 3)
    weight = rng.standard_normal(shape, dtype=np.float32) / np.float32(layer.weights**0.5)
    bias = rng.standard_normal(layer.out_channels, dtype=np.float32)
    with torch.inference_mode():
        reference = torch.nn.functional.conv2d(
            torch.from_numpy(x).permute(0, 3, 1, 2), *map(torch.from_numpy, (weight, bias)), 1, 1
        )
    values = (x, weight, bias, reference.permute(0, 2, 3, 1).contiguous().numpy())
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
