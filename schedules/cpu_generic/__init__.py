"""Schedules for everything in a network that stays float, on any CPU.

``RULES`` is the one table of them, in the order in which they are tried. Each rule takes a
function as it comes out of Relax's operator fusion, with its elementwise stages inlined, and
returns it scheduled, or None if it is not of the rule's kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm.target
from tvm import tirx

from wqtvm.errors import UnscheduledOperatorError

from ..expand import expand_functions
from . import contraction, rows, stages
from .hoist import hoist_expressions
from .inline import inline_stages
from .machine import Machine, machine_of
from .pairwise import add_pairwise
from .segments import cut_segments

__all__ = ["RULES", "Machine", "Rule", "Scheduled", "machine_of", "schedule_function"]

Apply = Callable[[tirx.PrimFunc, tvm.target.Target, str], tirx.PrimFunc | None]


@dataclass(frozen=True)
class Rule:
    """A schedule and its name."""

    name: str
    apply: Apply


@dataclass(frozen=True)
class Scheduled:
    """A scheduled function, the rule that did it, and why better rules did not."""

    function: tirx.PrimFunc
    rule: str
    problems: tuple[str, ...]


RULES: tuple[Rule, ...] = (
    Rule("contraction", contraction.apply),
    Rule("rows", rows.apply),
    Rule("stages", stages.apply),
)


def schedule_function(function: tirx.PrimFunc, target: tvm.target.Target, name: str) -> Scheduled:
    """Schedule a function by the first rule that fits.

    Raises
    ------
    UnscheduledOperatorError
        If none does; the message says why for each rule.
    """
    problems: list[str] = []
    prepared = function
    try:
        prepared = hoist_expressions(inline_stages(function).mod["main"])
    except Exception as error:
        problems.append(f"inlining: {_first_line(error)}")
    for rule in RULES:
        try:
            scheduled = rule.apply(prepared, target, name)
        # Whatever goes wrong, in our analysis or in TVM's primitives: a function runs without a
        # schedule, too, and what is wrong is reported.
        except Exception as error:
            problems.append(f"{rule.name}: {_first_line(error)}")
            continue
        if scheduled is not None:
            finished = expand_functions(add_pairwise(cut_segments(scheduled)))
            return Scheduled(finished, rule.name, tuple(problems))
    raise UnscheduledOperatorError(f"{name} has no schedule for a CPU ({'; '.join(problems)})")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line for line in lines if line.startswith("Error message:")), lines[0])
