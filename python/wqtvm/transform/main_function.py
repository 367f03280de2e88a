"""A module with another ``@main``."""

from __future__ import annotations

from tvm import ir, relax


def with_main(module: ir.IRModule, main: relax.Function) -> ir.IRModule:
    """Return a copy of the module with this ``@main``; the module stays as it is."""
    result = ir.IRModule(dict(module.functions.items()), attrs=module.attrs)
    result.update_func(module.get_global_var("main"), main)
    return result
