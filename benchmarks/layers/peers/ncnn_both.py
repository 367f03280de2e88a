"""ncnn's convolution in int8, and in float32 by Winograd.

ncnn takes one image a time, and packs channels by 8 or 16; as between the layers of a network,
packing is not part of the run.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import ncnn
import numpy as np
from numpy.typing import NDArray

from .base import LARGEST, CannotRunError, Problem, Setting, Variant

INT8_WEIGHTS = struct.pack("<I", 0x000D4B38)  # tags of ncnn's weight files
FLOAT_WEIGHTS = struct.pack("<I", 0)
PACKED = 1  # of Extractor.extract: return the result as it is in memory


class Convolution:
    """float32 in and out, packed channels; in int8 the run quantizes and dequantizes."""

    def __init__(self, problem: Problem, kind: str, threads: int) -> None:
        weights = int8_weights(problem) if kind == "int8" else float_weights(problem)
        self.net = load(parameters(problem, kind), weights, threads)
        planes = np.ascontiguousarray(problem.x.transpose(0, 3, 1, 2))
        pack = next(size for size in (16, 8, 4, 1) if planes.shape[1] % size == 0)
        self.images = [ncnn.convert_packing(ncnn.Mat(image).clone(), pack) for image in planes]

    def run(self) -> None:
        """Compute the layer once."""
        self.results = [self._one(image) for image in self.images]

    def _one(self, image: ncnn.Mat) -> ncnn.Mat:
        extractor = self.net.create_extractor()
        extractor.input("x", image)
        status, result = extractor.extract("y", PACKED)
        if status != 0:
            raise CannotRunError(f"ncnn's extractor fails with status {status}")
        return result

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        planes = [np.array(ncnn.convert_packing(each, 1)) for each in self.results]
        return np.stack(planes).transpose(0, 2, 3, 1)


def parameters(problem: Problem, kind: str) -> str:
    """Return the .param file of the layer."""
    out, weights = len(problem.weight), problem.weight.size
    int8 = " 8=2" if kind == "int8" else ""  # scales of the weights and of the input follow
    return (
        "7767517\n2 2\n"
        "Input x 0 1 x\n"
        f"Convolution conv 1 1 x y 0={out} 1={problem.kernel} 3={problem.stride} "
        f"4={problem.padding} 5=1 6={weights}{int8}\n"
    )


def float_weights(problem: Problem) -> bytes:
    """Return the .bin file of the layer in float32."""
    return FLOAT_WEIGHTS + problem.weight.tobytes() + problem.bias.tobytes()


def int8_weights(problem: Problem) -> bytes:
    """Return the .bin file of the layer in int8; ncnn's activations are symmetric."""
    q = problem.quantized
    weight = q.weight.tobytes()
    weight += b"\0" * (-len(weight) % 4)
    scales = (1 / q.weight_steps).astype(np.float32).tobytes()
    input_scale = struct.pack("<f", LARGEST / float(problem.x.max()))
    return INT8_WEIGHTS + weight + problem.bias.tobytes() + scales + input_scale


def load(param: str, weights: bytes, threads: int) -> ncnn.Net:
    """Load a network; what is not int8 is float32, by Winograd where ncnn has it.

    Raises
    ------
    CannotRunError
        If ncnn refuses it.
    """
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = False
    net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.opt.use_winograd_convolution = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.bin")
        path.write_bytes(weights)
        if net.load_param_mem(param) != 0 or net.load_model(str(path)) != 0:
            raise CannotRunError("ncnn cannot load it")
    return net


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    return Convolution(problem, variant.kind, setting.threads)
