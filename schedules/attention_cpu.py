"""The schedule of attention that all CPUs share: scores never leave a core's caches.

    for each head and panel of keys, in parallel: keys times their scale, and values, packed
    for each head and some queries, in parallel:
        for each block of keys:
            scores = Q keys
            for each query: the largest score so far; what was summed up, by how much that grew;
                powers of two of scores less that, and their total
            sums += powers V
        result = sums / totals

Budget: the scores of a task and a block of keys lie in L1; packed keys and values of the block come
from L2 once a task. Of a head whose keys and values exceed it they come from memory, so that tasks
have more queries then. Sums of a task lie in L1 or L2.

Two passes over all scores of some queries would need no correction of sums, but scores of 4096 keys
go through L2 four times.

Source: Dao et al., FlashAttention, 2022 (arXiv 2205.14135), algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from ..topi.arithmetic import bfloat16_bits
from ..topi.attention import ANNOTATION, AttentionWorkload
from .attention_products import (
    Operand,
    Products,
    TileProducts,
    VectorProducts,
    broadcast,
    const,
    loop,
    scope,
    store,
    vector,
)
from .cpu_generic.pairwise import part_of
from .instructions import TileInstructions
from .scratch import kept_whole

_LOWEST = -3.4028234663852886e38  # the lowest float32
# Accumulators, and vectors of values' channels that they are of at most, by lanes: a broadcast and
# as many vectors beside them fill 32 registers, or 16.
_ACCUMULATORS = {16: (24, 4), 8: (12, 3), 4: (24, 4)}
_VECTORS = 16  # of a block's scores of a query, at most: more take long to compile, and win nothing
_NEAR_BYTES = 1 << 20  # of keys and values of a head that stay in L2
_UNITS = 4  # of a task's queries, those of the products, where keys and values do not
_LEAST_TASKS = 32
_PADDING = 16  # values behind each row of scores: rows of 2^n bytes would share a set of L1

# 2^r, |r| <= 1/2, relative error 7.5e-8 and 7.5e-5: minimax, highest power first.
_POWERS = {
    "float32": (
        0.0013276472, 0.00967554138, 0.0555071327, 0.240221197, 0.693146967, 1.00000007,
    ),
    "bfloat16": (0.0551716695, 0.242611125, 0.693260986, 0.999928073),
}  # fmt: skip
# What has this added has a whole number in its low bits, rounded to nearest, and 127 on top of it.
_ROUND = 1.5 * 2**23 + 127


@dataclass(frozen=True)
class Blocks:
    """How an attention is divided.

    Attributes
    ----------
    rows : queries of a task.
    keys : of a block, a multiple of the products' width.
    """

    rows: int
    keys: int


def blocks_of(work: AttentionWorkload, products: Products, lanes: int) -> Blocks:
    """Divide an attention."""
    head = work.keys * (work.channels + work.value_channels) * 4 // products.form.per_word
    units = 1 if head <= _NEAR_BYTES else _UNITS

    def tasks() -> int:
        return work.batch * work.heads * math.ceil(work.queries / (units * products.form.rows))

    while units > 1 and tasks() < _LEAST_TASKS:
        units -= 1
    panels = math.ceil(work.keys / products.form.width)
    blocks = math.ceil(panels / (_VECTORS * lanes // products.form.width))
    return Blocks(units * products.form.rows, math.ceil(panels / blocks) * products.form.width)


def schedule_attention(
    function: tirx.PrimFunc, lanes: int, tiles: TileInstructions | None = None
) -> tirx.PrimFunc:
    """Write out the attention that a function defines.

    ``lanes`` are the float32 values of a vector, ``tiles`` the instructions on tile registers that
    products of bfloat16 take.
    """
    found: list[Any] = []

    def visit(block: SBlock) -> None:
        if ANNOTATION in block.annotations:
            found.append(block.annotations)

    tvm_ffi.structural_walk(function.body, (SBlock, visit))
    work = AttentionWorkload.of(found[0])
    products = products_of(work, lanes, tiles)
    return _Attention(function, work, products, blocks_of(work, products, lanes), lanes).written()


def products_of(
    work: AttentionWorkload, lanes: int, tiles: TileInstructions | None = None
) -> Products:
    """How the products of an attention are computed."""
    if work.precision == "float32":
        return VectorProducts(lanes, *_ACCUMULATORS[lanes])
    assert tiles is not None  # or there would be no such attention
    return TileProducts(tiles)


class _Attention:
    def __init__(
        self,
        function: tirx.PrimFunc,
        work: AttentionWorkload,
        products: Products,
        blocks: Blocks,
        lanes: int,
    ) -> None:
        self.function, self.work, self.products = function, work, products
        self.blocks, self.lanes = blocks, lanes
        self.queries, self.given_keys, self.given_values, self.output = function.params
        heads = work.batch * work.heads
        self.panels = math.ceil(work.keys / products.form.width)
        padded = self.panels * products.form.width
        self.channels = products.channels(work.channels)
        self.value_channels = products.value_channels(work.value_channels)
        per = products.form.per_word
        self.keys = tirx.decl_buffer(
            (heads * self.panels, self.channels // per, products.form.width),
            products.form.packed,
            "keys",
        )
        self.values = tirx.decl_buffer(
            (heads * padded // per, self.value_channels), products.form.packed, "values"
        )

    def written(self) -> tirx.PrimFunc:
        """The function with this kernel as its body."""
        heads = self.work.batch * self.work.heads
        tasks = math.ceil(self.work.queries / self.blocks.rows)
        parallel = tirx.ForKind.PARALLEL
        pack = loop("packed", heads * self.panels, self._pack, parallel)
        tasks_of_heads = self.products.task(loop("task", heads * tasks, self._task, parallel))
        body = tirx.SeqStmt([pack, tasks_of_heads])
        root = SBlock([], [], [], "root", body, alloc_buffers=[self.keys, self.values])
        return self.function.with_body(SBlockRealize([], True, root))

    # Packing

    def _pack(self, at: Any) -> Any:
        """Keys and values of a panel."""
        head, panel = tirx.floordiv(at, self.panels), tirx.floormod(at, self.panels)
        per, width = self.products.form.per_word, self.products.form.width
        row = tirx.decl_buffer((self.channels,), "float32", "key")
        first = panel * width
        # Zeros behind the channels there are.
        tail = self.channels - self.work.channels
        zeros = [store(row, _zeros(tail), [const(self.work.channels)], tail)] if tail else []

        def key(lane: Any) -> Any:
            words = []
            for start, lanes in _vectors(self.work.channels, self.lanes):
                value = self._given("keys", head, first + lane, start, lanes)
                scale = broadcast(tirx.const(self.work.key_scale, "float32"), lanes)
                words.append(store(row, value * scale, [const(start)], lanes))

            def word(c: Any) -> Any:
                low, high = (tirx.BufferLoad(row, [c * per + i]) for i in (0, per - 1))
                return tirx.BufferStore(self.keys, self.products.words(low, high), [at, c, lane])

            return tirx.SeqStmt([*words, loop("c", self.channels // per, word)])

        def value(pair: Any) -> Any:
            body = []
            place = tirx.floordiv(at * width, per) + pair
            for start, lanes in _vectors(self.work.value_channels, self.lanes):
                low, high = (
                    self._given("values", head, first + pair * per + i, start, lanes)
                    for i in (0, per - 1)
                )
                packed = self.products.words(low, high)
                body.append(store(self.values, packed, [place, const(start)], lanes))
            end = self.work.value_channels
            if rest := self.value_channels - end:
                zero = broadcast(tirx.const(0, self.products.form.packed), rest)
                body.append(store(self.values, zero, [place, const(end)], rest))
            return tirx.stmt_seq(*body)

        statements = [*zeros, loop("lane", width, key), loop("pair", width // per, value)]
        return scope("pack", statements, [row])

    def _given(self, tensor: str, head: Any, at: Any, channel: int, lanes: int) -> Any:
        """Channels of a query, key or value; zero of one beyond the last."""
        work = self.work
        buffer, extent = {
            "queries": (self.queries, work.queries),
            "keys": (self.given_keys, work.keys),
            "values": (self.given_values, work.keys),
        }[tensor]
        load = vector(buffer, self._place(tensor, head, tirx.min(at, extent - 1), channel), lanes)
        if tensor == "queries" or extent % self.products.form.width == 0:
            return load
        # A product with zero would keep a NaN.
        return tirx.Select(broadcast(at < extent, lanes), load, _zeros(lanes))

    def _place(self, tensor: str, head: Any, at: Any, channel: int) -> list[Any]:
        z, h = tirx.floordiv(head, self.work.heads), tirx.floormod(head, self.work.heads)
        return list(self.work.place(tensor, z, h, at, const(channel)))

    # A task

    def _task(self, task: Any) -> Any:
        work, rows, lanes = self.work, self.blocks.rows, self.lanes
        tasks = math.ceil(work.queries / rows)
        head, first = tirx.floordiv(task, tasks), tirx.floormod(task, tasks) * rows
        width, stored = self.products.form.width, self.products.form.stored

        def own(name: str, columns: int, dtype: str = "float32") -> Any:
            return tirx.decl_buffer((rows, columns), dtype, name)

        queries = own("own_queries", self.channels, stored)
        # One more vector, and as wide in bytes: no two rows begin in the same set of L1.
        scores = own("scores", self.blocks.keys + _PADDING)
        is_same = stored == "float32"
        powers = scores if is_same else own("powers", self.blocks.keys + 2 * _PADDING, stored)
        sums = own("sums", self.value_channels)
        most = tirx.decl_buffer((rows,), "float32", "most")
        totals = own("totals", lanes)

        def block(start: Any, panels: int) -> list[Any]:
            """A block of keys from a panel on."""
            count = panels * width
            panel = head * self.panels + start
            body = [self.products.scores(Operand(queries, rows), self.keys, panel, panels, scores)]
            return [
                *body,
                loop(
                    "row", rows,
                    lambda row: self._powers(row, scores, powers, sums, most, totals, count),
                ),
                self.products.sums(
                    Operand(powers, rows), self.values, panel * width, count, sums
                ),
            ]  # fmt: skip

        each = self.blocks.keys // width  # panels of a block
        outside = self.panels * width - work.keys
        whole, rest = divmod(self.panels, each)
        if outside and not rest:
            whole, rest = whole - 1, each
        statements: list[Any] = [
            loop(
                "row", rows,
                lambda row: self._begin(row, head, first, queries, sums, most, totals),
            )
        ]  # fmt: skip
        if whole:
            statements.append(loop("block", whole, lambda at: tirx.SeqStmt(block(at * each, each))))
        if rest:
            scored, *others = block(const(whole * each), rest)
            statements.append(scored)
            if outside:
                lowest = broadcast(tirx.const(_LOWEST, "float32"), outside)
                place = const(rest * width - outside)
                statements.append(
                    loop("row", rows, lambda row: store(scores, lowest, [row, place], outside))
                )
            statements += others
        statements.append(loop("row", rows, lambda row: self._end(row, head, first, sums, totals)))
        buffers = [queries, scores, sums, most, totals, *([] if is_same else [powers])]
        touches = [touch for buffer in buffers for touch in kept_whole(buffer)]
        return scope("task", [*touches, *statements], buffers)

    def _begin(
        self, row: Any, head: Any, first: Any, queries: Any, sums: Any, most: Any, totals: Any
    ) -> Any:
        """A query as products take it, and nothing summed up yet."""
        body = []
        for start, lanes in _vectors(self.work.channels, self.lanes):
            value = self._given("queries", head, first + row, start, lanes)
            if self.products.form.stored != "float32":
                value = bfloat16_bits(value)
            body.append(store(queries, value, [row, const(start)], lanes))
        if rest := self.channels - self.work.channels:
            zero = broadcast(tirx.const(0, self.products.form.stored), rest)
            body.append(store(queries, zero, [row, const(self.work.channels)], rest))
        for start, lanes in _vectors(self.value_channels, self.lanes):
            body.append(store(sums, _zeros(lanes), [row, const(start)], lanes))
        body.append(store(totals, _zeros(self.lanes), [row, const(0)], self.lanes))
        body.append(tirx.BufferStore(most, tirx.const(_LOWEST, "float32"), [row]))
        return tirx.SeqStmt(body)

    def _powers(
        self, row: Any, scores: Any, powers: Any, sums: Any, most: Any, totals: Any, count: int
    ) -> Any:
        """A query's powers of a block, and what was summed up before corrected."""
        lanes = self.lanes
        places = [[row, const(start)] for start, _ in _vectors(count, lanes)]
        body = Statements()
        largest = [vector(scores, place, lanes) for place in places]
        before = body.bind("before", tirx.BufferLoad(most, [row]))
        of_block = body.folded(body.joined(largest, tirx.Max), tirx.Max)
        now = body.bind("now", tirx.max(before, of_block))
        body.append(tirx.BufferStore(most, now, [row]))
        factor = self._power(body, broadcast(before - now, lanes))
        added = []
        for place in places:
            score = vector(scores, place, lanes)
            power = self._power(body, score - broadcast(now, lanes))
            body.append(store(powers, self.products.stored_value(power), place, lanes))
            added.append(power)
        first = [row, const(0)]
        total = vector(totals, first, lanes) * factor + body.joined(added, tirx.Add)
        body.append(store(totals, total, first, lanes))
        for start, _ in _vectors(self.value_channels, lanes):
            place = [row, const(start)]
            body.append(store(sums, vector(sums, place, lanes) * factor, place, lanes))
        return tirx.SeqStmt(body)

    def _power(self, body: Statements, x: Any) -> Any:
        """2^x of x <= 0, 0 where that is below the normal numbers, NaN of NaN."""
        lanes = self.lanes

        def number(value: float) -> Any:
            return broadcast(tirx.const(value, "float32"), lanes)

        x = body.bind("x", x)
        # An ordered comparison, so that a NaN stays one.
        limited = body.bind("limited", tirx.Select(x < number(-127.0), number(-127.0), x))
        # TVM would take what is added here to cancel what is subtracted from a sum.
        shifted = body.bind("shifted", tirx.op.fma(limited, number(1.0), number(_ROUND)))
        r = body.bind("r", limited - (shifted - number(_ROUND)))
        coefficients = _POWERS[self.work.precision]
        value = number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = tirx.op.fma(value, r, number(coefficient))
        shift = broadcast(tirx.const(23, "int32"), lanes)
        bits = tirx.shift_left(tirx.reinterpret(f"int32x{lanes}", shifted), shift)
        return body.bind("power", value * tirx.reinterpret(f"float32x{lanes}", bits))

    def _end(self, row: Any, head: Any, first: Any, sums: Any, totals: Any) -> Any:
        """A query's result."""
        lanes, body = self.lanes, Statements()
        total = body.folded(vector(totals, [row, const(0)], lanes), tirx.Add)
        inverse = body.bind("inverse", tirx.const(1.0, "float32") / total)
        for start, each in _vectors(self.work.value_channels, lanes):
            value = vector(sums, [row, const(start)], each) * broadcast(inverse, each)
            place = self._place("output", head, first + row, start)
            body.append(store(self.output, value, place, each))
        statement = tirx.SeqStmt(body)
        if self.work.queries % self.blocks.rows == 0:
            return statement
        return tirx.IfThenElse(first + row < self.work.queries, statement, None)


