"""What fields of a plan may hold, as JSON gives it back."""

from __future__ import annotations

import math
from typing import TypeGuard


def are_integers(values: object, least: int) -> bool:
    """Whether values is a tuple of int (bool is none) that are at least least."""
    return isinstance(values, tuple) and all(
        isinstance(value, int) and not isinstance(value, bool) and value >= least
        for value in values
    )


def are_positive(values: object) -> bool:
    """Whether values is a tuple of at least one positive, finite float."""
    return are_numbers(values) and all(x > 0 for x in values)


def are_numbers(values: object) -> TypeGuard[tuple[float, ...]]:
    """Whether values is a tuple of at least one finite float."""
    return (
        isinstance(values, tuple)
        and len(values) > 0
        and all(isinstance(x, float) and math.isfinite(x) for x in values)
    )


def are_texts(values: object) -> bool:
    """Whether values is a tuple of at least one str."""
    return (
        isinstance(values, tuple)
        and len(values) > 0
        and all(isinstance(value, str) for value in values)
    )
