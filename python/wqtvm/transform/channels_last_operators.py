"""NHWC forms of operators that have a channel axis or a layout, for data that is NHWC already."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

_NHWC_AXIS = (0, 3, 1, 2)
"""Where axis i of NCHW is in NHWC."""


def _group_norm(call: relax.Call, data: relax.Expr, *rest: relax.Expr) -> relax.Expr:
    attrs = call.attrs
    return relax.op.nn.group_norm(
        data,
        *rest,
        num_groups=attrs.num_groups,
        channel_axis=_axis(attrs.channel_axis),
        axes=[_axis(axis) for axis in attrs.axes],
        epsilon=attrs.epsilon,
        center=attrs.center,
        scale=attrs.scale,
    )


def _instance_norm(call: relax.Call, data: relax.Expr, *rest: relax.Expr) -> relax.Expr:
    attrs = call.attrs
    return relax.op.nn.instance_norm(
        data,
        *rest,
        channel_axis=_axis(attrs.channel_axis),
        axes=[_axis(axis) for axis in attrs.axes],
        epsilon=attrs.epsilon,
        center=attrs.center,
        scale=attrs.scale,
    )


def _prelu(call: relax.Call, data: relax.Expr, slope: relax.Expr) -> relax.Expr:
    return relax.op.nn.prelu(data, slope, _axis(call.attrs.axis))


def _pad(call: relax.Call, data: relax.Expr) -> relax.Expr:
    widths = np.array([int(width) for width in call.attrs.pad_width]).reshape(4, 2)
    widths = widths[np.argsort(_NHWC_AXIS)]
    attrs = call.attrs
    return relax.op.nn.pad(data, widths.flatten().tolist(), attrs.pad_mode, attrs.pad_value)


def _resize2d(call: relax.Call, data: relax.Expr, size: relax.Expr) -> relax.Expr:
    attrs = call.attrs
    return relax.op.image.resize2d(
        data,
        size,
        roi=tuple(float(edge) for edge in attrs.roi),
        layout="NHWC",
        method=attrs.method,
        coordinate_transformation_mode=attrs.coordinate_transformation_mode,
        rounding_method=attrs.rounding_method,
        cubic_alpha=attrs.cubic_alpha,
        cubic_exclude=attrs.cubic_exclude,
        extrapolation_value=attrs.extrapolation_value,
        out_dtype=attrs.out_dtype,
    )


def _pool2d(operator: Callable[..., relax.Expr]) -> Callable[..., relax.Expr]:
    def rewrite(call: relax.Call, data: relax.Expr) -> relax.Expr:
        attrs = call.attrs
        return operator(
            data,
            attrs.pool_size,
            attrs.strides,
            attrs.padding,
            attrs.dilation,
            attrs.ceil_mode,
            attrs.count_include_pad,
            layout="NHWC",
        )

    return rewrite


def _adaptive_avg_pool2d(call: relax.Call, data: relax.Expr) -> relax.Expr:
    return relax.op.nn.adaptive_avg_pool2d(data, call.attrs.output_size, layout="NHWC")


def _axis(axis: int) -> int:
    return _NHWC_AXIS[int(axis) % 4]


CHANNELS_LAST: dict[str, Callable[..., relax.Expr]] = {
    "relax.image.resize2d": _resize2d,
    "relax.nn.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "relax.nn.avg_pool2d": _pool2d(relax.op.nn.avg_pool2d),
    "relax.nn.group_norm": _group_norm,
    "relax.nn.instance_norm": _instance_norm,
    "relax.nn.max_pool2d": _pool2d(relax.op.nn.max_pool2d),
    "relax.nn.pad": _pad,
    "relax.nn.prelu": _prelu,
}
"""Takes a call on NCHW data, the same data as NHWC, and the call's other arguments."""
