"""Refuse what nothing lowers, by name: TVM would stop later, at the virtual machine, without one.

Ordering: right after LegalizeOps.
"""

from __future__ import annotations

from tvm import ir, relax
from tvm.relax.transform import function_pass

from ..errors import UnsupportedOperatorError
from ..frontend.names import bindings, layer_name, operator_name

_LOW_LEVEL = ("relax.call_", "relax.builtin.", "relax.memory.", "relax.vm.", "relax.shape_of")


@function_pass(opt_level=0, name="CheckLowered")
def check_lowered(
    function: relax.Function, module: ir.IRModule, context: ir.transform.PassContext
) -> relax.Function:
    """Leave the function as it is.

    Raises
    ------
    UnsupportedOperatorError
        An operator is left that has no lowering.
    """
    for binding in bindings(function):
        name = operator_name(binding.value)
        if name is not None and not name.startswith(_LOW_LEVEL):
            raise UnsupportedOperatorError(
                f"{layer_name(binding.var)}: operator {name.removeprefix('relax.')} has no "
                "lowering for this target; leave it out of the compiled network"
            )
    return function
