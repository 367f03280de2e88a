"""What a layer may become, and what that costs.

Costs are in int8 multiplications of an output and input channel, of which a direct convolution of
3x3 has nine. They stand for time until somebody measures time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

from ..config import LARGEST_GROUP, WinogradConfig
from ..errors import AlgorithmError, ConfigError
from ..fastconv import SCALE_RULES, Matrix, bilinear_algorithm
from ..learning import resolve_scales
from ..quantization.plan import LayerPlan, Reason
from ..quantization.scheme import PRECISIONS, Scheme

Tile = int | tuple[int, int]

_WINOGRAD_TILES = {3: (6, 4, 2), 5: (4, 3, 2)}  # offered always, by the taps of a kernel's edge
_SFC_TILES = (6, 4)
# With the points +-i: F(6,3) takes the products of F(4,3) with 5 dB less noise, F(3,3) those of
# F(2,3) with 2 dB less; F(4,3) is SFC-4.
_COMPLEX = "complex"
_COMPLEX_TILES = {3: (6, 5, 3), 5: ()}
# Smaller groups, for layers that need them. With 8 channels F(4,3) has 5 dB less noise than with 32
# and still takes less time than the direct convolution; with 4 it does not.
_FINE_GROUPS = (16, 8)
# Groups of so many times the configured size, for layers that can do with less: with AVX-512 VNNI
# F(4,3) takes 10 to 20 % less time in groups of 64 than of 32, and has 0.4 to 1.1 dB more noise.
_COARSE = 2
# A float operation of a transform takes the time of so many int8 products: its vectors hold a
# quarter of them, and loads and stores come with it. With six, F(4,3) takes 2.2 times less than the
# direct convolution at 96 channels, which is what FFDNet showed with AVX-512 VNNI.
_FLOAT_OPERATION = 6.0
# A float convolution has vectors of a quarter of the products.
_FLOAT_PRODUCT = 4.0


@dataclass(frozen=True)
class Candidate:
    """One way to compute a layer, and its cost per output and input channel."""

    layer: LayerPlan
    cost: float

    @property
    def multiplications(self) -> float:
        """Of int8 or float per output and input channel, tiles that stand over included."""
        return multiplications(self.layer)


def candidates(layer: LayerPlan, config: WinogradConfig) -> list[Candidate]:
    """All ways to compute an eligible layer, the cheapest first; the last is float.

    Parameters
    ----------
    layer : planned as "direct".
    config : its precision is preferred ("full" may become "hadamard" where the budget wants it,
        never the other way round), the largest group is of twice its group size.
    """
    found = []
    precisions = PRECISIONS if config.precision == "full" else ("hadamard",)
    largest = config.group_size or layer.weight_shape[1]
    finer = {size for size in _FINE_GROUPS if size < min(largest, layer.weight_shape[1])}
    groups = {config.group_size, *finer}
    twice = _COARSE * config.group_size
    if 0 < config.group_size < layer.weight_shape[1] and twice <= LARGEST_GROUP:
        groups.add(twice)
    points = config.points if isinstance(config.points, str) else "best"
    choices: list[tuple[str, Tile | None, str]] = [("direct", None, points)]
    choices += [("winograd", tile, points) for tile in _winograd_tiles(layer)]
    if points != _COMPLEX:
        choices += [("winograd", t, _COMPLEX) for t in _COMPLEX_TILES[layer.weight_shape[2]]]
    choices += [("sfc", tile, points) for tile in _SFC_TILES]
    for algorithm, tile, points in choices:
        for precision in precisions:
            for group in sorted(groups):
                planned = _planned(layer, config, algorithm, tile, points, precision, group)
                if planned is not None:
                    found.append(Candidate(planned, cost(planned)))
    found.append(Candidate(as_float(layer), cost(as_float(layer))))
    return sorted(found, key=lambda candidate: candidate.cost)


def as_float(layer: LayerPlan) -> LayerPlan:
    """The same layer, computed in float to keep the budget."""
    return replace(
        layer, algorithm="float", tile=None, points=None, precision=None, group_size=None,
        scales=None, steps=None, weight_steps=None, s_b=None, s_g=None, column_points=None,
        balance=None, correction=None, reason=Reason.BUDGET,
    )  # fmt: skip


def _winograd_tiles(layer: LayerPlan) -> list[Tile]:
    """Tiles for a layer: the usual squares, and others where they suit its size.

    A larger tile loses more accuracy. So another is worth a measurement where it takes fewer
    products, tiles that stand over the edge included, than the next larger usual one, and no
    smaller one takes as few; a rectangle, besides, where it takes fewer than either square of its
    edges: one of them suits the rows, the other the columns.
    """
    _, _, *size = layer.output_shape
    taps = layer.weight_shape[2]
    usual = _WINOGRAD_TILES[taps]
    edges = range(2, max(usual) + 1)
    products = {
        tile: math.prod(_products(s, e, e + taps - 1) for s, e in zip(size, tile, strict=True))
        for tile in product(edges, edges)
    }

    def suits(tile: tuple[int, int]) -> bool:
        larger = min(edge for edge in usual if edge >= max(tile))
        for other, count in products.items():
            if other == tile:
                continue
            within = other[0] <= tile[0] and other[1] <= tile[1]
            square = other[0] == other[1] and other[0] in (*tile, larger)
            if (within or square) and count <= products[tile]:
                return False
        return True

    others = [tile for tile in products if tile[0] not in usual or tile[0] != tile[1]]
    wanted = [tile for tile in others if suits(tile)]
    return [*usual, *(a if a == b else (a, b) for a, b in wanted)]


def _products(size: int, edge: int, n: int) -> int:
    """Products along an axis of so many outputs, in tiles of so many outputs and n products."""
    return math.ceil(size / edge) * n


def multiplications(layer: LayerPlan) -> float:
    """Multiplications per output and input channel, those of outputs outside the image included."""
    if layer.algorithm == "float":
        return float(layer.weight_shape[2] * layer.weight_shape[3])
    _, _, *size = layer.output_shape
    products = math.prod(
        _products(edge, algorithm.m, algorithm.n)
        for edge, algorithm in zip(size, layer.bilinear_algorithms(), strict=True)
    )
    return products / math.prod(size)


def cost(layer: LayerPlan) -> float:
    """Products, transforms and the scaling of each group's sums, in int8 products."""
    count = multiplications(layer)
    if layer.algorithm == "float":
        return count * _FLOAT_PRODUCT
    outputs, inputs = layer.weight_shape[:2]
    scheme = layer.scheme()
    scaling = count / min(scheme.channels_per_group(inputs), inputs)
    waste = count * math.prod(scheme.output_tile) / math.prod(scheme.products)
    transforms = waste * _transforms(scheme, inputs, outputs)
    return count + _FLOAT_OPERATION * (scaling + transforms)


