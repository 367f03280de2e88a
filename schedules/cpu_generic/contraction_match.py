"""Which blocks are contractions, and what their axes are for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from .access import Access, BlockInfo


@dataclass(frozen=True)
class Contraction:
    """A block that sums products ``data * weights``, and the roles of its axes.

    Attributes
    ----------
    info : the block.
    data, weights : the two operands.
    x : axis of the data that is tiled, None if there is none.
    f : axis of the weights that is vectorised.
    groups : groups of a grouped convolution; f is then divided into so many equal parts.
    """

    info: BlockInfo
    data: Access
    weights: Access
    x: int | None
    f: int
    groups: int

    @property
    def outer(self) -> tuple[int, ...]:
        """Spatial axes that are neither x nor f."""
        return tuple(axis for axis in self.info.spatial() if axis not in (self.x, self.f))

    @property
    def rows(self) -> int:
        """Extent of x."""
        return 1 if self.x is None else self.info.extents[self.x]

    @property
    def columns(self) -> int:
        """Extent of f within a group."""
        return self.info.extents[self.f] // self.groups

    @property
    def summed(self) -> int:
        """Products of one sum."""
        return math.prod(self.info.extents[axis] for axis in self.info.reduced())


def match_contraction(info: BlockInfo) -> Contraction | None:
    """Return a block's roles as a contraction, None if it is not one that can be scheduled."""
    operands = _operands(info)
    if operands is None:
        return None
    best: Contraction | None = None
    for data, weights in (operands, operands[::-1]):
        found = _roles(info, data, weights)
        if found is not None and (best is None or _preference(found) > _preference(best)):
            best = found
    return best


def _operands(info: BlockInfo) -> tuple[Access, Access] | None:
    body = info.node.body
    if not isinstance(body, tirx.BufferStore) or not isinstance(body.value, tirx.Add):
        return None
    product = body.value.b
    if not info.is_reduction or not isinstance(product, tirx.Mul) or len(info.reads) != 2:
        return None
    if not all(isinstance(side, ir.TensorLoad) for side in (body.value.a, product.a, product.b)):
        return None
    if str(product.ty.dtype) != "float32" or info.reads[0].buffer.same_as(info.reads[1].buffer):
        return None
    return info.reads[0], info.reads[1]


def _roles(info: BlockInfo, data: Access, weights: Access) -> Contraction | None:
    """Assign roles; each axis of the weights has to be one of the block's, to be packed.

    It may run backwards, as in a transposed convolution.
    """
    of_index = [axes_of(info, [index]) for index in weights.indices]
    used = [axis for axes in of_index for axis in axes]
    if any(len(axes) > 1 for axes in of_index) or len(used) != len(set(used)):
        return None
    in_data = axes_of(info, data.indices)
    in_weights = axes_of(info, weights.indices)
    spatial = [axis for axis in info.spatial() if info.extents[axis] > 1]
    columns = [axis for axis in spatial if axis in in_weights and axis not in in_data]
    groups = 1
    if not columns:
        for axis in spatial:
            group = _group_size(info, data, axis)
            if axis in in_weights and group is not None and info.extents[axis] % group == 0:
                columns, groups = [axis], info.extents[axis] // group
    rows = [axis for axis in spatial if axis in in_data and axis not in in_weights]
    written = info.writes[0].strides
    if not columns or written is None:
        return None
    f = max(columns, key=lambda axis: (written[axis] == 1, info.extents[axis]))
    if not any(index.same_as(info.variables[f]) for index in weights.indices):
        return None
    x = max(rows, key=lambda axis: (info.extents[axis] >= 4, axis), default=None)
    return Contraction(info, data, weights, x, f, groups)


def _preference(work: Contraction) -> tuple[bool, int]:
    written = work.info.writes[0].strides
    return (written is not None and written[work.f] == 1, work.columns)


def axes_of(info: BlockInfo, indices: Iterable[Any]) -> set[int]:
    """Return the axes that indices depend on."""
    found: set[int] = set()

    def on_variable(variable: Any) -> None:
        found.update(i for i, v in enumerate(info.variables) if v.same_as(variable))

    for index in indices:
        tvm_ffi.structural_walk(index, (tirx.Var, on_variable))
    return found


def _group_size(info: BlockInfo, data: Access, axis: int) -> int | None:
    """Return c if the data depend on the axis as ``axis // c`` alone."""
    sizes: list[int] = []
    uses: list[Any] = []
    variable = info.variables[axis]

    def on_division(division: Any) -> None:
        if isinstance(division.b, tirx.IntImm) and division.a.same_as(variable):
            sizes.append(int(division.b))

    def on_variable(found: Any) -> None:
        if found.same_as(variable):
            uses.append(found)

    for index in data.indices:
        tvm_ffi.structural_walk(index, [(tirx.FloorDiv, on_division), (tirx.Var, on_variable)])
    return sizes[0] if sizes and len(sizes) == len(uses) and len(set(sizes)) == 1 else None
