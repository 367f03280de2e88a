"""What a layer may become, and what that costs.

Costs are in int8 multiplications of a direct convolution's output and input channel, of which that
has nine. They stand for time until somebody measures time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..config import WinogradConfig
from ..errors import AlgorithmError, ConfigError
from ..fastconv import SCALE_RULES, BilinearAlgorithm, direct, sfc, winograd
from ..learning import resolve_scales
from ..quantization.plan import LayerPlan, Reason
from ..quantization.scheme import PRECISIONS

_WINOGRAD_TILES = (6, 4, 2)
_SFC_TILES = (6, 4)
# Smaller groups, for layers that need them. With 8 channels F(4,3) has 5 dB less noise than with 32
# and still takes less time than the direct convolution; with 4 it does not.
_FINE_GROUPS = (16, 8)
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
        never the other way round), its group size is the largest.
    """
    found = []
    precisions = PRECISIONS if config.precision == "full" else ("hadamard",)
    largest = config.group_size or layer.weight_shape[1]
    finer = {size for size in _FINE_GROUPS if size < min(largest, layer.weight_shape[1])}
    groups = {config.group_size, *finer}
    choices: list[tuple[str, int | None]] = [("direct", None)]
    choices += [("winograd", tile) for tile in _WINOGRAD_TILES]
    choices += [("sfc", tile) for tile in _SFC_TILES]
    for algorithm, tile in choices:
        for precision in precisions:
            for group in sorted(groups):
                planned = _planned(layer, config, algorithm, tile, precision, group)
                if planned is not None:
                    found.append(Candidate(planned, cost(planned)))
    found.append(Candidate(as_float(layer), cost(as_float(layer))))
    return sorted(found, key=lambda candidate: candidate.cost)


def as_float(layer: LayerPlan) -> LayerPlan:
    """The same layer, computed in float to keep the budget."""
    return replace(
        layer, algorithm="float", tile=None, points=None, precision=None, group_size=None,
        scales=None, steps=None, weight_steps=None, s_b=None, s_g=None, reason=Reason.BUDGET,
    )  # fmt: skip


def multiplications(layer: LayerPlan) -> float:
    """Multiplications per output and input channel, those of outputs outside the image included."""
    if layer.algorithm == "float":
        return float(layer.weight_shape[2] * layer.weight_shape[3])
    algorithm = layer.bilinear_algorithm()
    _, _, rows, columns = layer.output_shape
    covered = math.ceil(rows / algorithm.m) * math.ceil(columns / algorithm.m) * algorithm.m**2
    return float(algorithm.multiplications_per_output) * covered / (rows * columns)


def cost(layer: LayerPlan) -> float:
    """Products, transforms and the scaling of each group's sums, in int8 products."""
    count = multiplications(layer)
    if layer.algorithm == "float":
        return count * _FLOAT_PRODUCT
    outputs, inputs = layer.weight_shape[:2]
    scheme = layer.scheme()
    algorithm = scheme.algorithm
    scaling = count / min(scheme.channels_per_group(inputs), inputs)
    waste = count / float(algorithm.multiplications_per_output)
    transforms = waste * _transforms(algorithm, inputs, outputs)
    return count + _FLOAT_OPERATION * (scaling + transforms)


def _transforms(algorithm: BilinearAlgorithm, inputs: int, outputs: int) -> float:
    """Float operations of both transforms per output and input channel: entries other than 0."""
    if algorithm.m == 1:
        return 1 / outputs  # quantization alone
    rows = sum(entry != 0 for row in algorithm.b_t for entry in row)
    columns = sum(entry != 0 for row in algorithm.a_t for entry in row)
    per_tile_input = rows * (algorithm.t + algorithm.n) + algorithm.n**2
    per_tile_output = columns * (algorithm.n + algorithm.m)
    return (per_tile_input / outputs + per_tile_output / inputs) / algorithm.m**2


def _planned(
    layer: LayerPlan,
    config: WinogradConfig,
    algorithm: str,
    tile: int | None,
    precision: str,
    group: int,
) -> LayerPlan | None:
    """The layer by such an algorithm; None where the precision does not allow it."""
    points = None
    if algorithm == "winograd":
        assert tile is not None
        try:
            bilinear = winograd(tile, config.points if isinstance(config.points, str) else "best")
        except AlgorithmError:
            return None
        points = bilinear.points
    else:
        bilinear = sfc(tile) if tile is not None else direct(layer.weight_shape[2])
    scales = config.scales
    s_b = s_g = None
    if precision == "full" and scales not in SCALE_RULES:
        try:
            found = resolve_scales(scales, bilinear)
            s_b, s_g = found.s_b, found.s_g
        except ConfigError:
            scales = "correlated"  # no such set for this algorithm
    elif scales not in SCALE_RULES:
        scales = "correlated"  # they cancel in hadamard
    try:
        planned = replace(
            layer, algorithm=algorithm, tile=tile, points=points, precision=precision,
            group_size=group, scales=scales, steps=config.steps, weight_steps="tap",
            s_b=s_b, s_g=s_g,
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
