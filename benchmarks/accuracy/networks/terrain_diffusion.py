"""A consistency model of terrain: a diffusion U-Net that makes height maps from noise in a step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .base import Inputs, MissingPackageError, Network, deviation, package_file
from .onnx_graph import read

_PACKAGE = "adaptive-terrain-diffusion==0.4.2"
_SIGMA = 80.0  # of the noise that the one step starts from
_DIFFICULTIES = (0.2, 0.8)


def _path() -> Path:
    name = "weights/terrain_consistency_unet_difficulty100.onnx"
    return package_file("terrain_diffusion", name, _PACKAGE)


def _load() -> nn.Module:
    return read(_path(), _inputs()[0])


def _inputs() -> list[Inputs]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn((1, 1, 128, 128), generator=generator) * _SIGMA,
            torch.full((1,), _SIGMA),
            torch.full((1,), difficulty),
        )
        for difficulty in _DIFFICULTIES
    ]


def _verify() -> str:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("no onnxruntime; run: pip install onnxruntime") from error
    session = onnxruntime.InferenceSession(str(_path()), providers=["CPUExecutionProvider"])
    x = _inputs()[0]
    names = [value.name for value in session.get_inputs()]
    (output,) = session.run(None, {n: t.numpy() for n, t in zip(names, x, strict=True)})
    with torch.no_grad():
        ours = _load()(*x)
    return deviation(f"ONNX Runtime {onnxruntime.__version__}", torch.from_numpy(output), ours)


NETWORK = Network("terrain_diffusion", _PACKAGE, _load, _inputs, verify=_verify)
