"""ONNX Runtime, in float32 and by its own static int8."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...layers.peers.base import Setting, Variant
from ...layers.peers.onnxruntime_int8 import session
from ..onnx_model import INPUT, RESULT, float_model, quantized_model
from .base import Problem


class Network:
    """Input and output bound ahead, so that a run copies nothing."""

    def __init__(self, model: bytes, problem: Problem, threads: int) -> None:
        self.session = session(model, threads)
        of_numpy = onnxruntime.OrtValue.ortvalue_from_numpy
        self.x = of_numpy(problem.x.numpy())
        self.y = of_numpy(np.zeros(problem.reference.shape, np.float32))
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input(INPUT, self.x)
        self.binding.bind_ortvalue_output(RESULT, self.y)

    def run(self) -> None:
        """Compute the network once."""
        self.session.run_with_iobinding(self.binding)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        result: NDArray[np.float32] = self.y.numpy()
        return result


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Network:
    """Make a network ready, see ``Runner``."""
    if variant.kind == "int8":
        model = quantized_model(problem.graph, problem.x.numpy())
    else:
        model = float_model(problem.graph)
    return Network(model, problem, setting.threads)
