"""Exponentials and their kin written out as arithmetic, so that they vectorise.

LLVM has no vector exp, tanh or erf: it would take a vector apart and call the C library for each
lane. The errors relative to the exact value, of normal results: exp 1e-7, sigmoid 2e-7, tanh 3e-7,
erf 4e-7. Infinities give the limits and NaN gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, tirx

_LOG2_E = 1.4426950408889634
# ln 2 in two parts, the first of which has so few bits that a whole number times it is exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
# exp(r) = 1 + r + r**2 * polynomial, |r| <= ln(2) / 2 (Moshier's Cephes, expf).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
# Below the first exp is 0 in float32, above the second it is infinite.
_EXP_RANGE = (-104.0, 89.0)

# Rational minimax approximations x * p(x**2) / q(x**2) (those of Eigen), highest power first.
_TANH_P = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_TANH_LIMIT = 7.90531110763549805
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_ERF_LIMIT = 4.0


def expand_functions(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return the function with float32 exp, sigmoid, tanh and erf written out."""

    def expand(call: Any) -> Any:
        if not isinstance(call.op, ir.Op) or str(call.ty.dtype) != "float32":
            return call
        formula = _FORMULAS.get(str(call.op.name))
        return call if formula is None else formula(call.args[0])

    return function.with_body(tvm_ffi.structural_map(function.body, (ir.Call, expand)))


def _named(name: str, value: Any, then: Callable[[Any], Any]) -> Any:
    """Return ``then`` of the value, evaluated once."""
    variable = tirx.Var(name, value.ty.dtype)
    return tirx.Let(variable, value, then(variable))


def _float(value: float) -> Any:
    return tirx.const(value, "float32")


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    result = _float(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + _float(coefficient)
    return result


def _is_number(x: Any) -> Any:
    """Whether a float32 is no NaN, told by its bits: TVM takes ``x == x`` to be true."""
    magnitude = tirx.bitwise_and(tirx.reinterpret("int32", x), tirx.const(0x7FFFFFFF, "int32"))
    return magnitude <= tirx.const(0x7F800000, "int32")


def _exp(x: Any) -> Any:
    def power_of_two(exponent: Any) -> Any:
        bits = tirx.shift_left(exponent + tirx.const(127, "int32"), tirx.const(23, "int32"))
        return tirx.reinterpret("float32", bits)

    def scaled(n: Any, r: Any) -> Any:
        value = _horner(_EXP, r) * (r * r) + r + _float(1)

        def halves(whole: Any) -> Any:
            # In two steps, so that results next to overflow and underflow are right.
            half = tirx.shift_right(whole, tirx.const(1, "int32"))
            return value * power_of_two(half) * power_of_two(whole - half)

        return _named("whole", tirx.Cast("int32", n), halves)

    def reduced(limited: Any) -> Any:
        whole = tirx.nearbyint(limited * _float(_LOG2_E))
        return _named(
            "n",
            whole,
            lambda n: _named(
                "r",
                limited - n * _float(_LN2_HIGH) - n * _float(_LN2_LOW),
                lambda r: scaled(n, r),
            ),
        )

    def whole_range(x: Any) -> Any:
        low, high = _EXP_RANGE
        limited = tirx.max(tirx.min(x, _float(high)), _float(low))
        return tirx.Select(_is_number(x), _named("limited", limited, reduced), x)

    return _named("x", x, whole_range)


def _sigmoid(x: Any) -> Any:
    return _float(1) / (_float(1) + _exp(_float(0) - x))


def _rational(p: Sequence[float], q: Sequence[float], limit: float) -> Callable[[Any], Any]:
    def ratio(x: Any) -> Any:
        return _named("square", x * x, lambda s: x * _horner(p, s) / _horner(q, s))

    def formula(x: Any) -> Any:
        def whole_range(x: Any) -> Any:
            limited = tirx.max(tirx.min(x, _float(limit)), _float(-limit))
            return tirx.Select(_is_number(x), _named("limited", limited, ratio), x)

        return _named("x", x, whole_range)

    return formula


_FORMULAS: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": _exp,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _rational(_TANH_P, _TANH_Q, _TANH_LIMIT),
    "tirx.erf": _rational(_ERF_P, _ERF_Q, _ERF_LIMIT),
}
