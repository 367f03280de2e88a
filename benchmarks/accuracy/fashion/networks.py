"""The networks: a class-conditional flow-matching U-Net, and the classifier that judges it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
WIDTHS = (32, 64, 128)  # channels at 28 x 28, 14 x 14 and 7 x 7
_EMBEDDING = 128
_NORM_GROUPS = 8


class Block(nn.Module):
    """Two 3x3 convolutions with a residual connection; the embedding shifts what is between."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_NORM_GROUPS, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(_EMBEDDING, outputs)
        self.norm2 = nn.GroupNorm(_NORM_GROUPS, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """From (image, inputs, row, column) to (image, outputs, row, column)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.embed(embedding)[:, :, None, None]
        return self.skip(x) + self.conv2(functional.silu(self.norm2(h)))


class FlowUNet(nn.Module):
    """The velocity of a flow from noise (time 0) to images (time 1) of a class."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.time = nn.Sequential(
            nn.Linear(_EMBEDDING, _EMBEDDING), nn.SiLU(), nn.Linear(_EMBEDDING, _EMBEDDING)
        )
        self.label = nn.Embedding(CLASSES, _EMBEDDING)
        self.first = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        channels, skips = widths[0], []
        for width in widths:
            self.down.append(nn.ModuleList([Block(channels, width), Block(width, width)]))
            skips.append(width)
            channels = width
        self.middle = Block(channels, channels)
        for width in reversed(widths):
            blocks = [Block(channels + skips.pop(), width), Block(width, width)]
            self.up.append(nn.ModuleList(blocks))
            channels = width
        self.norm = nn.GroupNorm(_NORM_GROUPS, channels)
        self.last = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Velocity (image, 1, 28, 28) of x at times (image,) for labels int64 (image,)."""
        frequencies = torch.exp(
            torch.arange(_EMBEDDING // 2, dtype=x.dtype, device=x.device)
            * (-math.log(1e4) / (_EMBEDDING // 2))
        )
        angles = 1000 * time[:, None] * frequencies
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(label)
        embedding = functional.silu(embedding)
        h = self.first(x)
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                h = functional.avg_pool2d(h, 2)
            for block in blocks:
                h = block(h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for level, blocks in enumerate(self.up):
            if level:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
            h = torch.cat([h, skips.pop()], 1)
            for block in blocks:
                h = block(h, embedding)
        return self.last(functional.silu(self.norm(h)))


class Classifier(nn.Module):
    """A small convolutional classifier, whose features measure how far sets of images differ."""

    FEATURES = 128

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 128, 3, padding=1, stride=2), nn.BatchNorm2d(128), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, self.FEATURES),
        )  # fmt: skip
        self.head = nn.Linear(self.FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Features (image, 128) of images (image, 1, 28, 28)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (image, 10)."""
        return self.head(functional.relu(self.features(x)))
