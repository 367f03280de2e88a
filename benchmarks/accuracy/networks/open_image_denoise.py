"""Intel Open Image Denoise's U-Net for colour images: 16 convolutions."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wqtvm.errors import ArtefactCorruptError

from .base import Inputs, MissingPackageError, Network, conv2d, deviation, package_file
from .images import crops, noisy

_PACKAGE = "pyoidn==2.5.1.0"
_MAGIC = b"\xd7\x41\x02\x00"  # of a tensor archive, and its version 2.0
_DTYPES = {"f": np.dtype("<f4"), "h": np.dtype("<f2")}
_EDGE = 192
_SIGMA = 0.1
_LOW_RANGE = 2  # which of the archives for colours alone is that of low dynamic range


class OpenImageDenoise(nn.Module):
    """The filter's network, from colours in 0 to 1 to colours."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        names = sorted({name.rsplit(".", 1)[0] for name in tensors})
        for name in names:
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            self.add_module(name, conv2d(weight, bias, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Denoise (image, 3, row, column), rows and columns multiples of 16."""

        def layer(name: str, value: Tensor) -> Tensor:
            return functional.relu(getattr(self, name)(value))

        skips = [x]
        h = layer("enc_conv1", layer("enc_conv0", x))
        for name in ("enc_conv2", "enc_conv3", "enc_conv4"):
            h = functional.max_pool2d(h, 2)
            skips.append(h)
            h = layer(name, h)
        h = functional.max_pool2d(h, 2)
        h = layer("enc_conv5b", layer("enc_conv5a", h))
        for level in (4, 3, 2, 1):
            h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
            h = torch.cat([h, skips.pop()], 1)
            h = layer(f"dec_conv{level}b", layer(f"dec_conv{level}a", h))
        result: Tensor = functional.relu(self.dec_conv0(h))
        return result


def archives(content: bytes) -> list[dict[str, Tensor]]:
    """All tensor archives (TZA, version 2) in the data of a library, in order.

    Format: https://github.com/RenderKit/oidn, training/tza.py.
    """
    return [
        found
        for match in re.finditer(re.escape(_MAGIC), content)
        if (found := _archive(content, match.start())) is not None
    ]


def _archive(content: bytes, start: int) -> dict[str, Tensor] | None:
    """The archive there; None if the four bytes were not one's start."""
    try:
        (table,) = struct.unpack_from("<Q", content, start + 4)
        at = start + table
        (count,) = struct.unpack_from("<I", content, at)
        if not 0 < count < 1000:
            return None
        at += 4
        tensors = {}
        for _ in range(count):
            (length,) = struct.unpack_from("<H", content, at)
            name = content[at + 2 : at + 2 + length].decode("ascii")
            at += 2 + length
            axes = content[at]
            shape = struct.unpack_from(f"<{axes}I", content, at + 1)
            at += 1 + 4 * axes + axes  # the layout's letters follow the shape
            dtype = _DTYPES[chr(content[at])]
            (offset,) = struct.unpack_from("<Q", content, at + 1)
            at += 9
            size = int(np.prod(shape))
            array = np.frombuffer(content, dtype, size, start + offset).astype(np.float32)
            tensors[name] = torch.from_numpy(array.reshape(shape))
        return tensors
    except (struct.error, UnicodeDecodeError, KeyError, ValueError, IndexError):
        return None


def _candidates() -> list[dict[str, Tensor]]:
    """Archives of the network of middle size for colours alone."""
    folder: Path = package_file("pyoidn", "oidn/lib", _PACKAGE)
    libraries = sorted(folder.glob("libOpenImageDenoise_core.so.*"))
    if not libraries:
        raise MissingPackageError(f"{_PACKAGE} has no core library; install it again")
    found = archives(libraries[0].read_bytes())
    return [
        tensors
        for tensors in found
        if tensors.get("enc_conv0.weight", torch.zeros(1)).shape == (32, 3, 3, 3)
        and tensors["dec_conv1a.weight"].shape == (64, 67, 3, 3)
    ]


def _load() -> nn.Module:
    candidates = _candidates()
    if len(candidates) <= _LOW_RANGE:
        raise ArtefactCorruptError(
            f"{_PACKAGE}: {len(candidates)} networks for colours were found; install it again"
        )
    return OpenImageDenoise(candidates[_LOW_RANGE]).eval()


def _inputs() -> list[Inputs]:
    return [(noisy(x, _SIGMA, seed).clamp(0, 1),) for seed, x in enumerate(crops(_EDGE))]


def _truth() -> list[Tensor]:
    return crops(_EDGE)


def _verify() -> str:
    try:
        import pyoidn
    except ImportError as error:
        raise MissingPackageError(f"{error}; run: pip install cffi {_PACKAGE}") from error
    (x,) = _inputs()[0]
    # The filter takes linear colours, and gives the network, of low range, their sRGB values.
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)
    color = np.ascontiguousarray(linear[0].transpose(1, 2, 0))
    output = np.asarray(pyoidn.denoise(color, quality="balanced"))
    coded = np.where(
        output <= 0.0031308, output * 12.92, 1.055 * np.maximum(output, 0) ** (1 / 2.4) - 0.055
    )
    with torch.no_grad():
        ours = _load()(x).clamp(0, 1)
    reference = torch.from_numpy(coded).permute(2, 0, 1)
    return deviation("Open Image Denoise 2.5.1", reference, ours[0])


NETWORK = Network(
    "open_image_denoise", _PACKAGE, _load, _inputs, truth=_truth, peak=1.0, verify=_verify
)