def _transforms(scheme: Scheme, inputs: int, outputs: int) -> float:
    """Float operations of both transforms per output and input channel: entries other than 0."""
    if scheme.output_tile == (1, 1):
        return 1 / outputs  # quantization alone
    rows, columns = scheme.row_axis.algorithm, scheme.column_axis.algorithm
    per_tile_input = (
        _count(rows.b_t) * columns.t + _count(columns.b_t) * rows.n + rows.n * columns.n
    )
    per_tile_output = _count(rows.a_t) * columns.n + _count(columns.a_t) * rows.m
    return (per_tile_input / outputs + per_tile_output / inputs) / (rows.m * columns.m)


def _count(matrix: Matrix) -> int:
    return sum(entry != 0 for row in matrix for entry in row)


def _planned(
    layer: LayerPlan,
    config: WinogradConfig,
    algorithm: str,
    tile: Tile | None,
    points: str,
    precision: str,
    group: int,
) -> LayerPlan | None:
    """The layer by such an algorithm; None where the precision does not allow it."""
    edges = tile if isinstance(tile, tuple) else (tile,)
    try:
        bilinear, *columns = (
            bilinear_algorithm(algorithm, edge, points, layer.weight_shape[2]) for edge in edges
        )
    except AlgorithmError:
        return None
    scales = config.scales
    s_b = s_g = None
    if precision == "full" and scales not in SCALE_RULES and not columns:
        try:
            found = resolve_scales(scales, bilinear, layer.name)
            s_b, s_g = found.s_b, found.s_g
        except ConfigError:
            scales = "correlated"  # no such set for this algorithm
    elif scales not in SCALE_RULES:
        scales = "correlated"  # they cancel in hadamard, and no rectangle has learned ones
    try:
        planned = replace(
            layer, algorithm=algorithm, tile=tile, points=bilinear.points or None,
            precision=precision, group_size=group, scales=scales, steps=config.steps,
            weight_steps="tap", s_b=s_b, s_g=s_g,
            column_points=columns[0].points if columns else None,
        )  # fmt: skip
        planned.scheme()
    except ConfigError:
        return None  # the rows of B^T are no integers of the precision
    return planned


def saved(layers: list[LayerPlan]) -> float:
    """How many times fewer multiplications eligible layers take than directly; 1 if none are."""
    direct = total = 0.0
    for layer in layers:
        _, outputs, rows, columns = layer.output_shape
        size = layer.weight_shape[1] * outputs * rows * columns
        direct += size * layer.weight_shape[2] * layer.weight_shape[3]
        total += size * multiplications(layer)
    return direct / total if total else 1.0
