"""Read an ONNX network into PyTorch, for the operators that the laboratory's networks have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wqtvm.errors import ArtefactCorruptError

from .base import MissingPackageError, conv2d
from .graph import GraphNetwork, Step

Attributes = Mapping[str, Any]


def read(path: Path, example: Sequence[Tensor] = ()) -> GraphNetwork:
    """Return the network; a convolution has the name of its weight, else of its node.

    Parameters
    ----------
    example : inputs; their shapes become those of the network, so that what it computes of shapes
        is constant. Without them a shape is computed when it runs.

    Raises
    ------
    MissingPackageError
        If the onnx package is not installed.
    ArtefactCorruptError
        If a node is of a kind that is not known.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingPackageError("onnx is not installed; run: pip install onnx") from error
    graph = onnx.load(str(path)).graph
    constants = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    steps: list[Step] = []
    shape_nodes = set()
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs, outputs = tuple(node.input), tuple(node.output)
        name = node.name or node.output[0]
        if node.op_type == "Conv":
            weight = constants[inputs[1]]
            bias = constants[inputs[2]] if len(inputs) > 2 else None
            edges = set(attributes.get("pads", [0]))
            if attributes.get("group", 1) != 1 or len(edges) > 1 or weight.ndim != 4:
                run = _general_convolution(attributes)
            else:
                stride = attributes.get("strides", [1])[0]
                run, inputs = conv2d(weight, bias, stride, edges.pop()), inputs[:1]
                if inputs and node.input[1].endswith(".weight"):
                    name = node.input[1].removesuffix(".weight")
        elif node.op_type in _OPERATORS:
            if node.op_type == "Shape":
                shape_nodes.add(name)
            run = _OPERATORS[node.op_type](attributes)
        else:
            raise ArtefactCorruptError(
                f"{path.name}: node {name} is a {node.op_type}; known are "
                f"{', '.join(sorted(_OPERATORS))} and Conv"
            )
        steps.append(Step(name, run, inputs, outputs))
    outputs = [value.name for value in graph.output]
    inputs = [value.name for value in graph.input if value.name not in constants]
    if example:
        shapes = tuple(out for step in steps if step.name in shape_nodes for out in step.outputs)
        if shapes:
            with torch.no_grad():
                found = GraphNetwork(steps, inputs, shapes, constants)(*example)
            found = (found,) if len(shapes) == 1 else found
            constants.update(zip(shapes, found, strict=True))
            steps = [step for step in steps if step.name not in shape_nodes]
    return GraphNetwork(_folded(steps, constants), inputs, outputs, constants).eval()


def _folded(steps: Sequence[Step], constants: dict[str, Tensor]) -> list[Step]:
    """The steps without those of constants alone, whose results are added to the constants."""
    rest = []
    for step in steps:
        if isinstance(step.run, nn.Module) or not all(
            name in constants or not name for name in step.inputs
        ):
            rest.append(step)
            continue
        results = step.run(*(constants.get(name) for name in step.inputs))
        results = (results,) if len(step.outputs) == 1 else results
        constants.update(zip(step.outputs, results, strict=True))
    return rest


def _general_convolution(attributes: Attributes) -> Callable[..., Tensor]:
    pads = attributes.get("pads", [0])
    return lambda x, weight, bias=None: torch.convolution(
        x, weight, bias, attributes.get("strides", [1]), pads[: len(pads) // 2 or 1],
        attributes.get("dilations", [1]), False, [0], attributes.get("group", 1),
    )  # fmt: skip


def _gemm(attributes: Attributes) -> Callable[..., Tensor]:
    if (
        attributes.get("transA")
        or attributes.get("alpha", 1) != 1
        or attributes.get("beta", 1) != 1
    ):
        raise ArtefactCorruptError(f"Gemm with {dict(attributes)}: only x @ w + b can be read")
    turned = attributes.get("transB", 0)
    return lambda x, w, b=None: functional.linear(x, w if turned else w.T, b)


def _reshape(attributes: Attributes) -> Callable[..., Tensor]:
    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(shape.tolist())]
        return x.reshape(sizes)

    return run


def _slice(attributes: Attributes) -> Callable[..., Tensor]:
    def run(
        x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, *_: Tensor
    ) -> Tensor:
        named = axes.tolist() if axes is not None else range(len(starts))
        index = [slice(None)] * x.ndim
        for axis, start, end in zip(named, starts.tolist(), ends.tolist(), strict=True):
            index[axis] = slice(start, end)
        return x[tuple(index)]

    return run


def _split(attributes: Attributes) -> Callable[..., Any]:
    axis = attributes.get("axis", 0)

    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        if sizes is not None:
            return torch.split(x, sizes.tolist(), axis)
        return torch.chunk(x, attributes["num_outputs"], axis)

    return run


def _resize(attributes: Attributes) -> Callable[..., Tensor]:
    if attributes.get("mode") != b"nearest":
        raise ArtefactCorruptError(f"Resize of mode {attributes.get('mode')}: only nearest")

    def run(x: Tensor, roi: Tensor | None, scales: Tensor, sizes: Tensor | None = None) -> Tensor:
        return functional.interpolate(x, scale_factor=scales.tolist()[2:], mode="nearest")

    return run


def _instance_norm(attributes: Attributes) -> Callable[..., Tensor]:
    epsilon = attributes.get("epsilon", 1e-5)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _pool(function: Callable[..., Tensor]) -> Callable[[Attributes], Callable[..., Tensor]]:
    return lambda a: lambda x: function(x, a["kernel_shape"], a["strides"])


def _einsum(attributes: Attributes) -> Callable[..., Tensor]:
    equation = attributes["equation"].decode()
    return lambda *operands: torch.einsum(equation, *operands)


def _unsqueeze(attributes: Attributes) -> Callable[..., Tensor]:
    def run(x: Tensor, axes: Tensor) -> Tensor:
        for axis in sorted(axes.tolist()):
            x = x.unsqueeze(axis)
        return x

    return run


def _plain(function: Callable[..., Any]) -> Callable[[Attributes], Callable[..., Any]]:
    return lambda attributes: function


_DTYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64}
_OPERATORS: dict[str, Callable[[Attributes], Callable[..., Any]]] = {
    "Add": _plain(torch.add),
    "AveragePool": _pool(functional.avg_pool2d),
    "Cast": lambda a: lambda x: x.to(_DTYPES[a["to"]]),
    "Clip": _plain(torch.clamp),
    "Concat": lambda a: lambda *parts: torch.cat(parts, a["axis"]),
    "Cos": _plain(torch.cos),
    "Div": _plain(torch.div),
    "Einsum": _einsum,
    "Gather": lambda a: (
        lambda x, index: torch.index_select(x, a.get("axis", 0), index.reshape(-1)).reshape(
            index.shape + x.shape[1:] if a.get("axis", 0) == 0 else x.shape
        )
    ),
    "Gemm": _gemm,
    "InstanceNormalization": _instance_norm,
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "MaxPool": _pool(functional.max_pool2d),
    "Mul": _plain(torch.mul),
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "Relu": _plain(functional.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda a: lambda x: torch.tensor(x.shape[a.get("start", 0) : a.get("end")]),
    "Sigmoid": _plain(torch.sigmoid),
    "Sin": _plain(torch.sin),
    "Slice": _slice,
    "Softmax": lambda a: lambda x: torch.softmax(x, a.get("axis", -1)),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": lambda a: (
        lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))
    ),
    "Sub": _plain(torch.sub),
    "Transpose": lambda a: lambda x: x.permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}
