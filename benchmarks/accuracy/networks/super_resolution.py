"""What the networks in ncnn's format share: how they are verified, and their inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base import Inputs, MissingPackageError, deviation
from .images import crops, shrunk
from .ncnn import read


def upscaling(
    edge: int, factor: int
) -> tuple[Callable[[], list[Inputs]], Callable[[], list[Tensor]]]:
    """Inputs, photographs shrunk by averages to edge x edge, and their truth, the originals."""

    def inputs() -> list[Inputs]:
        return [(shrunk(image, factor),) for image in crops(edge * factor)]

    def truth() -> list[Tensor]:
        return crops(edge * factor)

    return inputs, truth


def against_ncnn(param: Callable[[], Path], input_blob: str, image: Callable[[], Tensor]) -> str:
    """Compare with the ncnn runtime in float32, given the same files.

    Raises
    ------
    MissingPackageError
        If the ncnn package is not installed.
    """
    try:
        import ncnn
    except ImportError as error:
        raise MissingPackageError("ncnn is not installed; run: pip install ncnn") from error
    path, x = param(), image()
    net = ncnn.Net()
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, option, False)
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    extractor = net.create_extractor()
    extractor.input(input_blob, ncnn.Mat(np.ascontiguousarray(x[0].numpy())))
    _, output = extractor.extract(net.output_names()[0])
    with torch.no_grad():
        ours = read(path, path.with_suffix(".bin"))(x)
    return deviation(f"ncnn {ncnn.__version__}", torch.from_numpy(np.array(output)), ours[0])
