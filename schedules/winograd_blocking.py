"""What is free about the Winograd convolution's schedule on CPUs, and what is chosen by default.

What may be chosen, by the names of the fields of ``CpuBlocking``, and the tiles of a block, are the
knobs of a ``Space``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from .instructions import Instructions, TileInstructions
from .prefetch import NEAREST
from .product_kernel import UNROLLED_STEPS
from .space import Point, Space, Value, divisions, with_default

if TYPE_CHECKING:
    from ..topi.workload import WinogradWorkload


@dataclass(frozen=True)
class CpuBlocking:
    """The free choices of the schedule.

    Attributes
    ----------
    lanes : float32 lanes of a vector register.
    dot_lanes, dot_reduce : shape of the dot product.
    register_tiles, register_vectors : accumulators of the integer product, tiles by at most so many
        vectors of output channels; their product, the vectors of U and a broadcast of V must fit
        the register file.
    intrinsic : the tensor intrinsic of the dot product, or None to leave it to the compiler.
    l2_bytes : what V and M of a block may occupy at their ease.
    instructions : of the ISA, for kernels that are written out; None to leave all to the compiler.
    tiles : of the ISA's two-dimensional registers, on which the integer product is then computed;
        None if it has none. An accumulator block of more than one tile row then spans its block of
        tiles, so that all its tiles lie at one distance.
    panel_blocks : accumulator blocks whose channels are a panel.
    by_panels : whether threads share a block's tiles, and then its panels, block after block.
    few_tiles : an accumulator block of no more tiles has as many vectors as may be chosen.
    fetch_weights : the level of the cache into which the next tap's U is fetched ahead, or 0.
    fetch_tiles : whether the next tile's M is fetched ahead.
    unroll_steps : whether a group's products are straight code, if they are few, not a loop.
    """

    lanes: int
    dot_lanes: int
    dot_reduce: int
    register_tiles: int
    register_vectors: int
    intrinsic: str | None
    l2_bytes: int
    instructions: Instructions | None = None
    tiles: TileInstructions | None = None
    panel_blocks: int = 1
    by_panels: bool = False
    few_tiles: int = 0
    fetch_weights: int = NEAREST
    fetch_tiles: bool = True
    unroll_steps: bool = True

    def vectors(self, channels: int) -> int:
        """Vectors of output channels in an accumulator block: the most that divide a panel."""
        available = channels // self.dot_lanes
        return max(v for v in range(1, self.register_vectors + 1) if available % v == 0)

    def panel(self, precision: str, packed_channels: int, out_group_size: int) -> int:
        """Output channels whose M lies in the cache together; in ``full``, whole groups of them."""
        panel = self.vectors(packed_channels) * self.dot_lanes * self.panel_blocks
        if precision == "hadamard" or panel % out_group_size == 0:
            return panel
        panel = math.lcm(out_group_size, self.dot_lanes)
        return panel if packed_channels % panel == 0 else packed_channels

    def rows(self, block: tuple[int, int]) -> tuple[int, int]:
        """Tile rows and columns of an accumulator block: the most tiles that divide a block."""
        candidates = [
            (rows, columns)
            for rows in range(1, self.register_tiles + 1)
            for columns in range(1, self.register_tiles // rows + 1)
            if block[0] % rows == 0 and block[1] % columns == 0
            if self.tiles is None or rows == 1 or columns == block[1]
        ]
        return max(candidates, key=lambda shape: (math.prod(shape), shape[1]))

    def chosen(self, choices: Point) -> CpuBlocking:
        """The same with some fields chosen, by their names."""
        return replace(self, **choices)  # type: ignore[arg-type]

    def divided(
        self, work: WinogradWorkload, threads: int, point: Point | None = None
    ) -> WinogradWorkload:
        """The workload in the blocks of a point of its space, of the default one if None."""
        if point is None:
            block, choices = self._default(work, threads)
            return replace(work, block=block, choices=tuple(choices.items()))
        fields: dict[str, Any] = dict(point)
        return replace(work, block=fields.pop("block"), choices=_choices(fields))

    def space(self, work: WinogradWorkload, threads: int) -> Space:
        """What may be chosen about a layer that so many threads compute.

        ``registers`` are the tiles and vectors that an accumulator block has, not the most.
        """
        precision, channels = work.scheme.precision, work.packed_channels
        block, choices = self._default(work, threads)
        blocks = product(divisions(work.tile_rows), divisions(work.tile_columns))
        own = self.chosen(choices)
        vectors = own.vectors(own.panel(precision, channels, work.out_group_size))
        written, is_hadamard = self.instructions is not None, precision == "hadamard"
        is_short = 1 < work.group_size // self.dot_reduce <= UNROLLED_STEPS
        default: Point = {
            "block": block,
            "registers": (math.prod(own.rows(block)), vectors),
            "panel_blocks": own.panel_blocks,
            "by_panels": int(own.by_panels),
            "fetch_weights": own.fetch_weights,
            "fetch_tiles": int(own.fetch_tiles),
            "unroll_steps": int(own.unroll_steps),
        }
        registers = product((8, 16, 32), (1, 2)) if self.tiles else _REGISTERS[self.lanes]
        knobs: dict[str, tuple[Value, ...]] = {
            "block": with_default(blocks, block),
            "registers": with_default(registers, default["registers"]),
            "panel_blocks": (1, 2, 4) if is_hadamard else (1,),
            "by_panels": (0, 1),
            "fetch_weights": (0, 1, 2) if written else (1,),
            "fetch_tiles": (0, 1) if written and is_hadamard else (1,),
            "unroll_steps": (0, 1) if written and self.tiles is None and is_short else (1,),
        }

        def is_valid(point: Point) -> bool:
            fields: dict[str, Any] = dict(point)
            block = fields.pop("block")
            asked = self.chosen(dict(_choices(fields)))
            panel = asked.panel(precision, channels, work.out_group_size)
            most = _MOST_SHARED if asked.by_panels else _MOST
            return (
                channels % panel == 0
                and (asked.vectors(channels), asked.vectors(panel)) == (asked.register_vectors,) * 2
                and math.prod(asked.rows(block)) == asked.register_tiles
                and math.prod(block) * self._bytes_a_tile(work, panel) <= most * self.l2_bytes
            )

        return Space(knobs, default, lambda point: point == default or is_valid(point))

    def _default(
        self, work: WinogradWorkload, threads: int
    ) -> tuple[tuple[int, int], dict[str, int]]:
        """The block by default, and what else is chosen then, by the names of fields.

        Few tiles leave room for vectors of more channels: chains of products that hide each other's
        latency, and long runs of U, which the hardware foresees better than fetches do. U that L2
        does not hold is fetched into L2 alone: L1 has no room for more of it than is in use.
        """
        block, panel_blocks = self.tile_block(work, threads)
        choices = {"by_panels": 1, "panel_blocks": panel_blocks} if panel_blocks else {}
        if not self._is_near(work) and self.instructions is not None and self.tiles is None:
            choices["fetch_weights"] = 2
        tiles, available = math.prod(self.rows(block)), work.packed_channels // self.dot_lanes
        wide = [v for t, v in _REGISTERS[self.lanes] if t == tiles and available % v == 0]
        vectors = max([0, *wide])
        is_wider = vectors > self.vectors(work.packed_channels)
        if tiles > self.few_tiles or not is_wider or work.scheme.precision != "hadamard":
            return block, choices
        panels = available // vectors
        together = [
            n for n in (1, 2, 4)
            if panels % n == 0 and (not panel_blocks or panels // n % threads == 0)
        ]  # fmt: skip
        return block, choices | {
            "register_tiles": tiles, "register_vectors": vectors, "fetch_weights": 0,
            "panel_blocks": max([1, *together]),
        }  # fmt: skip

    def _bytes_a_tile(self, work: WinogradWorkload, panel: int) -> int:
        """What V and M of a tile take, of a panel's output channels."""
        taps = math.prod(work.scheme.products)
        return taps * (work.groups * work.group_size * work.activation_bytes + 4 * panel)

    def _is_near(self, work: WinogradWorkload) -> bool:
        """Whether each thread's L2 holds U."""
        return math.prod(work.packed_shape) <= self.l2_bytes

    def tile_block(self, work: WinogradWorkload, threads: int) -> tuple[tuple[int, int], int]:
        """Tile rows and columns of a block by default, and ``panel_blocks`` where it is shared.

        Of blocks that are not, 0 ``panel_blocks``, each task has its own. Blocks fill the
        accumulators, leave no thread idle in the last round, and keep V and M near; but large ones
        read U less often. They are not shared where each thread's L2 holds U, and V of the other
        threads would have to come from theirs.
        """
        precision = work.scheme.precision
        panel = self.panel(precision, work.packed_channels, work.out_group_size)
        panels = work.packed_channels // panel
        bytes_a_tile = self._bytes_a_tile(work, panel)
        near = self._is_near(work)

        def blocks(most: float) -> list[tuple[int, int]]:
            most = max(self.register_tiles, int(most * self.l2_bytes // bytes_a_tile))
            return [
                (rows, columns)
                for rows in range(1, min(work.tile_rows, most) + 1)
                for columns in range(1, min(work.tile_columns, most // rows) + 1)
            ]

        def is_crowded(block: tuple[int, int]) -> bool:
            return math.prod(block) * bytes_a_tile > self.l2_bytes

        def panel_blocks(block: tuple[int, int]) -> int:
            """Two where V comes from afar once a panel, if threads have as many then."""
            parts = panels // 2
            even = panels % 2 == 0 and (parts % threads == 0 or parts >= _MANY * threads)
            return 2 if precision == "hadamard" and even and is_crowded(block) else 1

        def cost(candidate: tuple[tuple[int, int], int]) -> float:
            block, together = candidate
            tasks = work.batch * math.ceil(work.tile_rows / block[0])
            tasks *= math.ceil(work.tile_columns / block[1])
            # A row of accumulators costs its own load, a block the streaming of U.
            one = math.prod(block) * (1 + 1 / math.prod(self.rows(block)))
            one += _STREAM_NEAR_TILES if near else _STREAM_FAR_TILES
            if together:
                parts = panels // together
                return _EXCHANGE * tasks * math.ceil(parts / threads) / parts * one
            return (_CROWDED if is_crowded(block) else 1) * math.ceil(tasks / threads) * one

        candidates = [(block, 0) for block in blocks(_OWN)]
        if not near:
            candidates += [(block, panel_blocks(block)) for block in blocks(_SHARED)]
        return min(candidates, key=cost)


# Tiles in whose products' time U is streamed, from L2 or from farther: a byte is a product of each
# tile, at 383 a nanosecond; L2 gives 140 bytes in that time, L3 25, half of which is hidden.
_STREAM_NEAR_TILES, _STREAM_FAR_TILES = 2.0, 8.0
# What a block takes more if V and M do not fit ``l2_bytes``, and if threads share it, for V comes
# from L3 or other threads' caches then; of ``l2_bytes``, the most of V and M of blocks of either
# kind; panels of each thread that make it no matter whether they are divided evenly.
_CROWDED, _EXCHANGE = 1.1, 1.2
_OWN, _SHARED = 1.5, 6.0
_MANY = 4
# Tiles and vectors of accumulator blocks that may be chosen, by the lanes of a vector: of 32
# registers and of 16, sums that do not fit are spilled once a group.
_REGISTERS = {
    16: ((4, 2), (6, 2), (8, 2), (10, 2), (12, 2), (4, 3), (6, 3), (8, 3), (3, 4), (4, 4), (5, 4),
         (6, 4), (12, 1), (16, 1), (24, 1), (2, 5), (4, 5)),
    8: ((2, 2), (3, 2), (4, 2), (5, 2), (6, 2), (2, 3), (3, 3), (4, 3), (2, 4), (6, 1), (8, 1)),
    4: ((2, 2), (3, 2), (4, 2), (6, 2), (8, 2), (2, 4), (4, 4), (3, 4), (8, 1)),
}  # fmt: skip
# Of ``l2_bytes``, what V and M of a block may occupy, and where all threads share the block.
_MOST, _MOST_SHARED = 2, 16


def _choices(fields: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """What a point has besides a block, by the names of the fields that it chooses."""
    tiles, vectors = fields.pop("registers")
    return ("register_tiles", tiles), ("register_vectors", vectors), *fields.items()
