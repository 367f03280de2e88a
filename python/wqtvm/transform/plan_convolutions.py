"""Decide what is done with each convolution: from a module and a configuration to a plan.

Ordering: after `fold_batch_norm`, so that the plan sees the weights that will run; before
`lower_convolutions`, which carries the plan out. Layouts do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from tvm import ir, relax

from ..config import WinogradConfig
from ..errors import ConfigError
from ..fastconv import SCALE_RULES, ScaleSet, direct, sfc, winograd
from ..frontend.names import CONVOLUTION_OPS, bindings, layer_name, operator_name
from ..learning import resolve_scales
from ..quantization.plan import LayerPlan, Plan, Reason
from .constants import is_tensor_constant, shape_of

KERNEL = 3


def plan_convolutions(module: ir.IRModule, config: WinogradConfig) -> Plan:
    """Plan every convolution of ``@main``, in order of execution.

    Raises
    ------
    ConfigError
        If an include or exclude pattern matches no convolution, or the scales are not for the
        algorithm.
    ArtefactError
        If scales cannot be read from their file.
    """
    if config.algorithm == "auto":
        raise ConfigError('algorithm "auto" needs measurements; plan with wqtvm.planning')
    scales = _learned_scales(config)
    layers = [
        _plan_layer(layer_name(binding.var), binding.value, config, scales)
        for binding in bindings(module["main"])
        if operator_name(binding.value) in CONVOLUTION_OPS
    ]
    _check_patterns([layer.name for layer in layers], config)
    return Plan(tuple(layers))


def _learned_scales(config: WinogradConfig) -> ScaleSet | None:
    """The scales that no formula gives, None if one does."""
    if config.algorithm == "float" or config.scales in SCALE_RULES:
        return None
    if config.algorithm == "winograd":
        algorithm = winograd(config.tile, config.points)
    else:
        algorithm = sfc(config.tile) if config.algorithm == "sfc" else direct(KERNEL)
    return resolve_scales(config.scales, algorithm)


def _plan_layer(
    name: str, call: relax.Call, config: WinogradConfig, scales: ScaleSet | None
) -> LayerPlan:
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
    quantized = refusal is None and config.algorithm != "float"
    tiled = quantized and config.algorithm in ("winograd", "sfc")
    interpolated = quantized and config.algorithm == "winograd"
    reason, detail = refusal or (Reason.ELIGIBLE, _request(config))
    return LayerPlan(
        name=name,
        input_shape=shape,
        weight_shape=weight,
        stride=_two(attrs.strides),
        padding=_two(padding[:half] if half else padding),
        dilation=_two(attrs.dilation),
        groups=int(attrs.groups),
        algorithm=config.algorithm if quantized else "float",
        tile=config.tile if tiled else None,
        points=winograd(config.tile, config.points).points if interpolated else None,
        precision=config.precision if quantized else None,
        group_size=config.group_size if quantized else None,
        scales=config.scales if quantized else None,
        steps=config.steps if quantized else None,
        weight_steps=config.weight_steps if quantized else None,
        reason=reason,
        detail=detail,
        s_b=scales.s_b if quantized and scales else None,
        s_g=scales.s_g if quantized and scales else None,
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
        (tuple(weight[2:]) != (KERNEL, KERNEL), Reason.KERNEL_SIZE, f"{weight[2]}x{weight[3]}"),
        (strides != (1, 1), Reason.STRIDE, f"{strides[0]}x{strides[1]}"),
        (dilation != (1, 1), Reason.DILATION, f"{dilation[0]}x{dilation[1]}"),
        (len(set(padding)) > 1, Reason.PADDING, f"{padding} differs between edges"),
        (
            not is_tensor_constant(call.args[1]),
            Reason.COMPUTED_WEIGHTS,
            "weights are computed at run time",
        ),
        (_matches(name, config.exclude), Reason.EXCLUDED, "by configuration"),
        (not _matches(name, config.include), Reason.NOT_INCLUDED, "by configuration"),
    )
    return next(((reason, detail) for refused, reason, detail in checks if refused), None)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(names: Sequence[str], config: WinogradConfig) -> None:
    for option, patterns in (("include", config.include), ("exclude", config.exclude)):
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
