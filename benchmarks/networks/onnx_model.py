"""A network as an ONNX model, in float and by ONNX Runtime's own static quantization."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from .graph import Graph, Node

OPSET = 13
IR_VERSION = 8
INPUT, RESULT = "x", "y"


def float_model(graph: Graph) -> bytes:
    """Serialize a model of ``INPUT`` to ``RESULT``, float32 both."""
    result = graph.nodes[-1]
    names = {graph.input: INPUT, result.name: RESULT}
    model = helper.make_model(
        helper.make_graph(
            [made for node in graph.nodes for made in _nodes(node, names)],
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, graph.shape)],
            [helper.make_tensor_value_info(RESULT, TensorProto.FLOAT, result.shape)],
            [
                numpy_helper.from_array(value, name)
                for node in graph.nodes
                for name, value in _constants(node).items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized


def _nodes(node: Node, names: dict[str, str]) -> list[onnx.NodeProto]:
    """The ONNX nodes of one of ours."""
    result = names.get(node.name, node.name)
    inputs = [names.get(name, name) for name in node.inputs] + list(_constants(node))
    make: dict[str, tuple[str, dict[str, Any]]] = {
        "conv": ("Conv", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        "relu": ("Relu", {}),
        "prelu": ("PRelu", {}),
        "shuffle": ("DepthToSpace", {"blocksize": node.factor, "mode": "CRD"}),
        "upsample": ("Resize", {
            "mode": "nearest", "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }),
        "concat": ("Concat", {"axis": 1}),
        "add": ("Add", {}),
    }  # fmt: skip
    if node.kind == "constant":
        return []
    if node.kind == "unshuffle":  # SpaceToDepth has the channels last
        x, split, whole = inputs
        return [
            helper.make_node("Reshape", [x, split], [f"{result}.split"]),
            helper.make_node(
                "Transpose", [f"{result}.split"], [f"{result}.moved"], perm=[0, 1, 3, 5, 2, 4]
            ),
            helper.make_node("Reshape", [f"{result}.moved", whole], [result]),
        ]
    kind, attributes = make[node.kind]
    if node.kind == "upsample":
        inputs.insert(1, "")  # no region of interest
    return [helper.make_node(kind, inputs, [result], name=node.name, **attributes)]


def _constants(node: Node) -> dict[str, NDArray[np.generic]]:
    """Initializers of a node by name, in the order of its inputs."""
    tensors = [each.numpy() for each in node.tensors]
    if node.kind == "constant":
        return {node.name: tensors[0]}
    if node.kind == "conv":
        return {f"{node.name}.weight": tensors[0], f"{node.name}.bias": tensors[1]}
    if node.kind == "prelu":
        return {f"{node.name}.slopes": tensors[0].reshape(-1, 1, 1)}
    if node.kind == "upsample":
        return {f"{node.name}.scales": np.array([1, 1, node.factor, node.factor], np.float32)}
    if node.kind == "unshuffle":
        batch, channels, height, width = node.shape
        split = (batch, channels // node.factor**2, height, node.factor, width, node.factor)
        return {f"{node.name}.as": np.array(split), f"{node.name}.shape": np.array(node.shape)}
    return {}


class _Calibration(CalibrationDataReader):
    """The one input, once."""

    def __init__(self, x: NDArray[np.float32]) -> None:
        self.left = iter([{INPUT: x}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next input, or None after the last."""
        return next(self.left, None)


def quantized_model(graph: Graph, x: NDArray[np.float32], **options: Any) -> bytes:
    """Quantize statically, calibrated on this input.

    Activations are uint8, from their least to their largest value, weights int8, a step a filter.
    """
    with tempfile.TemporaryDirectory() as name:
        source, result = Path(name, "float.onnx"), Path(name, "int8.onnx")
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(float_model(graph)))
        onnx.save(model, source)
        quantize_static(
            source, result, _Calibration(x), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, **options,
        )  # fmt: skip
        return result.read_bytes()
