"""Photographs as tensors, from scikit-image and foolbox, in sizes that take seconds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .base import MissingPackageError, package_file

PHOTOGRAPHS = {"astronaut": (0, 128), "coffee": (60, 180), "chelsea": (40, 120)}  # corner of crops


def photograph(name: str, edge: int | None = None) -> Tensor:
    """Return a photograph, float32 (1, 3, rows, columns), 0 black and 1 white; or a square of it.

    Raises
    ------
    MissingPackageError
        If scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise MissingPackageError("no scikit-image; run: pip install scikit-image") from error
    pixels = torch.from_numpy(getattr(data, name)().copy()).float() / 255
    image = pixels.permute(2, 0, 1)[None]
    if edge is None:
        return image
    top, left = PHOTOGRAPHS[name]
    return image[:, :, top : top + edge, left : left + edge].contiguous()


def crops(edge: int) -> list[Tensor]:
    """A square of each photograph, (1, 3, edge, edge)."""
    return [photograph(name, edge) for name in PHOTOGRAPHS]


def noisy(image: Tensor, sigma: float, seed: int) -> Tensor:
    """The image with white Gaussian noise added, the same for the same seed."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return image + sigma * noise


def shrunk(image: Tensor, factor: int) -> Tensor:
    """The image at a fraction of its size, by averages over squares."""
    return functional.avg_pool2d(image, factor)


def foolbox_images(kind: str) -> list[tuple[np.ndarray, int]]:
    """Labelled images of foolbox, uint8 (rows, columns, 3): kind "cifar10" or "imagenet".

    Raises
    ------
    MissingPackageError
        If foolbox or pillow is not installed.
    """
    from PIL import Image

    suffix = {"cifar10": "png", "imagenet": "jpg"}[kind]
    first = {"cifar10": "cifar10_00_3.png", "imagenet": "imagenet_00_243.jpg"}[kind]
    folder = package_file("foolbox", f"data/{first}", "foolbox==3.3.4").parent
    return [
        (np.asarray(Image.open(path).convert("RGB")), int(path.stem.rsplit("_", 1)[1]))
        for path in sorted(folder.glob(f"{kind}_*.{suffix}"))
    ]
