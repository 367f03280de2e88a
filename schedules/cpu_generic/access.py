"""How a block reads and writes memory: strides of its accesses, found by evaluating the indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import SBlock

_SPATIAL, _REDUCTION = 0, 2

# Where indices are probed for being linear.
_PROBES = 6


@dataclass(frozen=True)
class Access:
    """One read or write of a buffer by a block.

    Attributes
    ----------
    buffer, indices : what is accessed, in the block's variables.
    strides : elements between neighbours along each block variable, in the order of the block's
        variables; None if the index is no linear function of them (then no stride is known).
    origin : the element accessed where all variables are 0.
    exact : whether the strides hold everywhere; they do not in the last vector of an axis that is
        cut into vectors, since it begins earlier.
    """

    buffer: Any
    indices: tuple[Any, ...]
    strides: tuple[int, ...] | None
    origin: int
    exact: bool


@dataclass(frozen=True)
class BlockInfo:
    """A block's iteration space and accesses.

    Attributes
    ----------
    name : the block's name.
    node : the block.
    variables, extents, reductions : one entry a block variable; ``reductions`` says which are
        summed over.
    reads, writes : accesses of buffers.
    """

    name: str
    node: Any
    variables: tuple[Any, ...]
    extents: tuple[int, ...]
    reductions: tuple[bool, ...]
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]

    @property
    def is_reduction(self) -> bool:
        """Whether it sums over an axis."""
        return any(self.reductions)

    @property
    def size(self) -> int:
        """Iterations of the block."""
        return math.prod(self.extents)

    def spatial(self) -> tuple[int, ...]:
        """Return the positions of the variables that are not summed over."""
        return tuple(i for i, reduced in enumerate(self.reductions) if not reduced)

    def reduced(self) -> tuple[int, ...]:
        """Return the positions of the variables that are summed over."""
        return tuple(i for i, reduced in enumerate(self.reductions) if reduced)


class NotAnalysableError(Exception):
    """A block is outside of what the generic schedules understand; the message says why."""


def block_info(block: SBlock) -> BlockInfo:
    """Analyse a block.

    Raises
    ------
    NotAnalysableError
        If a variable is neither spatial nor summed over, an extent is not constant, or the body is
        not made of plain stores.
    """
    extents, reductions = [], []
    for axis in block.iter_vars:
        if int(axis.iter_type) not in (_SPATIAL, _REDUCTION):
            raise NotAnalysableError(f"axis {axis.var.name} is ordered")
        if not isinstance(axis.dom.extent, tirx.IntImm):
            raise NotAnalysableError(f"axis {axis.var.name} has no constant extent")
        extents.append(int(axis.dom.extent))
        reductions.append(int(axis.iter_type) == _REDUCTION)
    variables = tuple(axis.var for axis in block.iter_vars)
    loads: list[Any] = []
    stores: list[Any] = []
    _collect(block.body, loads, stores)
    if not stores:
        raise NotAnalysableError("it stores nothing")

    def access(buffer: Any, node: Any) -> Access:
        strides, origin = _strides(buffer, node.indices, variables, extents)
        exact = strides is not None
        if not exact:
            first = [tvm_ffi.structural_map(i, (tirx.Min, _first)) for i in node.indices]
            strides, origin = _strides(buffer, first, variables, extents)
        return Access(buffer, tuple(node.indices), strides, origin, exact)

    written = {store.buffer for store in stores}
    return BlockInfo(
        name=str(block.name_hint),
        node=block,
        variables=variables,
        extents=tuple(extents),
        reductions=tuple(reductions),
        reads=tuple(access(load.source, load) for load in loads if load.source not in written),
        writes=tuple(access(store.buffer, store) for store in stores),
    )


def axes_in_values(info: BlockInfo) -> set[int]:
    """Return the axes that the value depends on other than through indices: in conditions, say."""
    found: set[int] = set()

    def on_variable(variable: Any) -> None:
        found.update(i for i, v in enumerate(info.variables) if v.same_as(variable))

    def on_load(_: Any) -> tvm_ffi.WalkResult:
        return tvm_ffi.WalkResult.SKIP

    callbacks: list[Any] = [(ir.TensorLoad, on_load), (tirx.Var, on_variable)]

    def on_store(store: Any) -> tvm_ffi.WalkResult:
        tvm_ffi.structural_walk(store.value, callbacks, order="pre")
        return tvm_ffi.WalkResult.SKIP

    tvm_ffi.structural_walk(info.node.body, [(tirx.BufferStore, on_store), *callbacks], order="pre")
    return found


def buffer_shape(buffer: Any) -> tuple[int, ...]:
    """Return a buffer's shape.

    Raises
    ------
    NotAnalysableError
        If it is not constant.
    """
    if not all(isinstance(extent, tirx.IntImm) for extent in buffer.shape):
        raise NotAnalysableError(f"buffer {buffer.name} has no constant shape")
    return tuple(int(extent) for extent in buffer.shape)


def evaluate(expression: Any, values: Mapping[Any, int]) -> float:
    """Evaluate an index expression at a point.

    Raises
    ------
    NotAnalysableError
        If it depends on data, or has an operator that indices do not have.
    """
    if isinstance(expression, tirx.IntImm):
        return int(expression)
    if isinstance(expression, tirx.FloatImm):
        return float(expression.value)
    if isinstance(expression, tirx.Var):
        if expression not in values:
            raise NotAnalysableError(f"index depends on {expression.name}")
        return values[expression]
    if isinstance(expression, tirx.Cast):
        inner = evaluate(expression.value, values)
        return inner if str(expression.ty.dtype).startswith("float") else float(math.trunc(inner))
    if isinstance(expression, ir.Call):
        function = _CALLS.get(str(expression.op.name))
        if function is not None:
            arguments = (evaluate(argument, values) for argument in expression.args)
            return float(function(*arguments))
    function = _BINARY.get(type(expression))
    if function is None:
        raise NotAnalysableError(f"index has {type(expression).__name__}")
    return float(function(evaluate(expression.a, values), evaluate(expression.b, values)))


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Sub: lambda a, b: a - b,
    tirx.Mul: lambda a, b: a * b,
    tirx.Div: lambda a, b: a / b,
    tirx.FloorDiv: lambda a, b: a // b,
    tirx.FloorMod: lambda a, b: a % b,
    tirx.Min: min,
    tirx.Max: max,
    tirx.LT: lambda a, b: a < b,
    tirx.LE: lambda a, b: a <= b,
    tirx.GT: lambda a, b: a > b,
    tirx.GE: lambda a, b: a >= b,
    tirx.EQ: lambda a, b: a == b,
    tirx.NE: lambda a, b: a != b,
}

_CALLS: dict[str, Callable[..., Any]] = {
    "tirx.round": lambda a: float(np.round(a)),
    "tirx.floor": math.floor,
    "tirx.ceil": math.ceil,
}


def _collect(body: Any, loads: list[Any], stores: list[Any]) -> None:
    def on_store(node: Any) -> None:
        stores.append(node)

    def on_load(node: Any) -> None:
        loads.append(node)

    others: list[Any] = []

    tvm_ffi.structural_walk(
        body,
        [
            (tirx.BufferStore, on_store),
            (ir.TensorLoad, on_load),
            (tirx.For, others.append),
            (tirx.While, others.append),
            (tirx.Evaluate, others.append),
            (SBlock, others.append),
        ],
    )
    if others:
        raise NotAnalysableError(f"its body has {type(others[0]).__name__}")


def _strides(
    buffer: Any, indices: Sequence[Any], variables: Sequence[Any], extents: Sequence[int]
) -> tuple[tuple[int, ...] | None, int]:
    shape = buffer_shape(buffer)
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def offset(point: Sequence[int]) -> float:
        values = dict(zip(variables, point, strict=True))
        return sum(
            step * evaluate(index, values) for step, index in zip(steps, indices, strict=True)
        )

    try:
        origin = offset([0] * len(variables))
        strides = [
            offset(_unit(len(variables), axis)) - origin if extents[axis] > 1 else 0
            for axis in range(len(variables))
        ]
        for point in _probes(extents):
            linear = origin + sum(s * p for s, p in zip(strides, point, strict=True))
            if offset(point) != linear:
                return None, 0
    except NotAnalysableError:
        return None, 0
    return tuple(int(stride) for stride in strides), int(origin)


def _first(minimum: Any) -> Any:
    return minimum.a


def _unit(rank: int, axis: int) -> list[int]:
    return [int(i == axis) for i in range(rank)]


def _probes(extents: Sequence[int]) -> Iterator[list[int]]:
    yield [extent - 1 for extent in extents]
    for axis, extent in enumerate(extents):
        yield [extent - 1 if i == axis else 0 for i in range(len(extents))]
    generator = np.random.default_rng(0)
    for _ in range(_PROBES):
        yield [int(generator.integers(extent)) for extent in extents]
