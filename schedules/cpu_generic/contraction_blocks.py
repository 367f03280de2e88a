"""What of a contraction is computed together: register tiles, parts of sums, rows of a task."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .access import evaluate
from .contraction_match import Contraction, axes_of
from .contraction_stages import Tile
from .machine import Machine

# A core has two FMA units with a latency of four cycles, which takes eight sums in flight.
_UNITS = 2
_CHAINS = 8
# What loads cost beside the products that hide most of them, in cycles for each summed element: a
# vector of weights comes from L2, a broadcast of data from L1.
_WEIGHT_CYCLES = 0.3
_DATA_CYCLES = 0.1
_PACKING_CYCLES = 1.5
# Weights that are read in place, a row of columns far behind the other, cost a page walk a row
# where there are more pages than the buffer of translations has entries.
_PAGE_BYTES = 4096
_PAGES = 64
_WALK_CYCLES = 6.0

# Fewer rows than this do not pay for packing the weights.
_ROWS_WORTH_PACKING = 16
_SHORTEST_VECTOR = 4

# A part of a sum shorter than this does not pay for adding it to the others.
_SHORTEST_PART = 96
_SHORTEST_RUN = 16


@dataclass(frozen=True)
class Rows:
    """The rows of a task.

    Attributes
    ----------
    axis : the outer axis that is cut into blocks, None if the tiles of x are.
    count : of that axis or of tiles of x in a task.
    tasks : into which the rows of the whole contraction are cut.
    """

    axis: int | None
    count: int
    tasks: int


def choose_tile(work: Contraction, machine: Machine, constant: bool) -> Tile:
    """Return the register tile that costs the fewest cycles by a simple model of a core.

    ``constant`` weights are packed before the network runs, which costs nothing.
    """
    strides = work.weights.strides
    contiguous = strides is not None and strides[work.f] == 1
    passes = math.prod(work.info.extents[a] for a in work.outer) * work.rows
    # Vectors of few columns are short; so are those of weights that are read as they are because
    # there are too few rows to pay for packing.
    lanes = min(machine.lanes, 1 << (work.columns - 1).bit_length())
    common = math.gcd(work.columns, lanes)
    few = passes < _ROWS_WORTH_PACKING and not constant
    if contiguous and few and common >= _SHORTEST_VECTOR:
        lanes = common
    candidates = [
        Tile(rows, vectors, lanes, packed)
        for packed in (False, True)
        for vectors in (1, 2, 3, 4, 6, 8)
        for rows in range(1, machine.registers)
        if rows * vectors + vectors + 1 < machine.registers
        and (packed or (contiguous and work.columns % (vectors * lanes) == 0))
    ]
    walk = _WALK_CYCLES * _page_share(work) if contiguous else 0.0

    def cycles(tile: Tile) -> tuple[float, int]:
        tiles = math.ceil(work.rows / tile.rows) * math.ceil(work.columns / tile.columns)
        products = max(tile.rows * tile.vectors, _CHAINS) / _UNITS
        step = products + _WEIGHT_CYCLES * tile.vectors + _DATA_CYCLES * tile.rows
        if not tile.packed:
            return tiles * (step + walk), -tile.columns
        packing = 0 if constant else _PACKING_CYCLES * work.columns / lanes * work.rows / passes
        return tiles * step + packing, -tile.columns

    return min(candidates, key=cycles)


def _page_share(work: Contraction) -> float:
    """Return how many pages a step along the sums takes, 0 where all stay translated."""
    strides = work.weights.strides
    assert strides is not None
    step = 4 * min((abs(strides[a]) for a in work.info.reduced() if strides[a]), default=0)
    return min(1.0, step / _PAGE_BYTES) if work.summed * step > _PAGES * _PAGE_BYTES else 0.0


def choose_parts(work: Contraction, tile: Tile, machine: Machine) -> dict[int, int]:
    """Return how much of each summed axis a part of a sum has, such that its panel fits a cache."""
    extents = work.info.extents
    reduced = list(work.info.reduced())
    whole = {axis: extents[axis] for axis in reduced}
    if work.weights.strides is None:
        return whole
    most = machine.panel_bytes // (4 * tile.columns)
    if work.summed <= most + most // 2:
        return whole
    # Along the longest axis data are contiguous, so that a part touches few cache lines.
    longest = max(reduced, key=lambda axis: extents[axis])
    others = work.summed // extents[longest]
    parts = [
        n
        for n in range(1, extents[longest] + 1)
        if extents[longest] % n == 0 and n * others <= most and n >= _SHORTEST_RUN
    ]
    if parts and parts[-1] * others >= _SHORTEST_PART:
        return {**whole, longest: parts[-1]}
    # Taps one after the other.
    result = dict(whole)
    for axis in reduced:
        if axis != longest and math.prod(result.values()) > most:
            result[axis] = 1
    others = math.prod(n for axis, n in result.items() if axis != longest)
    parts = [
        n
        for n in range(1, extents[longest] + 1)
        if extents[longest] % n == 0 and n * others <= most
    ]
    if parts and parts[-1] * others >= _SHORTEST_PART:
        result[longest] = parts[-1]
    return result


def choose_rows(work: Contraction, tile: Tile, machine: Machine) -> Rows:
    """Return the rows of a task that move the fewest bytes between L2 and what is behind it.

    While the panels of weights stream past, the data of a task stay in L2, if they fit.
    """
    info = work.info
    in_weights = axes_of(info, work.weights.indices)
    rows = [a for a in work.outer if a not in in_weights and info.extents[a] > 1]
    axis = rows[-1] if rows else None
    whole = math.ceil(work.rows / tile.rows) if axis is None else info.extents[axis]
    others = math.prod(info.extents[a] for a in work.outer if a != axis)
    panels = work.groups * math.ceil(work.columns / tile.columns)
    weights = 4 * work.summed * panels * tile.columns

    def cost(count: int) -> tuple[bool, int, int]:
        blocks = whole // count
        data = _data_bytes(work, axis, count if axis is not None else count * tile.rows)
        stays = weights + data <= machine.l2_bytes
        moved = weights if stays else blocks * weights
        moved += blocks * data * (1 if stays or 2 * data <= machine.l2_bytes else panels)
        return others * blocks * panels < machine.tasks, moved, count

    counts = [count for count in range(1, whole + 1) if whole % count == 0]
    best = min(counts, key=cost)
    return Rows(axis, best, others * (whole // best))


def _data_bytes(work: Contraction, axis: int | None, count: int) -> int:
    """Return the bytes of data that so many places along an axis (None: x) read."""
    info = work.info
    extents = {work.x: work.rows, **{a: info.extents[a] for a in info.reduced()}}
    extents[work.x if axis is None else axis] = min(count, work.rows if axis is None else count)
    zero = dict.fromkeys(info.variables, 0)
    elements = 1
    for index, size in zip(work.data.indices, work.data.buffer.shape, strict=True):
        span = 1.0
        for a, extent in extents.items():
            if a is not None and extent > 1:
                variable = info.variables[a]
                steps = evaluate(index, {**zero, variable: extent - 1}) - evaluate(index, zero)
                span += abs(steps)
        elements *= min(int(span), int(size))
    return 4 * elements
