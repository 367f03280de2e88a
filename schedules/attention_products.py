"""The two products of attention for some queries and a block of keys, written out.

Operands lie packed by panels, in the order of their use, so that both products read one vector, or
a tile register, after the other. A register block of sums stays in registers over all that is
summed up:

    float32   rows of queries by vectors of keys, or of values' channels: 24 accumulators of the 32
              registers of AVX-512 and NEON, 12 of the 16 of AVX2; a broadcast and a multiply-add
              each
    bfloat16  two tile registers of queries by two of keys, or of channels: 16 x 32 by 32 x 16
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from ..quantization.arithmetic import round_up
from ..topi.arithmetic import bfloat16_bits, like
from .instructions import TileInstructions
from .tile_product_kernel import ROW_BYTES, ROWS, accumulators, configured, multiply

_KEY_VECTORS = 2  # of a register block of scores
_EDGE, _CHUNK = 2 * ROWS, ROW_BYTES // 2  # of two tile registers, and bfloat16 of a row of one
PAIR = 2  # channels of bfloat16, or keys, whose products are one sum


def const(value: int) -> Any:
    """An index."""
    return tirx.const(value, "int64")


def loop(name: str, extent: int, body: Callable[[Any], Any], kind: Any = None) -> tirx.For:
    """A loop from 0, serial if of no other kind."""
    variable = tirx.Var(name, "int64")
    serial = tirx.ForKind.SERIAL if kind is None else kind
    return tirx.For(variable, const(0), const(extent), serial, body(variable))


def vector(buffer: Any, place: list[Any], lanes: int) -> Any:
    """Load a vector, or a value of one lane, that begins at a place."""
    return tirx.BufferLoad(buffer, lanes_at(place, lanes))


def store(buffer: Any, value: Any, place: list[Any], lanes: int) -> Any:
    """Store it."""
    return tirx.BufferStore(buffer, value, lanes_at(place, lanes))


def lanes_at(place: list[Any], lanes: int) -> list[Any]:
    """A place with lanes along its last axis."""
    if lanes == 1:
        return place
    return [*place[:-1], tirx.Ramp(place[-1], const(1), lanes)]


def broadcast(value: Any, lanes: int) -> Any:
    """A value in all lanes."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def scope(name: str, statements: list[Any], buffers: list[Any]) -> Any:
    """Statements with buffers of their own."""
    body = tirx.stmt_seq(*statements)
    return SBlockRealize([], True, SBlock([], [], [], name, body, alloc_buffers=buffers))


@dataclass(frozen=True)
class Operand:
    """A task's tensor of which rows are multiplied, and how many of them there are."""

    buffer: Any
    rows: int


@dataclass(frozen=True)
class Form:
    """How operands lie in memory.

    Attributes
    ----------
    rows : queries of a task are a multiple of them.
    width : keys that are packed together, and to a multiple of which they are padded.
    stored : dtype of queries and powers.
    packed : dtype of packed keys and values.
    per_word : channels of a key, or keys of a channel, in one packed number.
    """

    rows: int
    width: int
    stored: str
    packed: str
    per_word: int


class Products(Protocol):
    """How both products are computed."""

    @property
    def form(self) -> Form:
        """Of their operands."""

    def channels(self, count: int) -> int:
        """Channels of queries and keys as they are stored, padded with zeros."""

    def value_channels(self, count: int) -> int:
        """Channels of values and sums as they are stored."""

    def words(self, low: Any, high: Any) -> Any:
        """Packed numbers of float32 values: those of ``per_word`` channels or keys."""

    def stored_value(self, value: Any) -> Any:
        """Float32 values, powers of at most 1, as they are stored for the second product."""

    def scores(self, queries: Operand, keys: Any, panel: Any, panels: int, to: Any) -> Any:
        """Scores of a task's queries and ``panels`` panels of keys, the first of them ``panel``."""

    def sums(self, powers: Operand, values: Any, first: Any, count: int, to: Any) -> Any:
        """Add the products of powers and values of ``count`` keys, a multiple of ``width``."""

    def task(self, tasks: tirx.For) -> tirx.For:
        """The loop over tasks, made ready for products."""