class Statements(list[Any]):
    """Statements in their order, values bound to variables among them."""

    def bind(self, name: str, value: Any) -> Any:
        """A variable that has the value."""
        variable = tirx.Var(name, value.ty.dtype)
        self.append(tirx.Bind(variable, value))
        return variable

    def joined(self, values: list[Any], operator: Any) -> Any:
        """Values joined in pairs: one after the other, each would wait for the one before."""
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=False)
            joined = [self.bind("joined", operator(a, b)) for a, b in pairs]
            values = joined + ([values[-1]] if len(values) % 2 else [])
        return values[0]

    def folded(self, values: Any, operator: Any) -> Any:
        """The lanes of a vector joined to one value."""
        lanes = int(str(values.ty.dtype).partition("x")[2] or 1)
        while lanes > 1:
            lanes //= 2
            whole = self.bind("lanes", values)
            values = operator(*(part_of(whole, start, lanes) for start in (0, lanes)))
        return self.bind("folded", values)


def _vectors(count: int, lanes: int) -> list[tuple[int, int]]:
    """Where vectors begin, and the lanes of each: the last may have fewer."""
    return [(start, min(lanes, count - start)) for start in range(0, count, lanes)]


def _zeros(lanes: int) -> Any:
    return broadcast(tirx.const(0.0, "float32"), lanes)
