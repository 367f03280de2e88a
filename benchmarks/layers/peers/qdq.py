"""The layer as a quantized ONNX model, for the runtimes that read one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .base import Problem, Quantized

OPSET = 13
IR_VERSION = 8


def qdq_model(problem: Problem) -> bytes:
    """Serialize a model of x to y, both uint8 (batch, height, width, channel).

    ONNX convolutions are NCHW. The transpositions stand between (de)quantization and convolution,
    where both runtimes drop them: they compute in NHWC.
    """
    q = problem.quantized
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_step", "x_zero"], ["x_float"]),
        helper.make_node("Transpose", ["x_float"], ["x_planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_steps", "weight_zeros"], ["w"], axis=0
        ),
        helper.make_node("DequantizeLinear", ["bias", "bias_steps", "bias_zeros"], ["b"], axis=0),
        helper.make_node("Conv", ["x_planes", "w", "b"], ["y_planes"], **geometry(problem)),
        helper.make_node("Transpose", ["y_planes"], ["y_float"], perm=[0, 2, 3, 1]),
        helper.make_node("QuantizeLinear", ["y_float", "y_step", "y_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, q.x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, problem.reference.shape)],
        [numpy_helper.from_array(value, name) for name, value in _constants(q).items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    serialized: bytes = model.SerializeToString()
    return serialized


def geometry(problem: Problem) -> dict[str, list[int]]:
    """Return the attributes of ONNX's convolution."""
    return {
        "kernel_shape": [problem.kernel] * 2,
        "pads": [problem.padding] * 4,
        "strides": [problem.stride] * 2,
    }


def _constants(q: Quantized) -> dict[str, NDArray[np.generic]]:
    channels = len(q.weight_steps)
    return {
        "x_step": np.array(q.x_step, np.float32),
        "x_zero": np.array(0, np.uint8),
        "weight": q.weight,
        "weight_steps": q.weight_steps,
        "weight_zeros": np.zeros(channels, np.int8),
        "bias": q.bias,
        "bias_steps": np.float32(q.x_step) * q.weight_steps,
        "bias_zeros": np.zeros(channels, np.int32),
        "y_step": np.array(q.y_step, np.float32),
        "y_zero": np.array(q.y_zero, np.uint8),
    }
