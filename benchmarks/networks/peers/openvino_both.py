"""OpenVINO on the CPU, in float32 and in int8, from ONNX."""

from __future__ import annotations

import numpy as np
import openvino
from numpy.typing import NDArray

from ...layers.peers.base import CannotRunError, Setting, Variant
from ...layers.peers.openvino_int8 import compile_model, convolution_kernels
from ..onnx_model import float_model, quantized_model
from .base import Problem

# A convolution's result stays as it is until the next one takes it, as OpenVINO's own quantizer has
# it: what is between them, PReLU for one, is then part of the convolution's kernel. (ONNX Runtime
# is the slower for it, and has its own default.)
OPTIONS = {
    "op_types_to_quantize": ["Conv"],
    "extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv"]},
}


class Network:
    """A compiled model and its request."""

    def __init__(self, model: bytes, problem: Problem, variant: Variant, setting: Setting) -> None:
        compiled = compile_model(model, setting)
        kernels = convolution_kernels(compiled)
        if variant.kind == "int8" and not any(kernel.endswith("I8") for kernel in kernels):
            raise CannotRunError(f"OpenVINO computes it by {', '.join(sorted(set(kernels)))}")
        if setting.restriction and any("amx" in kernel for kernel in kernels):
            raise CannotRunError("OpenVINO uses AMX although oneDNN is restricted")
        self.request = compiled.create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(problem.x.numpy()))

    def run(self) -> None:
        """Compute the network once."""
        self.request.infer()

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        result: NDArray[np.float32] = self.request.get_output_tensor().data
        return result


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Network:
    """Make a network ready, see ``Runner``."""
    if variant.kind == "int8":
        model = quantized_model(problem.graph, problem.x.numpy(), **OPTIONS)
    else:
        model = float_model(problem.graph)
    return Network(model, problem, variant, setting)
