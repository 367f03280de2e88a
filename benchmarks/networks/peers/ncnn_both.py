"""ncnn, in float32 by Winograd and in int8, from files in its format that are written here.

What its own tools do is done here, too: a ReLU is part of its convolution, and in int8 a
convolution gives the next one 8-bit numbers. Activations are symmetric, calibrated on the very
input: their largest value is 127.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import ncnn
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...layers.peers.base import LARGEST, CannotRunError, Setting, Variant
from ...layers.peers.ncnn_both import FLOAT_WEIGHTS, INT8_WEIGHTS, load
from ..graph import Graph, Node
from .base import Problem
from .torch_int8 import fused

LAYERS = {
    "relu": ("ReLU", ""),
    "prelu": ("PReLU", "0={channels}"),
    "shuffle": ("PixelShuffle", "0={factor}"),
    "unshuffle": ("Reorg", "0={factor}"),
    "upsample": ("Interp", "0=1 1={factor}.0 2={factor}.0"),  # nearest
    "concat": ("Concat", "0=0"),
    "add": ("BinaryOp", "0=0"),
}
QUANTIZED, REQUANTIZED = 2, 102  # result in float32, or in int8 for the next convolution


class Network:
    """float32 planes in and out."""

    def __init__(self, problem: Problem, kind: str, threads: int) -> None:
        writer = Writer(problem.graph, problem.x if kind == "int8" else None)
        self.net = load(writer.parameters(), writer.weights, threads)
        self.x = ncnn.Mat(problem.x[0].numpy()).clone()
        self.input, self.result = problem.graph.input, problem.graph.nodes[-1].name

    def run(self) -> None:
        """Compute the network once."""
        extractor = self.net.create_extractor()
        extractor.input(self.input, self.x)
        status, self.y = extractor.extract(self.result)
        if status != 0:
            raise CannotRunError(f"ncnn's extractor fails with status {status}")

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        return np.array(self.y)[None]


class Writer:
    """The .param and .bin files of a network; in int8 if there is an input to calibrate on."""

    def __init__(self, graph: Graph, x: Tensor | None) -> None:
        self.graph = graph
        self.scales = None if x is None else {
            name: LARGEST / float(value.abs().max()) for name, value in graph.values(x).items()
        }  # fmt: skip
        self.lines: list[str] = []
        self.weights = b""
        self.blobs = 0
        self.copies: dict[str, Iterator[str]] = {}
        self._layer("Input", graph.input, ())
        for node in graph.nodes:
            if node.kind == "conv":
                self._conv(node)
            elif node.kind == "constant":
                channels, height, width = node.shape[1:]
                self._layer("MemoryData", node.name, (), f"0={width} 1={height} 2={channels}")
                self.weights += node.tensors[0].numpy().tobytes()
            elif not (node.kind == "relu" and fused(graph, node.inputs[0])):
                kind, options = LAYERS[node.kind]
                channels = node.shape[1]
                options = options.format(factor=node.factor, channels=channels)
                self._layer(kind, node.name, node.inputs, options)
                self.weights += b"".join(each.numpy().tobytes() for each in node.tensors)

    def parameters(self) -> str:
        """Return the .param file."""
        return "\n".join(["7767517", f"{len(self.lines)} {self.blobs}", *self.lines, ""])

    def _conv(self, node: Node) -> None:
        weight, bias = (each.numpy() for each in node.tensors)
        options = f"0={len(weight)} 1=3 4=1 5=1 6={weight.size}"
        name, (source,) = node.name, node.inputs
        if fused(self.graph, name):
            name = self.graph.users(name)[0].name
            options += " 9=1"
        if self.scales is None:
            self.weights += FLOAT_WEIGHTS + weight.tobytes() + bias.tobytes()
        else:
            users = self.graph.users(name)
            requantized = bool(users) and all(user.kind == "conv" for user in users)
            options += f" 8={REQUANTIZED if requantized else QUANTIZED}"
            scales = LARGEST / np.abs(weight).max(axis=(1, 2, 3))
            levels = np.rint(weight * scales[:, None, None, None]).astype(np.int8).tobytes()
            self.weights += INT8_WEIGHTS + levels + b"\0" * (-len(levels) % 4) + bias.tobytes()
            self.weights += scales.astype(np.float32).tobytes()
            self.weights += struct.pack("<f", self.scales[source])
            if requantized:
                self.weights += struct.pack("<f", self.scales[name])
        self._layer("Convolution", name, (source,), options)

    def _layer(self, kind: str, name: str, inputs: Sequence[str], options: str = "") -> None:
        """Write a layer with one result, which is copied if it is taken several times."""
        taken = [next(self.copies[each]) if each in self.copies else each for each in inputs]
        self.lines.append(" ".join([kind, name, str(len(taken)), "1", *taken, name, options]))
        self.blobs += 1
        copies = [f"{name}.{index}" for index in range(len(self.graph.users(name)))]
        if len(copies) > 1:
            self.lines.append(f"Split {name}.split 1 {len(copies)} {name} {' '.join(copies)}")
            self.blobs += len(copies)
            self.copies[name] = iter(copies)


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Network:
    """Make a network ready, see ``Runner``."""
    return Network(problem, variant.kind, setting.threads)
