"""How LegalizeOps lowers operators whose default would swallow a NaN.

``max(x, 0)``, as TVM compiles it, is 0 where x is NaN: what is broken before an activation would
come out as a plausible number. PyTorch keeps the NaN, and so do these.

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


LEGALIZATIONS = {"relax.nn.relu": _relu, "relax.clip": _clip}
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


def _number(bound: Any) -> float:
    return float(getattr(bound, "value", bound))
