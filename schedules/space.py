"""What may be chosen about how a layer is computed: knobs, and the values that each may have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

Value = int | tuple[int, int]
Point = Mapping[str, Value]
"""A value for each knob."""


@dataclass(frozen=True)
class Space:
    """The points that a schedule can be: all that are valid of the product of the knobs' values.

    Attributes
    ----------
    knobs : values by name, in an order in which neighbours are alike.
    default : the point that the schedule chooses by itself.
    is_valid : whether values go together; of points that would be computed alike only one is valid.
    """

    knobs: Mapping[str, tuple[Value, ...]]
    default: Point
    is_valid: Callable[[Point], bool]

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """All points, the default one first."""
        every = (
            dict(zip(self.knobs, values, strict=True))
            for values in itertools.product(*self.knobs.values())
        )
        valid = [point for point in every if point != self.default and self.is_valid(point)]
        return (self.default, *valid)

    def contains(self, point: Point) -> bool:
        """Whether a point has a value of each knob, and is valid."""
        return (
            point.keys() == self.knobs.keys()
            and all(value in self.knobs[name] for name, value in point.items())
            and self.is_valid(point)
        )


def with_default(values: Iterable[Value], default: Value) -> tuple[Value, ...]:
    """The values of a knob, ascending, the default among them."""
    found: set[Value] = {*values, default}
    return tuple(sorted(found, key=lambda value: value if isinstance(value, tuple) else (value,)))


def divisions(size: int) -> list[int]:
    """Sizes of blocks that cut a size into equal parts, or nearly so."""
    return sorted({math.ceil(size / parts) for parts in range(1, size + 1)})
