"""How LegalizeOps lowers operators for which TVM's default will not do.

``max(x, 0)``, as TVM compiles it, is 0 where x is NaN: what is broken before an activation would
come out as a plausible number. PyTorch keeps the NaN, and so do these. A softmax divides once a
row, and multiplies each element.

Ordering: the argument of LegalizeOps.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, te, tirx


def _relu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return builder.call_te(_clamp, call.args[0], 0.0, math.inf, primfunc_name_hint="relu")


def _clip(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, low, high = call.args
    bounds = (_number(low), _number(high))
    return builder.call_te(_clamp, x, *bounds, primfunc_name_hint="clip")


def _softmax(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    axis = int(call.attrs.axis) % len(call.args[0].ty.shape)
    return builder.call_te(_scaled_exponentials, call.args[0], axis, primfunc_name_hint="softmax")


LEGALIZATIONS = {
    "relax.nn.relu": _relu,
    "relax.clip": _clip,
    "relax.nn.softmax": _softmax,
}
"""For ``LegalizeOps(customize_legalize_map=...)``."""


def _clamp(x: te.Tensor, low: float, high: float) -> te.Tensor:
    """Return min(max(x, low), high), NaN where x is NaN: a comparison with it is false."""

    def element(*indices: Any) -> Any:
        value = x[indices]
        for bound, compare in ((low, tirx.LT), (high, tirx.GT)):
            if math.isfinite(bound):
                limit = tirx.const(bound, x.dtype)
                value = tirx.Select(compare(value, limit), limit, value)
        return value

    return te.compute(x.shape, element, name="clamp")


def _scaled_exponentials(x: te.Tensor, axis: int) -> te.Tensor:
    """Return exp(x - max) / sum of it along an axis.

    The sum is at least 1 and at most the extent of the axis, so that its reciprocal is a normal
    number; the product with it has one rounding more than a quotient.
    """
    rows = [extent for i, extent in enumerate(x.shape) if i != axis]

    def along(tensor: te.Tensor, reduce: Any, name: str) -> te.Tensor:
        place = te.reduce_axis((0, x.shape[axis]), name=f"{name}_place")

        def row(*indices: Any) -> Any:
            return reduce(tensor[(*indices[:axis], place, *indices[axis:])], axis=place)

        return te.compute(rows, row, name=name)

    def row_of(indices: Any) -> Any:
        return tuple(index for i, index in enumerate(indices) if i != axis)

    most = along(x, te.max, "most")
    powers = te.compute(x.shape, lambda *i: te.exp(x[i] - most[row_of(i)]), name="powers")
    total = along(powers, te.sum, "total")
    inverse = te.compute(rows, lambda *i: tirx.const(1, x.dtype) / total[i], name="inverse")
    return te.compute(x.shape, lambda *i: powers[i] * inverse[row_of(i)], name="softmax")


def _number(bound: Any) -> float:
    return float(getattr(bound, "value", bound))
