"""Exponentials and their kin written out as arithmetic, so that they vectorise.

LLVM has no vector exp, tanh or erf: it would take a vector apart and call the C library for each
lane. The errors relative to the exact value, of normal results: exp 1e-7, sigmoid 2e-7, tanh 3e-7,
erf 4e-7. Infinities give the limits and NaN gives NaN. exp is 0 where it would be below 1.7e-38,
half a power of two above the smallest normal number: subnormal numbers are slow on most CPUs.

These functions are bound by arithmetic, not by memory, so operations count: exp of a vector takes
14 with fused multiply-adds, which is why bits say 2**n, and comparisons, not tests, keep NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import ir, tirx

_LOG2_E = 1.4426950408889634
# ln 2 in two parts, the first of which has so few bits that a whole number times it is exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
# exp(r) with 6e-8 relative to it, |r| <= ln(2) / 2: minimax where the last two are exact.
_EXP = (1.38145988e-3, 8.36871658e-3, 4.16683890e-2, 1.66665211e-1, 4.99999940e-1, 1.0, 1.0)
# What has this added has a whole number in its low bits, rounded to nearest, and 126 on top of it.
_ROUND = 1.5 * 2**23 + 126
# At the first exp is 0 in float32, at the second infinite; between, n + 126 has 8 bits.
_EXP_RANGE = (-87.3, 88.8)

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

    quotients = tvm_ffi.structural_map(function.body, (tirx.Mul, _product_with_sigmoid))
    return function.with_body(tvm_ffi.structural_map(quotients, (ir.Call, expand)))


def _product_with_sigmoid(product: Any) -> Any:
    """Return a * sigmoid(x) as a quotient, which is one operation less: SiLU is one of these."""
    for value, other in ((product.a, product.b), (product.b, product.a)):
        is_call = isinstance(other, ir.Call) and isinstance(other.op, ir.Op)
        if is_call and other.op.name == "tirx.sigmoid" and str(other.ty.dtype) == "float32":
            return value / _exp_and_one(other.args[0])
    return product


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


def _clamped(x: Any, low: float, high: float) -> Any:
    """Return x within bounds, NaN where x is NaN: a comparison with it is false."""
    above = tirx.Select(x < _float(low), _float(low), x)
    return _named("above", above, lambda v: tirx.Select(v > _float(high), _float(high), v))


def _exp(x: Any) -> Any:
    return _exp_of(x, 1)


def _exp_of(x: Any, sign: int) -> Any:
    """Return exp(x), or exp(-x) for a sign of -1."""
    low, high = sorted(sign * bound for bound in _EXP_RANGE)

    def reduced(x: Any) -> Any:
        return _named("shifted", x * _float(sign * _LOG2_E) + _float(_ROUND), parts(x))

    def parts(x: Any) -> Callable[[Any], Any]:
        def at(shifted: Any) -> Any:
            return _named("n", shifted - _float(_ROUND), lambda n: remainder(n, shifted))

        def remainder(n: Any, shifted: Any) -> Any:
            r = x - n * _float(sign * _LN2_HIGH) - n * _float(sign * _LN2_LOW)
            return _named("r", r, lambda r: scaled(r, shifted))

        return at

    def scaled(r: Any, shifted: Any) -> Any:
        # 2**(n - 1), whose exponent has the bits of n + 126; that is 0 for the smallest n.
        bits = tirx.shift_left(tirx.reinterpret("int32", shifted), tirx.const(23, "int32"))
        powers = range(len(_EXP) - 1, -1, -1)
        twice = [2 * c * sign**power for c, power in zip(_EXP, powers, strict=True)]
        return _horner(twice, r) * tirx.reinterpret("float32", bits)

    return _named("x", x, lambda x: _named("limited", _clamped(x, low, high), reduced))


def _sigmoid(x: Any) -> Any:
    return _float(1) / _exp_and_one(x)


def _exp_and_one(x: Any) -> Any:
    return _exp_of(x, -1) + _float(1)


def _rational(p: Sequence[float], q: Sequence[float], limit: float) -> Callable[[Any], Any]:
    def ratio(x: Any) -> Any:
        return _named("square", x * x, lambda s: x * _horner(p, s) / _horner(q, s))

    def formula(x: Any) -> Any:
        return _named("x", x, lambda x: _named("limited", _clamped(x, -limit, limit), ratio))

    return formula


_FORMULAS: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": _exp,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _rational(_TANH_P, _TANH_Q, _TANH_LIMIT),
    "tirx.erf": _rational(_ERF_P, _ERF_Q, _ERF_LIMIT),
}
