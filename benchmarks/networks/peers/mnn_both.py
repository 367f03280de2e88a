"""MNN, in float32 by Winograd and in static int8, by its own tools from ONNX."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from MNN import expr, nn
from numpy.typing import NDArray

from ...layers.peers.base import Setting, Variant
from ...layers.peers.mnn_both import convert, quantized_model
from ..onnx_model import INPUT, RESULT, float_model
from .base import Problem

# Of calibration: from least to largest value, as the other peers have it, and MNN's default, which
# gives Real-ESRGAN compact more of its accuracy, and makes it slower.
METHODS = {"MNN int8": "EMA", "MNN int8 KL": "KL"}


class Network:
    """float32 planes in and out."""

    def __init__(self, problem: Problem, method: str | None, threads: int) -> None:
        x = problem.x.numpy()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = convert(float_model(problem.graph), folder)
            if method is not None:
                model = quantized_model(x, model, folder, method)
            settings = {"backend": "CPU", "numThread": threads}
            self.manager = nn.create_runtime_manager((settings,))
            self.net = nn.load_module_from_file(
                str(model), [INPUT], [RESULT], runtime_manager=self.manager
            )
        self.x = expr.const(x, list(x.shape), expr.NCHW)

    def run(self) -> None:
        """Compute the network once, the result's way back to planes included."""
        self.y = expr.convert(self.net.forward(self.x), expr.NCHW)
        self.y.read()  # it may compute only what is read

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        return np.array(self.y.read()).reshape(self.y.shape)


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Network:
    """Make a network ready, see ``Runner``."""
    return Network(problem, METHODS.get(variant.name), setting.threads)
