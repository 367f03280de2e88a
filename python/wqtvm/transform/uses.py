"""Who uses which variable, and which function."""

from __future__ import annotations

from collections import Counter

from tvm import ir, relax

from ..frontend.names import bindings, operator_name


def count_uses(function: relax.Function) -> Counter[relax.Var]:
    """Count the bindings that use each variable; the function's result is one more use."""
    uses: Counter[relax.Var] = Counter()
    for expr in [*(binding.value for binding in bindings(function)), function.body.body]:
        found: list[relax.Var] = []
        relax.analysis.post_order_visit(
            expr,
            lambda part, found=found: found.append(part) if isinstance(part, relax.Var) else None,
        )
        uses.update(found)
    return uses


def count_parts(function: relax.Function) -> Counter[relax.Var]:
    """Count the bindings that take one element of each tuple."""
    return Counter(
        binding.value.tuple_value
        for binding in bindings(function)
        if isinstance(binding.value, relax.TupleGetItem)
    )


def tir_call(value: relax.Expr) -> tuple[ir.GlobalVar, list[relax.Expr]] | None:
    """Return function and arguments of a ``call_tir``; None of other values."""
    if operator_name(value) != "relax.call_tir":
        return None
    arguments = value.args[1]
    return value.args[0], list(arguments) if isinstance(arguments, relax.Tuple) else [arguments]
