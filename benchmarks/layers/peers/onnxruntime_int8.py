"""ONNX Runtime's int8 convolution on the CPU, from a QDQ model."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .base import Problem, Setting, Variant
from .qdq import qdq_model

ERRORS_ONLY = 3


class Convolution:
    """uint8 in and out, bound ahead so that a run copies nothing."""

    def __init__(self, problem: Problem, threads: int) -> None:
        self.quantized = problem.quantized
        self.session = session(qdq_model(problem), threads)
        of_numpy = onnxruntime.OrtValue.ortvalue_from_numpy
        self.x = of_numpy(self.quantized.x)
        self.y = of_numpy(np.zeros(problem.reference.shape, np.uint8))
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input("x", self.x)
        self.binding.bind_ortvalue_output("y", self.y)

    def run(self) -> None:
        """Compute the layer once."""
        self.session.run_with_iobinding(self.binding)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        return self.quantized.dequantize(self.y.numpy())


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Make a model ready on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    return Convolution(problem, setting.threads)
