"""What of a contraction is computed together: register tiles, parts of sums, rows of a task."""

from __future__ import annotations

import math

from .access import evaluate
from .contraction_match import Contraction, axes_of
from .contraction_stages import Blocks, Rows, Tile
from .machine import Machine

# A core has two FMA units with a latency of four cycles, which takes eight sums in flight.
_UNITS = 2
_CHAINS = 8
# What loads cost beside the products that hide most of them, in cycles for each summed element: a
# vector of weights comes from L2, a broadcast of data from L1.
_WEIGHT_CYCLES = 0.3
_DATA_CYCLES = 0.1
_PACKING_CYCLES = 1.5
_LANE_CYCLES = 1.5  # to add one lane to its sum
# Weights that are read in place, each row of columns so far behind the other, cost translations of
# addresses, and push each other out of the cache.
_APART_BYTES = 1024
_APART_CYCLES = 3.0

# Fewer rows than this do not pay for packing the weights.
_ROWS_WORTH_PACKING = 16
_SHORTEST_VECTOR = 4

# Of L2, what a panel of weights may take that is used for all rows of a task.
_PANEL_SHARE = 0.5
# Loops shorter than this do not pay for themselves.
_SHORTEST_RUN = 16
# Rows that may be computed in vain, of all.
_IN_VAIN = 1 / 16
_AS_GOOD = 1.05


def choose_blocks(work: Contraction, machine: Machine, constant: bool) -> Blocks:
    """Return what of a contraction is computed together.

    ``constant`` weights are packed before the network runs, which costs nothing.
    """
    tile = _tile(work, machine, constant)
    part = {axis: work.info.extents[axis] for axis in work.info.reduced()}
    if tile.summed is None:
        part = _part(work, tile, machine)
    return Blocks(tile, part, _rows(work, tile, machine))


def _tile(work: Contraction, machine: Machine, constant: bool) -> Tile:
    """Return the register tile that costs the fewest cycles by a simple model of a core."""
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
        for vectors in (1, 2, 3, 4, 5, 6, 7, 8)
        for rows in range(1, machine.registers)
        if rows * vectors + vectors + 1 < machine.registers
        and (packed or (contiguous and work.columns % (vectors * lanes) == 0))
    ]
    if not few:
        candidates += _tiles_of_few_columns(work, machine)
    apart = _APART_CYCLES * _distance(work) if contiguous else 0.0

    def cycles(tile: Tile) -> tuple[float, int]:
        tiles = math.ceil(work.rows / tile.rows) * math.ceil(work.columns / tile.columns)
        products = max(tile.rows * tile.vectors, _CHAINS) / _UNITS
        step = products + _WEIGHT_CYCLES * tile.vectors + _DATA_CYCLES * tile.rows
        if tile.summed is not None:
            sums = _LANE_CYCLES * tile.rows * tile.vectors * tile.lanes
            step = (step + sums * tile.lanes / work.summed) / tile.lanes
        if not tile.packed:
            return tiles * (step + apart), -tile.columns
        packing = 0 if constant else _PACKING_CYCLES * work.columns / lanes * work.rows / passes
        return tiles * step + packing, -tile.columns

    return min(candidates, key=cycles)


def _tiles_of_few_columns(work: Contraction, machine: Machine) -> list[Tile]:
    """Return tiles whose lanes are neighbours on a summed axis of the data."""
    strides, lanes = work.data.strides, machine.lanes
    if strides is None or not work.data.exact or work.columns > lanes // 2 or work.groups > 1:
        return []
    extents = work.info.extents
    axes = [a for a in work.info.reduced() if strides[a] == 1 and extents[a] % lanes == 0]
    most = (machine.registers - 2 - work.columns) // work.columns
    return [Tile(rows, work.columns, lanes, True, a) for a in axes for rows in range(1, most + 1)]


def _distance(work: Contraction) -> float:
    """Return how far from each other weights are that are used one after the other, 1 if far."""
    strides = work.weights.strides
    assert strides is not None
    step = 4 * min((abs(strides[a]) for a in work.info.reduced() if strides[a]), default=0)
    return min(1.0, step / _APART_BYTES)


def _part(work: Contraction, tile: Tile, machine: Machine) -> dict[int, int]:
    """Return how much of each summed axis a part of a sum has, so that its panel stays in L2."""
    extents = work.info.extents
    part = {axis: extents[axis] for axis in work.info.reduced()}
    most = int(_PANEL_SHARE * machine.l2_bytes) // (4 * tile.columns)
    # The longest axis first: along it data are contiguous, and whole taps stay together.
    for axis in sorted(part, key=lambda axis: -extents[axis]):
        others = math.prod(part.values()) // part[axis]
        if part[axis] * others > most:
            shortest = min(extents[axis], _SHORTEST_RUN)
            divisors = [n for n in range(shortest, extents[axis] + 1) if extents[axis] % n == 0]
            part[axis] = max((n for n in divisors if n * others <= most), default=divisors[0])
    return part


def _rows(work: Contraction, tile: Tile, machine: Machine) -> Rows:
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

    def moved(count: int) -> int:
        blocks = -(-whole // count)
        data = _data_bytes(work, axis, count if axis is not None else count * tile.rows)
        stays = weights + data <= machine.l2_bytes
        again = 1 if stays or 2 * data <= machine.l2_bytes else panels
        return (weights if stays else blocks * weights) + blocks * data * again

    def enough(count: int) -> bool:
        return others * -(-whole // count) * panels >= machine.tasks

    in_vain = _IN_VAIN * whole if axis is None else 0
    counts = [n for n in range(1, whole + 1) if -whole % n <= in_vain]
    counts = [n for n in counts if enough(n)] or counts[:1]
    # Of those about as good, the fewest rows: their results are written one after the other.
    best = min(n for n in counts if moved(n) <= _AS_GOOD * min(map(moved, counts)))
    x_tiles = best * -(-whole // best) if axis is None else math.ceil(work.rows / tile.rows)
    return Rows(axis, best, x_tiles, others * -(-whole // best))


def _data_bytes(work: Contraction, axis: int | None, count: int) -> int:
    """Return the bytes of data that so many places along an axis (None: x) read."""
    info = work.info
    extents: dict[int | None, int] = {a: info.extents[a] for a in info.reduced()}
    extents[work.x] = work.rows
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
