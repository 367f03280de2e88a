"""The integer product of a register block, written out: groups overlap, the steps' work with them.

A group ends for all accumulators at once, and what follows (convert, scale, add) would wait for the
last dot products while the next group waits for the registers. Here an accumulator is scaled right
before the next group's first dot product overwrites it, so that both kinds of work alternate:

    accumulators = correction of group 0 + first step of group 0
    for each group:
        the group's other steps
        for each accumulator: sum += accumulator * steps; accumulator = next group's first step
    M = sums

The last group begins itself anew, in vain: code of its own for it would cost more.

U is read once for a block of tiles, from far away: each register block fetches its share of the
next tap's U.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from .cpu_generic.rewrite import substitute
from .instructions import Instructions
from .prefetch import NEAREST, fetch, loop_variables, realized

MARK = "wq.product"  # on the loop over groups
BLOCKS = "wq.product_blocks"  # on the loops over register blocks of one tap and panel
UNROLLED_STEPS = 16  # that may be straight code


def write_products(
    function: tirx.PrimFunc,
    rows: tuple[int, int],
    vectors: int,
    lanes: int,
    reduce: int,
    instructions: Instructions,
    fetch_weights: int = NEAREST,
    unroll_steps: bool = True,
) -> tirx.PrimFunc:
    """Replace each loop over groups that is marked, with the blocks in it, by the kernel.

    ``fetch_weights`` is the level of the cache into which the next tap's U is fetched, or 0;
    ``unroll_steps`` whether up to ``UNROLLED_STEPS`` of a group are straight code.
    """

    def kernel(loop: tirx.For, blocks: list[Any]) -> Any:
        product = VectorProduct(loop, blocks, rows, vectors, lanes, reduce, instructions.dot)
        return product.statement(fetch_weights, unroll_steps)

    return write_marked(function, kernel)


def write_marked(
    function: tirx.PrimFunc, kernel: Callable[[tirx.For, list[Any]], Any]
) -> tirx.PrimFunc:
    """Replace each marked loop by a kernel of it and of the loops over register blocks."""
    blocks: list[Any] = []

    def visit(loop: tirx.For) -> None:
        if BLOCKS in loop.annotations:
            blocks.append(loop)

    tvm_ffi.structural_walk(function.body, (tirx.For, visit))

    def replace(loop: tirx.For) -> Any:
        if MARK not in loop.annotations:
            return loop
        return kernel(loop, blocks)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.For, replace)))


@dataclass(frozen=True)
class _Accumulator:
    """Integers of the group and floats of all groups: a tile row and column, a vector."""

    row: int
    column: int
    vector: int
    count: Any
    total: Any


class Product:
    """The tensors of a marked loop, and where its register block lies in them."""

    def __init__(
        self, loop: tirx.For, blocks: list[Any], vectors: int, lanes: int, reduce: int
    ) -> None:
        self.lanes, self.reduce = lanes, reduce
        self.groups = int(loop.extent)
        realize = {block.block.name_hint: block for block in realized(loop)}
        inner = {variable: tirx.const(0, "int64") for variable in loop_variables(loop)}
        # Where the block begins: its loops at zero. The last axis is the group.
        *self.at, _ = (substitute(value, inner) for value in realize["M"].iter_values)
        m, products = realize["M"].block, realize["products"].block
        self.m = m.writes[0].source
        # Stages keep their names; parameters lose theirs when a network's functions are fused.
        counts, self.correction = products.writes[0].source, products.init.value.source
        self.v, self.u = _named("V", products.reads, besides=(counts, self.correction))
        self.v_step, self.u_step = _named("V_step", m.reads, besides=(counts, self.m))
        self.steps = int(self.v.ty.shape[-1]) // reduce
        self.reads, self.writes = [*m.reads, *products.reads], m.writes
        self.vectors = vectors
        self.blocks = math.prod(int(outer.extent) for outer in blocks)
        self.block = tirx.const(0, "int64")
        for outer in sorted(blocks, key=lambda outer: _depth(outer), reverse=True):
            self.block = self.block * outer.extent + outer.loop_var

    def _fetch(self, group: Any, level: int) -> list[Any]:
        """Fetch this register block's share of a group of the next tap's U, and its steps."""
        e, v, *_, k = self.at
        rows, columns = (int(count) for count in self.u.ty.shape[1:3])
        zero = tirx.const(0, "int64")
        tap = e * columns + v + 1
        width = self.vectors * self.lanes
        k = tirx.truncmod(k + tirx.truncdiv(tap, rows * columns) * width, self.u_step.ty.shape[-1])
        tap = tirx.truncmod(tap, rows * columns)
        e, v = tirx.truncdiv(tap, columns), tirx.truncmod(tap, columns)
        lines = math.ceil(self.steps / self.blocks)
        fetched = []
        for vector in range(self.vectors):
            panel = tirx.truncdiv(k, self.lanes) + vector
            for line in range(lines):
                step = tirx.min(self.block * lines + line, self.steps - 1)
                fetched.append(tirx.BufferLoad(self.u, [panel, e, v, group, step, zero, zero]))
            lane = k + vector * self.lanes
            fetched += [
                tirx.BufferLoad(buffer, [e, v, group, lane])
                for buffer in (self.u_step, self.correction)
            ]
        return [fetch(load, level) for load in fetched]

    def _lanes(self) -> Any:
        return tirx.Ramp(tirx.const(0, "int64"), tirx.const(1, "int64"), self.lanes)

    def _zero(self) -> Any:
        return tirx.Broadcast(tirx.const(0.0, "float32"), self.lanes)


class VectorProduct(Product):
    """Accumulators in vector registers, with what becomes of them beside."""

    def __init__(
        self,
        loop: tirx.For,
        blocks: list[Any],
        rows: tuple[int, int],
        vectors: int,
        lanes: int,
        reduce: int,
        dot: Callable[[Any, Any, Any], Any],
    ) -> None:
        super().__init__(loop, blocks, vectors, lanes, reduce)
        self.dot = dot
        self.accumulators = [
            _Accumulator(
                row, column, vector,
                tirx.decl_buffer((lanes,), "int32", f"count_{row}_{column}_{vector}"),
                tirx.decl_buffer((lanes,), "float32", f"total_{row}_{column}_{vector}"),
            )
            for row in range(rows[0]) for column in range(rows[1]) for vector in range(vectors)
        ]  # fmt: skip

    def statement(self, fetch_weights: int, unroll_steps: bool) -> Any:
        """The kernel, in place of the loop."""
        zero = tirx.const(0, "int64")
        group = tirx.Var("g", "int64")
        body = [self._set(a.total, self._zero()) for a in self.accumulators]
        body += self._step(zero, zero, first=True)
        inner = [
            *(self._fetch(group, fetch_weights) if fetch_weights else ()),
            *self._other_steps(group, unroll_steps),
            *self._scale(group, following=tirx.min(group + 1, self.groups - 1)),
        ]
        groups = tirx.const(self.groups, "int64")
        body.append(tirx.For(group, zero, groups, tirx.ForKind.SERIAL, tirx.SeqStmt(inner)))
        for a in self.accumulators:
            body.append(tirx.BufferStore(self.m, self._get(a.total), self._m_index(a)))
        allocated = [buffer for a in self.accumulators for buffer in (a.count, a.total)]
        block = SBlock(
            [], self.reads, self.writes, "M", tirx.SeqStmt(body), alloc_buffers=allocated
        )
        return SBlockRealize([], True, block)

    def _other_steps(self, group: Any, unroll: bool) -> list[Any]:
        if self.steps == 1:
            return []
        if unroll and self.steps <= UNROLLED_STEPS:
            return [
                statement
                for step in range(1, self.steps)
                for statement in self._step(group, tirx.const(step, "int64"))
            ]
        step = tirx.Var("step", "int64")
        one, count = tirx.const(1, "int64"), tirx.const(self.steps - 1, "int64")
        body = tirx.SeqStmt(self._step(group, step + 1))
        return [tirx.For(step, one - one, count, tirx.ForKind.SERIAL, body)]

    def _step(self, group: Any, step: Any, first: bool = False) -> list[Any]:
        """Dot products of all accumulators with one step's channels."""
        body: list[Any] = []
        weights: dict[int, Any] = {}
        activations: dict[tuple[int, int], Any] = {}
        for a in self.accumulators:
            body += self._operands(a, group, step, weights, activations)
            start = self._correction(a, group) if first else self._get(a.count)
            value = self.dot(start, activations[a.row, a.column], weights[a.vector])
            body.append(self._set(a.count, value))
        return body

    def _scale(self, group: Any, following: Any) -> list[Any]:
        """Add the groups' products to the sums, and begin the following group."""
        body: list[Any] = []
        weights: dict[int, Any] = {}
        activations: dict[tuple[int, int], Any] = {}
        e, v, z, y, x, k = self.at
        first = tirx.const(0, "int64")
        for a in self.accumulators:
            step = tirx.BufferLoad(self.v_step, [z, y + a.row, x + a.column, group, e, v])
            lanes = tirx.Ramp(k + a.vector * self.lanes, tirx.const(1, "int64"), self.lanes)
            u_step = tirx.BufferLoad(self.u_step, [e, v, group, lanes])
            factor = tirx.Broadcast(step, self.lanes) * u_step
            count = self._get(a.count).astype(f"float32x{self.lanes}")
            body.append(self._set(a.total, tirx.op.fma(count, factor, self._get(a.total))))
            body += self._operands(a, following, first, weights, activations)
            start = self._correction(a, following)
            value = self.dot(start, activations[a.row, a.column], weights[a.vector])
            body.append(self._set(a.count, value))
        return body

    def _operands(
        self,
        a: _Accumulator,
        group: Any,
        step: Any,
        weights: dict[int, Any],
        activations: dict[tuple[int, int], Any],
    ) -> list[Any]:
        """Load what is not loaded yet: a vector of U, a broadcast of V."""
        e, v, z, y, x, k = self.at
        body: list[Any] = []
        one = tirx.const(1, "int64")
        if a.vector not in weights:
            zero = tirx.const(0, "int64")
            panel = tirx.floordiv(k, self.lanes) + a.vector
            ramp = tirx.Ramp(zero, one, self.lanes * self.reduce)
            value = tirx.BufferLoad(self.u, [panel, e, v, group, step, zero, ramp])
            body.append(self._bind(weights, a.vector, f"u_{a.vector}", value))
        if (a.row, a.column) not in activations:
            ramp = tirx.Ramp(step * self.reduce, one, self.reduce)
            value = tirx.BufferLoad(self.v, [e, v, z, y + a.row, x + a.column, group, ramp])
            value = tirx.Broadcast(tirx.reinterpret("int32", value), self.lanes)
            body.append(self._bind(activations, (a.row, a.column), "v", value))
        return body

    def _bind(self, bound: dict[Any, Any], key: Any, name: str, value: Any) -> Any:
        bound[key] = tirx.Var(name, value.ty.dtype)
        return tirx.Bind(bound[key], value)

    def _correction(self, a: _Accumulator, group: Any) -> Any:
        e, v, *_, k = self.at
        lanes = tirx.Ramp(k + a.vector * self.lanes, tirx.const(1, "int64"), self.lanes)
        return tirx.BufferLoad(self.correction, [e, v, group, lanes])

    def _m_index(self, a: _Accumulator) -> list[Any]:
        e, v, z, y, x, k = self.at
        lanes = tirx.Ramp(k + a.vector * self.lanes, tirx.const(1, "int64"), self.lanes)
        return [e, v, z, y + a.row, x + a.column, lanes]

    def _get(self, buffer: Any) -> Any:
        return tirx.BufferLoad(buffer, [self._lanes()])

    def _set(self, buffer: Any, value: Any) -> Any:
        return tirx.BufferStore(buffer, value, [self._lanes()])


def _named(name: str, reads: Any, besides: tuple[Any, ...]) -> tuple[Any, Any]:
    """The tensor of this name among what a block reads, and the only other one."""
    sources = [
        read.source for read in reads if not any(read.source.same_as(other) for other in besides)
    ]
    (named,) = (source for source in sources if source.name == name)
    (other,) = (source for source in sources if not source.same_as(named))
    return named, other


def _depth(loop: Any) -> int:
    """Number of loops in a loop."""
    return len(loop_variables(loop))