@dataclass(frozen=True)
class VectorProducts:
    """Products of float32, in vector registers.

    Attributes
    ----------
    lanes : of a vector.
    accumulators : vectors of sums that fit the registers beside operands.
    most_vectors : of values' channels that are summed up together.
    """

    lanes: int
    accumulators: int
    most_vectors: int

    @property
    def form(self) -> Form:
        """Keys of a register block; register blocks of 12, 8, 6 and 4 queries divide the rows."""
        return Form(24, _KEY_VECTORS * self.lanes, "float32", "float32", 1)

    def channels(self, count: int) -> int:
        """As many as there are: one at a time is multiplied."""
        return count

    def value_channels(self, count: int) -> int:
        """Whole vectors."""
        return round_up(count, self.lanes)

    def words(self, low: Any, high: Any) -> Any:
        """The values as they are."""
        return low

    def stored_value(self, value: Any) -> Any:
        """As they are."""
        return value

    def task(self, tasks: tirx.For) -> tirx.For:
        """As it is."""
        return tasks

    def scores(self, queries: Operand, keys: Any, panel: Any, panels: int, to: Any) -> Any:
        """As in Products."""
        rows = self._rows(_KEY_VECTORS)
        channels = int(keys.shape[1])

        def block(within: Any, at: Any) -> Any:
            def key(c: Any, part: int) -> Any:
                return vector(keys, [panel + within, c, const(part * self.lanes)], self.lanes)

            def place(row: int, part: int) -> list[Any]:
                return [at * rows + row, within * self.form.width + part * self.lanes]

            return self._block(
                rows, _KEY_VECTORS, channels, key, to, place, adds=False,
                scalar=lambda row, c: tirx.BufferLoad(queries.buffer, [at * rows + row, c]),
            )  # fmt: skip

        return loop(
            "panel", panels,
            lambda within: loop("rows", queries.rows // rows, lambda at: block(within, at)),
        )  # fmt: skip

    def sums(self, powers: Operand, values: Any, first: Any, count: int, to: Any) -> Any:
        """As in Products."""
        vectors = int(values.shape[-1]) // self.lanes
        # In parts that are summed up together, nearly equal ones.
        parts = math.ceil(vectors / self.most_vectors)
        larger, start = vectors % parts, 0
        statements = []
        for number, size in ((larger, vectors // parts + 1), (parts - larger, vectors // parts)):
            if number:

                def part(at: Any, start: int = start, size: int = size) -> Any:
                    return self._sums_of(powers, values, first, count, to, start + at * size, size)

                statements.append(loop("part", number, part))
                start += number * size
        return tirx.stmt_seq(*statements)

    def _sums_of(
        self,
        powers: Operand,
        values: Any,
        first: Any,
        count: int,
        to: Any,
        start: Any,
        vectors: int,
    ) -> Any:
        rows = self._rows(vectors)

        def block(at: Any) -> Any:
            def value(m: Any, part: int) -> Any:
                return vector(values, [first + m, (start + part) * self.lanes], self.lanes)

            def place(row: int, part: int) -> list[Any]:
                return [at * rows + row, (start + part) * self.lanes]

            return self._block(
                rows, vectors, count, value, to, place, adds=True,
                scalar=lambda row, m: tirx.BufferLoad(powers.buffer, [at * rows + row, m]),
            )  # fmt: skip

        return loop("rows", powers.rows // rows, block)

    def _rows(self, vectors: int) -> int:
        return next(n for n in (12, 8, 6, 4, 3, 2, 1) if n * vectors <= self.accumulators)

    def _block(
        self,
        rows: int,
        vectors: int,
        extent: int,
        operand: Callable[[Any, int], Any],
        to: Any,
        place: Callable[[int, int], list[Any]],
        *,
        adds: bool,
        scalar: Callable[[int, Any], Any],
    ) -> Any:
        """A register block: sums of a scalar of each row times vectors."""
        lanes = self.lanes
        each = [(row, part) for row in range(rows) for part in range(vectors)]
        own = {at: tirx.decl_buffer((lanes,), "float32", f"sum_{at[0]}_{at[1]}") for at in each}
        zero = [const(0)]

        def start(row: int, part: int) -> Any:
            if adds:
                return vector(to, place(row, part), lanes)
            return broadcast(tirx.const(0.0, "float32"), lanes)

        def step(k: Any) -> Any:
            body: list[Any] = []
            vectors_of = []
            for part in range(vectors):
                name = tirx.Var(f"vector_{part}", f"float32x{lanes}")
                body.append(tirx.Bind(name, operand(k, part)))
                vectors_of.append(name)
            for row in range(rows):
                name = tirx.Var("scalar", f"float32x{lanes}")
                body.append(tirx.Bind(name, broadcast(scalar(row, k), lanes)))
                for part in range(vectors):
                    total = vector(own[row, part], zero, lanes)
                    value = tirx.op.fma(name, vectors_of[part], total)
                    body.append(store(own[row, part], value, zero, lanes))
            return tirx.SeqStmt(body)

        statements = [store(own[at], start(*at), zero, lanes) for at in each]
        statements.append(loop("k", extent, step))
        statements += [store(to, vector(own[at], zero, lanes), place(*at), lanes) for at in each]
        return scope("products", statements, list(own.values()))


@dataclass(frozen=True)
class TileProducts:
    """Products of bfloat16, in tile registers."""

    instructions: TileInstructions

    @property
    def form(self) -> Form:
        """Of the bits of bfloat16."""
        return Form(_EDGE, _EDGE, "uint16", "uint32", PAIR)

    def channels(self, count: int) -> int:
        """Whole rows of a register."""
        return round_up(count, _CHUNK)

    def value_channels(self, count: int) -> int:
        """Whole registers."""
        return round_up(count, ROWS)

    def words(self, low: Any, high: Any) -> Any:
        """The first in the lower half."""
        dtype = like(low, "uint32")
        lower, upper = (tirx.Cast(dtype, bfloat16_bits(value)) for value in (low, high))
        return lower | upper << tirx.const(16, dtype)

    def stored_value(self, value: Any) -> Any:
        """Rounded to nearest, ties up: powers are neither negative nor too large for that."""
        wide = like(value, "uint32")
        bits = tirx.reinterpret(wide, value) + tirx.const(0x8000, wide)
        return tirx.Cast(like(value, "uint16"), bits >> tirx.const(16, wide))

    def task(self, tasks: tirx.For) -> tirx.For:
        """Configures the registers."""
        configuration = configured(tasks, (ROWS, ROWS), ROW_BYTES, 4, self.instructions)
        assert isinstance(configuration, tirx.For)
        return configuration

    def scores(self, queries: Operand, keys: Any, panel: Any, panels: int, to: Any) -> Any:
        """As in Products."""
        chunks = int(queries.buffer.shape[1]) // _CHUNK
        words = _CHUNK // PAIR
        between = const(4 * _EDGE)  # bytes: a row of words of a panel

        def block(within: Any, at: Any) -> Any:
            used = accumulators(2, 2)

            def step(chunk: Any) -> Any:
                def weights(part: int) -> tuple[Any, Any]:
                    place = [panel + within, chunk * words, const(part * ROWS)]
                    return tirx.BufferLoad(keys, place), between

                return tirx.SeqStmt(
                    multiply(
                        self.instructions, used,
                        lambda part: self._rows_of(queries, at, part, chunk * _CHUNK), weights,
                    )
                )  # fmt: skip

            begin = [self.instructions.zero(register) for register, *_ in used]
            products = loop("chunk", chunks, step)
            return tirx.SeqStmt([*begin, products, *self._stores(used, to, at, within * _EDGE)])

        return loop(
            "panel", panels,
            lambda within: loop("rows", queries.rows // _EDGE, lambda at: block(within, at)),
        )  # fmt: skip

    def sums(self, powers: Operand, values: Any, first: Any, count: int, to: Any) -> Any:
        """As in Products."""
        registers = int(values.shape[-1]) // ROWS
        between = const(4 * int(values.shape[-1]))

        def block(at: Any, start: Any, vectors: int) -> Any:
            used = accumulators(2, vectors)
            column = start * ROWS

            def step(m: Any) -> Any:
                key = m * _CHUNK

                def weights(part: int) -> tuple[Any, Any]:
                    place = [tirx.floordiv(first + key, PAIR), column + part * ROWS]
                    return tirx.BufferLoad(values, place), between

                return tirx.SeqStmt(
                    multiply(
                        self.instructions, used,
                        lambda part: self._rows_of(powers, at, part, key), weights,
                    )
                )  # fmt: skip

            begin = [
                self.instructions.load(register, *self._sum_of(to, at, part, column, vector))
                for register, part, vector in used
            ]
            products = loop("m", count // _CHUNK, step)
            return tirx.SeqStmt([*begin, products, *self._stores(used, to, at, column)])

        def part(start: Any, vectors: int) -> Any:
            return loop("rows", powers.rows // _EDGE, lambda at: block(at, start, vectors))

        pairs, rest = divmod(registers, 2)
        statements = []
        if pairs:
            statements.append(loop("part", pairs, lambda at: part(at * 2, 2)))
        if rest:
            statements.append(part(const(2 * pairs), 1))
        return tirx.stmt_seq(*statements)

    def _rows_of(self, operand: Operand, at: Any, part: int, column: Any) -> tuple[Any, Any]:
        place = [at * _EDGE + part * ROWS, column]
        return tirx.BufferLoad(operand.buffer, place), const(2 * int(operand.buffer.shape[1]))

    def _sum_of(self, to: Any, at: Any, part: int, column: Any, vector: int) -> tuple[Any, Any]:
        place = [at * _EDGE + part * ROWS, column + vector * ROWS]
        return tirx.BufferLoad(to, place), const(4 * int(to.shape[1]))

    def _stores(self, used: list[Any], to: Any, at: Any, column: Any) -> list[Any]:
        return [
            self.instructions.store(register, *self._sum_of(to, at, part, column, vector))
            for register, part, vector in used
        ]
