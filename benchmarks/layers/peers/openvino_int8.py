"""OpenVINO's int8 convolution on the CPU, from a QDQ model."""

from __future__ import annotations

import numpy as np
import openvino
from numpy.typing import NDArray

from .base import CannotRunError, Problem, Setting, Variant
from .qdq import qdq_model


class Convolution:
    """uint8 in and out."""

    def __init__(self, problem: Problem, setting: Setting) -> None:
        self.quantized = problem.quantized
        compiled = compile_model(qdq_model(problem), setting)
        self.kernel = next(iter(convolution_kernels(compiled)), "no convolution at all")
        if not self.kernel.endswith("I8"):
            raise CannotRunError(f"OpenVINO computes it by {self.kernel}, which is not int8")
        if setting.restriction and "amx" in self.kernel:
            raise CannotRunError(f"OpenVINO uses {self.kernel} although oneDNN is restricted")
        self.request = compiled.create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(self.quantized.x))

    def run(self) -> None:
        """Compute the layer once."""
        self.request.infer()

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        return self.quantized.dequantize(self.request.get_output_tensor().data)


def compile_model(model: bytes, setting: Setting) -> openvino.CompiledModel:
    """Compile an ONNX model for the CPU."""
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
        # What is not int8 shall be float32: its own choice would be bfloat16.
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(core.read_model(model), "CPU", settings)


def convolution_kernels(compiled: openvino.CompiledModel) -> list[str]:
    """Return what OpenVINO calls the kernels that it chose, such as "brgconv_avx512_I8"."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return [
        str(info["primitiveType"].astype(str))
        for info in infos
        if info["layerType"].astype(str) == "Convolution"
    ]


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    return Convolution(problem, setting)
