"""A network as a list of nodes of few kinds, which other formats are written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.nn import functional

from ..layers.peers.base import CannotRunError

CONV = {
    "kernel": (3, 3), "bias": True, "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1],
    "groups": 1,
}  # fmt: skip
DEFAULTS = (None, [1, 1], [0, 0], [1, 1], 1)  # of aten.conv2d: bias, stride and so on


@dataclass(frozen=True)
class Node:
    """One operator, named as its result.

    Attributes
    ----------
    kind : "conv" (3x3, stride 1, padding 1; weight and bias), "relu", "prelu" (slopes, one a
        channel), "shuffle", "unshuffle", "upsample" (nearest; all three by a factor, as PyTorch's),
        "concat" (of channels), "add", or "constant".
    shape : of the result.
    inputs : names of other nodes, or the graph's input.
    tensors : the constants, in the order above.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    inputs: tuple[str, ...]
    tensors: tuple[Tensor, ...] = ()
    factor: int = 1


@dataclass(frozen=True)
class Graph:
    """Nodes in order; the last one is the result.

    Attributes
    ----------
    input, shape : its name and shape.
    """

    input: str
    shape: tuple[int, ...]
    nodes: tuple[Node, ...]

    def users(self, name: str) -> list[Node]:
        """Nodes that take a result."""
        return [node for node in self.nodes if name in node.inputs]

    def values(self, x: Tensor) -> dict[str, Tensor]:
        """Compute in float32 and return all results by name, the input's among them."""
        found = {self.input: x}
        with torch.inference_mode():
            for node in self.nodes:
                found[node.name] = RUN[node.kind](node, *(found[name] for name in node.inputs))
        return found


RUN: dict[str, Callable[..., Tensor]] = {
    "conv": lambda node, x: functional.conv2d(x, *node.tensors, padding=1),
    "relu": lambda node, x: functional.relu(x),
    "prelu": lambda node, x: functional.prelu(x, *node.tensors),
    "shuffle": lambda node, x: functional.pixel_shuffle(x, node.factor),
    "unshuffle": lambda node, x: functional.pixel_unshuffle(x, node.factor),
    "upsample": lambda node, x: functional.interpolate(x, scale_factor=node.factor),
    "concat": lambda node, *parts: torch.cat(parts, 1),
    "add": lambda node, a, b: a + b,
    "constant": lambda node: node.tensors[0],
}


def read(program: ExportedProgram) -> Graph:
    """Read an exported network of one input and one result.

    Raises
    ------
    CannotRunError
        If it has an operator, or a convolution, that no node stands for.
    """
    return _Reader(program).graph()


class _Reader:
    def __init__(self, program: ExportedProgram) -> None:
        signature, state = program.graph_signature, {**program.constants, **program.state_dict}
        owners = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.program = program
        self.constants = {name: state[owner].detach() for name, owner in owners.items()}
        (self.input,) = signature.user_inputs
        self.alias: dict[str, str] = {}
        self.nodes: list[Node] = []

    def graph(self) -> Graph:
        shape = ()
        for node in self.program.graph.nodes:
            if node.name == self.input:
                shape = _shape(node)
            if node.op == "call_function":
                self._call(node)
            if node.op == "output" and [*map(self._name, node.args[0])] != [self.nodes[-1].name]:
                raise CannotRunError(f"its results are {node.args[0]}, not its last operator's")
        return Graph(self.input, shape, tuple(self.nodes))

    def _call(self, node: fx.Node) -> None:
        name, (first, *rest) = str(node.target), node.args
        if name == "aten.conv2d.default":
            self._conv(node)
        elif name == "aten.relu.default":
            self._add("relu", node, [first])
        elif name == "aten.prelu.default":
            self._add("prelu", node, [first], (self.constants[rest[0].name],))
        elif name == "aten.pixel_shuffle.default":
            self._add("shuffle", node, [first], factor=rest[0])
        elif name == "aten.pixel_unshuffle.default":
            self._add("unshuffle", node, [first], factor=rest[0])
        elif name == "aten.upsample_nearest2d.vec" and _one_integer(rest[1]):
            self._add("upsample", node, [first], factor=int(rest[1][0]))
        elif name == "aten.add.Tensor" and not node.kwargs:
            self._add("add", node, [first, *rest])
        elif name == "aten.cat.default" and rest == [1]:
            self._add("concat", node, first)
        elif name == "aten.expand.default" and first.name in self.constants:
            value = self.constants[first.name].expand(rest[0]).contiguous()
            self._add("constant", node, [], (value,))
        elif name == "aten.alias.default" or (name == "aten.pad.default" and not any(rest[0])):
            self.alias[node.name] = self._name(first)
        else:
            raise CannotRunError(f"{name} of {node.args} is not among what can be written")

    def _conv(self, node: fx.Node) -> None:
        x, weight, *given = node.args
        bias, *rest = (*given, *DEFAULTS[len(given) :])
        tensors = [self.constants[each.name] for each in (weight, bias) if each is not None]
        kernel = tuple(tensors[0].shape[2:])
        found = dict(zip(CONV, (kernel, bias is not None, *rest), strict=True))
        if found != CONV:
            raise CannotRunError(f"{node.name} is a convolution of {found}; only {CONV} is written")
        self._add("conv", node, [x], tuple(tensors))

    def _add(
        self,
        kind: str,
        node: fx.Node,
        inputs: Any,
        tensors: tuple[Tensor, ...] = (),
        factor: int = 1,
    ) -> None:
        names = tuple(map(self._name, inputs))
        self.nodes.append(Node(kind, node.name, _shape(node), names, tensors, factor))

    def _name(self, node: fx.Node) -> str:
        return self.alias.get(node.name, node.name)


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _one_integer(scales: Any) -> bool:
    return len(set(scales)) == 1 and float(scales[0]).is_integer()
