"""What a layer may become, how long that takes, and what can be left out unmeasured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..config import LARGEST_GROUP, WinogradConfig
from ..errors import AlgorithmError, ConfigError
from ..fastconv import KERNELS, SCALE_RULES, bilinear_algorithm
from ..learning import resolve_scales
from ..quantization.plan import LayerPlan, Reason

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
# Direct convolutions besides in groups of so many channels, 0 of all, with a weight's step for all
# taps of a filter, as int8 libraries have it: few sums are left to be scaled.
_DIRECT_GROUPS = (64, 128, 0)
_TIE_A_MS = 1e-6  # multiplications of an output and input channel


@dataclass(frozen=True)
class Candidate:
    """One way to compute a layer.

    Attributes
    ----------
    layer : with the milliseconds that it takes, measured or predicted.
    cost : what is to be least: the same, or multiplications.
    """

    layer: LayerPlan
    cost: float

    @property
    def label(self) -> str:
        """What explanations call it: "F(4,3) group 32", "direct whole a step a filter", "float"."""
        if self.layer.algorithm == "float":
            return self.layer.label
        if self.layer.activation_steps == "image" or self.layer.precision == "bfloat16":
            return self.layer.label
        group = f"group {self.layer.group_size}" if self.layer.group_size else "whole"
        steps = " a step a filter" if self.layer.weight_steps == "filter" else ""
        return f"{self.layer.label} {group}{steps}"

    def surpasses(self, other: Candidate) -> bool:
        """Whether it is known to be as accurate as another, before either is measured.

        Float has no error. Of one algorithm and its points, steps of a part of the channels or taps
        are no larger than those of all, since a part's largest magnitude is not, and rounding noise
        goes with their squares; "full" rounds what "hadamard" does, and more. That is so of the
        mean over many values, which is what is measured, not of each. Nothing is known of different
        algorithms: F(2,3) has less noise than F(4,3) on white inputs, and more on some networks;
        nor of a step a pixel, of both signs alike, and one an image, with a zero point; nor of int8
        and bfloat16.
        """
        ours, others = self.layer, other.layer
        if ours.algorithm == "float" or others.algorithm == "float":
            return ours.algorithm == "float"
        alike = all(
            getattr(ours, name) == getattr(others, name)
            for name in ("algorithm", "tile", "points", "column_points")
        )
        return (
            alike
            and ours.precision in ("hadamard", others.precision)
            and "bfloat16" not in (ours.precision, others.precision)
            and ours.weight_steps in ("tap", others.weight_steps)
            and ours.activation_steps == others.activation_steps
            and _divides(ours.group_size or 0, others.group_size or 0)
        )


def _divides(size: int, other: int) -> bool:
    """Whether groups of a size, 0 of all channels, are parts of those of another."""
    return other == 0 or (size != 0 and other % size == 0)


def candidates(
    layer: LayerPlan,
    config: WinogradConfig,
    predicted_ms: Callable[[LayerPlan], float],
    measured_ms: Callable[[LayerPlan], float | None] = lambda _: None,
    has_bfloat16: bool = False,
) -> list[Candidate]:
    """Ways to compute an eligible layer, the cheapest first; float is the last.

    Those that cost no less than another that is known to be as accurate are left out.

    Parameters
    ----------
    layer : planned as "direct".
    config : with precision "full" layers may be "hadamard", too, never the other way round; groups
        are of up to twice its group size, but for direct convolutions; ``minimize`` says what a
        candidate costs.
    predicted_ms : the time of a planned layer.
    measured_ms : the same by measurement, if there is one; it counts instead.
    has_bfloat16 : whether the target computes in bfloat16.
    """
    precisions = ("hadamard", "full") if config.precision == "full" else ("hadamard",)
    points = config.points if isinstance(config.points, str) else "best"
    choices: list[tuple[str, Tile | None, str]] = [("direct", None, points)]
    if layer.stride == (1, 1) and layer.weight_shape[2] in KERNELS:
        choices += [("winograd", tile, points) for tile in _winograd_tiles(layer)]
        if points != _COMPLEX:
            choices += [("winograd", t, _COMPLEX) for t in _COMPLEX_TILES[layer.weight_shape[2]]]
        choices += [("sfc", tile, points) for tile in _SFC_TILES]
    else:
        precisions = ("hadamard",)
    # One tap's step is that of its filter, and is applied in fewer operations so.
    finest = "filter" if layer.weight_shape[2] == 1 else "tap"
    wanted = [
        (*choice, precision, group, finest)
        for choice in choices
        for precision in precisions
        for group in _groups(layer, config)
    ]
    channels = layer.weight_shape[1]
    wanted += [
        ("direct", None, points, precision, group, "filter")
        for precision in precisions
        for group in _DIRECT_GROUPS
        if group < channels <= (LARGEST_GROUP if group == 0 else math.inf)
    ]
    planned = [as_float(layer)]
    for each in wanted:
        found = _planned(layer, config, *each)
        if found is not None:
            planned.append(found)
    whole = [("hadamard", "image"), *([("bfloat16", "pixel")] if has_bfloat16 else [])]
    for precision, steps in whole:
        found = _planned(layer, config, "direct", None, points, precision, 0, "filter", steps)
        if found is not None:
            planned.append(found)
    timed = [
        replace(each, predicted_ms=predicted_ms(each), measured_ms=measured_ms(each))
        for each in planned
    ]
    return undominated([_candidate(each, config.minimize) for each in timed])


def _candidate(layer: LayerPlan, minimize: str) -> Candidate:
    ms = layer.ms or 0.0
    # Of as many multiplications the time decides, in which alone groups differ.
    return Candidate(layer, ms if minimize == "time" else multiplications(layer) + _TIE_A_MS * ms)


def undominated(found: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other surpasses at no more cost, the cheapest first."""
    kept: list[Candidate] = []
    # Of equally cheap ones those come first that surpass the others.
    order = sorted(found, key=lambda c: (c.cost, -sum(c.surpasses(other) for other in found)))
    for candidate in order:
        if not any(other.surpasses(candidate) for other in kept):
            kept.append(candidate)
    return kept


def _groups(layer: LayerPlan, config: WinogradConfig) -> list[int]:
    """Group sizes, with a weight's step a tap."""
    channels = layer.weight_shape[1]
    largest = config.group_size or channels
    groups = {config.group_size, *(size for size in _FINE_GROUPS if size < min(largest, channels))}
    twice = _COARSE * config.group_size
    if 0 < config.group_size < channels and twice <= LARGEST_GROUP:
        groups.add(twice)
    return sorted(groups)


def as_float(layer: LayerPlan) -> LayerPlan:
    """The same layer, computed in float to keep the budget."""
    return replace(
        layer, algorithm="float", tile=None, points=None, precision=None, group_size=None,
        scales=None, steps=None, weight_steps=None, s_b=None, s_g=None, column_points=None,
        balance=None, correction=None, activation_steps="pixel", reason=Reason.BUDGET,
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


def _planned(
    layer: LayerPlan,
    config: WinogradConfig,
    algorithm: str,
    tile: Tile | None,
    points: str,
    precision: str,
    group: int,
    weight_steps: str,
    activation_steps: str = "pixel",
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
            weight_steps=weight_steps, s_b=s_b, s_g=s_g,
            column_points=columns[0].points if columns else None,
            activation_steps=activation_steps,
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
