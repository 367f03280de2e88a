"""Decide what is done with each convolution: from a module and a configuration to a plan.

Ordering: after `fold_batch_norm`, so that the plan sees the weights that will run; before
`lower_convolutions`, which carries the plan out. Layouts do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from tvm import ir, relax

from ..config import WinogradConfig
from ..errors import AlgorithmError, ConfigError
from ..fastconv import (
    DIRECT_KERNELS,
    KERNELS,
    SCALE_RULES,
    BilinearAlgorithm,
    bilinear_algorithm,
)
from ..frontend.names import CONVOLUTION_OPS, bindings, layer_name, operator_name
from ..learning import LearnedScales, learned_scales
from ..quantization.image_reference import MOST_PRODUCTS
from ..quantization.plan import LayerPlan, Plan, Reason
from .constants import is_tensor_constant, shape_of


@dataclass(frozen=True)
class _Choice:
    """What a configuration makes of kernels of one size.

    Attributes
    ----------
    tile : as in LayerPlan.
    rows : the algorithm of rows.
    column_points : of a tile that is no square.
    learned : scales that no formula gives.
    """

    tile: int | tuple[int, int] | None
    rows: BilinearAlgorithm
    column_points: tuple[str, ...] | None = None
    learned: LearnedScales | None = None


def plan_convolutions(module: ir.IRModule, config: WinogradConfig) -> Plan:
    """Plan every convolution of ``@main``, in order of execution.

    Raises
    ------
    ConfigError, AlgorithmError
        If an include or exclude pattern matches no convolution; or if no eligible layer has a
        kernel for which there is an algorithm with such a tile, points and scales.
    ArtefactError
        If scales cannot be read from their file.
    """
    if config.algorithm == "auto":
        raise ConfigError('algorithm "auto" needs measurements; plan with wqtvm.planning')
    layers = [
        _as_float(layer_name(binding.var), binding.value, config)
        for binding in bindings(module["main"])
        if operator_name(binding.value) in CONVOLUTION_OPS
    ]
    names = [layer.name for layer in layers]
    check_patterns(names, "include", config.include)
    check_patterns(names, "exclude", config.exclude)
    return Plan(plan_layers(layers, config), config.images, config.attention)


def plan_layers(layers: Sequence[LayerPlan], config: WinogradConfig) -> tuple[LayerPlan, ...]:
    """Give float layers that are eligible the algorithm that is configured.

    Raises
    ------
    ConfigError, AlgorithmError, ArtefactError
        As ``plan_convolutions``, but for the patterns.
    """
    if config.algorithm == "float":
        return tuple(layers)
    wanted = {layer.weight_shape[2] for layer in layers if _is_for(layer, config)}
    choices = _choices(sorted(wanted), config)
    return tuple(_planned(layer, choices, config) for layer in layers)


def _is_for(layer: LayerPlan, config: WinogradConfig) -> bool:
    """Whether the algorithm that is configured is for such a layer."""
    if layer.reason is not Reason.ELIGIBLE:
        return False
    return config.algorithm == "direct" or _beyond_fast(layer) is None


def _beyond_fast(layer: LayerPlan) -> tuple[Reason, str] | None:
    """Why an eligible layer can only be computed directly, or None if it has fast algorithms."""
    rows, columns = layer.weight_shape[2:]
    if rows not in KERNELS:
        return Reason.KERNEL_SIZE, f"{rows}x{columns}"
    if layer.stride != (1, 1):
        return Reason.STRIDE, f"{layer.stride[0]}x{layer.stride[1]}"
    return None


def _planned(
    layer: LayerPlan, choices: dict[int, _Choice | str], config: WinogradConfig
) -> LayerPlan:
    """A layer as it is configured."""
    if layer.reason is not Reason.ELIGIBLE:
        return layer
    if _is_for(layer, config):
        choice = choices[layer.weight_shape[2]]
        if not isinstance(choice, str):
            return _quantized(layer, choice, config)
        layer = replace(layer, reason=Reason.NO_ALGORITHM, detail=choice)
    else:
        beyond = _beyond_fast(layer)
        assert beyond is not None
        layer = replace(layer, reason=beyond[0], detail=beyond[1])
    return layer if config.others == "float" else _direct(layer, config)


def _choices(kernels: Sequence[int], config: WinogradConfig) -> dict[int, _Choice | str]:
    """What each size of kernel gets, or why it gets nothing; an error if none gets anything."""
    choices: dict[int, _Choice | str] = {}
    errors: list[AlgorithmError | ConfigError] = []
    for taps in kernels:
        try:
            choices[taps] = _choice(taps, config)
        except (AlgorithmError, ConfigError) as error:
            choices[taps] = str(error)
            errors.append(error)
    if errors and len(errors) == len(choices):
        raise errors[0]
    return choices


def _choice(taps: int, config: WinogradConfig) -> _Choice:
    tile = None if config.algorithm == "direct" else config.tile_of(taps)
    edges = tile if isinstance(tile, tuple) else (tile,)
    rows, *columns = (
        bilinear_algorithm(config.algorithm, edge, config.points, taps) for edge in edges
    )
    if config.scales in SCALE_RULES:
        learned = None
    elif columns:
        raise ConfigError(
            f"scales are {config.scales!r} and tile is {config.tile}; a tile that is no square "
            f"takes one of {', '.join(SCALE_RULES)}"
        )
    else:
        learned = learned_scales(config.scales, rows)
    return _Choice(tile, rows, columns[0].points if columns else None, learned)


def _direct(layer: LayerPlan, config: WinogradConfig) -> LayerPlan:
    """An eligible layer computed directly, where the algorithm that is configured is another."""
    scales = config.scales if config.scales in SCALE_RULES else "correlated"  # of no use in direct
    direct = replace(config, algorithm="direct", precision="hadamard", scales=scales)
    return _quantized(layer, _choice(layer.weight_shape[2], direct), direct)


def _quantized(layer: LayerPlan, choice: _Choice, config: WinogradConfig) -> LayerPlan:
    learned = choice.learned
    is_image = (
        config.algorithm == "direct"
        and config.precision != "bfloat16"
        and config.activation_steps == "image"
        and math.prod(layer.weight_shape[1:]) <= MOST_PRODUCTS
    )
    # Where nothing has a step, or an image one, groups and taps have none of their own.
    is_whole = is_image or config.precision == "bfloat16"
    scales = None if learned is None else learned.scales_for(choice.rows, layer.name)
    return replace(
        layer,
        algorithm=config.algorithm,
        tile=choice.tile,
        points=choice.rows.points or None,
        # Without a transform there are no stages besides the products.
        precision=(
            "hadamard" if config.precision == "full" and _beyond_fast(layer) else config.precision
        ),
        group_size=0 if is_whole else config.group_size,
        scales=config.scales,
        steps=config.steps,
        # One tap's step is that of its filter, and is applied in fewer operations so.
        weight_steps=("filter" if is_whole or layer.weight_shape[2] == 1 else config.weight_steps),
        activation_steps="image" if is_image else "pixel",
        s_b=scales.s_b if scales else None,
        s_g=scales.s_g if scales else None,
        column_points=choice.column_points,
    )


def _as_float(name: str, call: relax.Call, config: WinogradConfig) -> LayerPlan:
    """A layer before anything is chosen: float, and eligible or why it is not."""
    attrs = call.attrs
    kind = operator_name(call)
    if kind == "relax.nn.conv2d":
        shape = _permuted(shape_of(call.args[0]), str(attrs.data_layout), "NCHW")
        weight = _permuted(shape_of(call.args[1]), str(attrs.kernel_layout), "OIHW")
    else:
        shape, weight = _four(shape_of(call.args[0])), _four(shape_of(call.args[1]))
    padding = [int(edge) for edge in attrs.padding]
    half = len(padding) // 2
    refusal = _refusal(name, kind or "", call, weight, config)
    reason, detail = refusal or (Reason.ELIGIBLE, _request(config))
    return LayerPlan(
        name=name,
        input_shape=shape,
        weight_shape=weight,
        stride=_two(attrs.strides),
        padding=_two(padding[:half] if half else padding),
        dilation=_two(attrs.dilation),
        groups=int(attrs.groups),
        algorithm="float",
        tile=None,
        points=None,
        precision=None,
        group_size=None,
        scales=None,
        steps=None,
        weight_steps=None,
        reason=reason,
        detail=detail,
    )


def _request(config: WinogradConfig) -> str:
    return "as configured" if config.algorithm != "float" else "float as configured"


def _refusal(
    name: str, kind: str, call: relax.Call, weight: Sequence[int], config: WinogradConfig
) -> tuple[Reason, str] | None:
    """Why a convolution stays float: the first reason that holds, or None."""
    attrs = call.attrs
    if kind != "relax.nn.conv2d":
        return Reason.RANK, f"{kind.removeprefix('relax.nn.')} has no fast algorithm"
    strides, dilation = _two(attrs.strides), _two(attrs.dilation)
    padding = [int(edge) for edge in attrs.padding]
    dtypes = {str(argument.ty.dtype) for argument in call.args[:2]}
    checks = (
        (dtypes != {"float32"}, Reason.DTYPE, f"is {'/'.join(sorted(dtypes))}, float32 is needed"),
        (int(attrs.groups) != 1, Reason.GROUPS, f"{int(attrs.groups)} groups"),
        (
            weight[2] != weight[3] or weight[2] not in DIRECT_KERNELS,
            Reason.KERNEL_SIZE,
            f"{weight[2]}x{weight[3]}",
        ),
        (strides[0] != strides[1], Reason.STRIDE, f"{strides[0]}x{strides[1]}"),
        (dilation != (1, 1), Reason.DILATION, f"{dilation[0]}x{dilation[1]}"),
        (len(set(padding)) > 1, Reason.PADDING, f"{padding} differs between edges"),
        (
            not is_tensor_constant(call.args[1]),
            Reason.COMPUTED_WEIGHTS,
            "weights are computed at run time",
        ),
        (matches(name, config.exclude), Reason.EXCLUDED, "by configuration"),
        (not matches(name, config.include), Reason.NOT_INCLUDED, "by configuration"),
    )
    return next(((reason, detail) for refused, reason, detail in checks if refused), None)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a layer's name fits one of some shell patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(names: Sequence[str], option: str, patterns: Sequence[str]) -> None:
    """Refuse patterns of an option that fit no layer, ``*`` aside.

    Raises
    ------
    ConfigError
        If there is one: names all layers.
    """
    for pattern in patterns:
        if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"{option} pattern {pattern!r} matches no convolution; "
                f"there are: {', '.join(names) or 'none'}"
            )


def _permuted(shape: Sequence[int], layout: str, wanted: str) -> tuple[int, ...]:
    return tuple(shape[layout.index(axis)] for axis in wanted)


def _four(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape with its innermost axes joined, or ones appended, to have four."""
    if len(shape) > 4:
        return (*shape[:3], math.prod(shape[3:]))
    return (*shape, *(1,) * (4 - len(shape)))


def _two(values: Sequence[int]) -> tuple[int, int]:
    """First and last of one or more values: the rows' and the columns'."""
    return int(values[0]), int(values[-1])
