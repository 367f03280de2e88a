"""LiteRT's int8 convolution through XNNPACK, from a model that is built here."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from .base import CannotRunError, Problem, Quantized, Setting, Variant

SHIFT = 128  # LiteRT's activations are signed
IDENTIFIER = b"TFL3"
VERSION = 3  # of the file format, and of a convolution with a step a channel


class Convolution:
    """int8 in and out, with a zero point each."""

    def __init__(self, problem: Problem, threads: int) -> None:
        if problem.stride != 1:
            raise CannotRunError("with a stride LiteRT pads right and bottom alone")
        self.quantized = problem.quantized
        model = tflite_model(self.quantized, problem.reference.shape)
        self.interpreter = Interpreter(
            model_content=model,
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType.AUTO,  # XNNPACK where it can
        )
        self.interpreter.allocate_tensors()
        x = (self.quantized.x.astype(np.int16) - SHIFT).astype(np.int8)
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], x)
        self.out = self.interpreter.get_output_details()[0]["index"]

    def run(self) -> None:
        """Compute the layer once."""
        self.interpreter.invoke()

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        y = self.interpreter.get_tensor(self.out).astype(np.int16) + SHIFT
        return self.quantized.dequantize(y.astype(np.uint8))


def tflite_model(q: Quantized, out_shape: tuple[int, ...]) -> bytes:
    """Serialize the layer as a .tflite model of one CONV_2D."""
    zeros = np.zeros(len(q.weight_steps), np.int64)
    weight = q.weight.transpose(0, 2, 3, 1)  # OHWI
    bias_steps = np.float32(q.x_step) * q.weight_steps
    int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
    model = schema.ModelT()
    # Buffer 0 is empty by convention.
    model.buffers = [schema.BufferT(), _buffer(weight), _buffer(q.bias)]
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor("x", q.x.shape, int8, 0, [q.x_step], [-SHIFT]),
        _tensor("weight", weight.shape, int8, 1, q.weight_steps, zeros),
        _tensor("bias", q.bias.shape, int32, 2, bias_steps, zeros),
        _tensor("y", out_shape, int8, 0, [q.y_step], [q.y_zero - SHIFT]),
    ]
    graph.inputs, graph.outputs = [0], [3]

    options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = 1
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = options
    graph.operators = [operator]

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = VERSION
    model.operatorCodes, model.subgraphs, model.version = [code], [graph], VERSION

    builder = flatbuffers.Builder(weight.size + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _buffer(values: NDArray[np.generic]) -> schema.BufferT:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    return buffer


def _tensor(name: str, shape, dtype: int, buffer: int, steps, zeros) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), dtype, buffer
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = [float(step) for step in steps]
    tensor.quantization.zeroPoint = [int(zero) for zero in zeros]
    return tensor


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    return Convolution(problem, setting.threads)
