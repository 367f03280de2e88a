"""PyTorch's static int8 through oneDNN, calibrated on the very input.

Tensors between convolutions are 8-bit, with a step and a zero point each, from their least to their
largest value; what is not a convolution, a ReLU or a PReLU is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...accuracy.networks.base import conv2d
from ...layers.peers.base import Setting, Variant
from ...torch_int8 import affine, pack
from ..graph import RUN, Graph, Node
from .base import Problem

IN_8_BITS = ("conv", "relu", "prelu")


class Network:
    """A list of steps, each of which reads and writes tensors by name."""

    def __init__(self, problem: Problem) -> None:
        torch.backends.quantized.engine = "x86"
        self.graph, self.x = problem.graph, problem.x
        values = self.graph.values(self.x)
        self.ranges = {name: affine(value) for name, value in values.items()}
        self.result = self.graph.nodes[-1].name
        self.steps = [
            (node.name, node.inputs, self._step(node))
            for node in self.graph.nodes
        ]  # fmt: skip

    def _step(self, node: Node) -> Callable[..., Tensor]:
        if node.kind == "conv":
            return self._conv(node)
        if node.kind == "relu" and fused(self.graph, node.inputs[0]):
            return lambda x: x
        if node.kind == "prelu":
            slopes = torch.quantize_per_tensor(*node.tensors, *affine(*node.tensors), torch.quint8)
            step, zero = self.ranges[node.name]
            return lambda x: torch.ops.quantized.prelu(x, slopes, step, zero)
        return lambda *inputs: RUN[node.kind](node, *map(dequantized, inputs))

    def _conv(self, node: Node) -> Callable[..., Tensor]:
        weights = pack(conv2d(*node.tensors, padding=1))
        relu = fused(self.graph, node.name)
        name = self.graph.users(node.name)[0].name if relu else node.name
        operator = torch.ops.quantized.conv2d_relu if relu else torch.ops.quantized.conv2d
        (source,), after = node.inputs, self.graph.users(name)
        in_8_bits = all(user.kind in IN_8_BITS for user in after) and after != []

        def run(x: Tensor) -> Tensor:
            if not x.is_quantized:
                x = x.contiguous(memory_format=torch.channels_last)
                x = torch.quantize_per_tensor(x, *self.ranges[source], torch.quint8)
            y: Tensor = operator(x, weights, *self.ranges[name])
            return y if in_8_bits else y.dequantize()

        return run

    def run(self) -> None:
        """Compute the network once."""
        values = {self.graph.input: self.x}
        with torch.inference_mode():
            for name, inputs, step in self.steps:
                values[name] = step(*(values[source] for source in inputs))
        self.y = values[self.result]

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        result: NDArray[np.float32] = self.y.numpy()
        return result


def fused(graph: Graph, name: str) -> bool:
    """Whether a convolution computes the ReLU that alone takes its result."""
    users = graph.users(name)
    made_by = {node.name: node.kind for node in graph.nodes}
    return made_by.get(name) == "conv" and [user.kind for user in users] == ["relu"]


def dequantized(x: Tensor) -> Tensor:
    """Return a tensor in float32."""
    return x.dequantize() if x.is_quantized else x


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Network:
    """Make a network ready, see ``Runner``."""
    torch.set_num_threads(setting.threads)
    return Network(problem)
