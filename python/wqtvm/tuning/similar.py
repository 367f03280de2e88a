"""What won on layers like one: candidates that are worth a run before any search.

A layer of a new network is mostly one that has been tuned in another size. So the points of the
winners nearest to it, moved to the nearest points of its own space, are run first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from ..schedules.space import Point, Space, Value
from ..schedules.tuned import Winner
from .task import Task

# Other fields of a layer's key say what is computed, and are the same of layers that are alike.
_SIZES = ("threads", "batch", "size", "channels")
_STEPS = ("group", "steps", "weight_steps", "points", "padding", "images")
_OTHER_STEPS = 2.0  # distance, in doublings of a size


def similar_points(task: Task, winners: Iterable[Winner], count: int) -> list[Point]:
    """Up to so many points of a layer's space, the nearest winner's first, none the default one."""
    wanted = json.loads(task.key)
    ranked = []
    for winner in winners:
        distance = _layer_distance(wanted, json.loads(winner.key))
        if distance is not None and winner.point.keys() == task.space.knobs.keys():
            ranked.append((distance, winner.key, winner.point))
    found: list[Point] = []
    for _, _, point in sorted(ranked, key=lambda each: each[:2]):
        if len(found) == count:
            break
        moved = nearest_point(task.space, point)
        if moved != task.space.default and moved not in found:
            found.append(moved)
    return found


def nearest_point(space: Space, point: Point) -> Point:
    """The point of a space whose values are nearest to given ones, by their ratios."""
    return min(
        space.points,
        key=lambda each: sum(_value_distance(each[name], point[name]) for name in space.knobs),
    )


def _layer_distance(a: dict[str, Any], b: dict[str, Any]) -> float | None:
    """How many doublings lie between the sizes of two layers; None if they compute another way."""
    apart = {*_SIZES, *_STEPS}
    if any(a.get(name) != b.get(name) for name in {*a, *b} - apart):
        return None
    steps = len([name for name in _STEPS if a.get(name) != b.get(name)])
    sizes = math.fsum(_value_distance(_value(a[name]), _value(b[name])) for name in _SIZES)
    return steps * _OTHER_STEPS + sizes


def _value(field: Any) -> Value:
    return (int(field[0]), int(field[1])) if isinstance(field, list) else int(field)


def _value_distance(a: Value, b: Value) -> float:
    pairs = zip(_numbers(a), _numbers(b), strict=True)
    return math.fsum(abs(math.log2((x + 1) / (y + 1))) for x, y in pairs)


def _numbers(value: Value) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
