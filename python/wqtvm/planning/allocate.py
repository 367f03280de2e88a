"""Choose one option for each layer: the least cost whose noise keeps a budget.

Noise of different layers is taken to add up, as that of independent roundings does. Then the
problem is that of bit allocation (Shoham and Gersho, "Efficient bit allocation for an arbitrary
set of quantizers", IEEE Trans. ASSP 1988): for a price of noise each layer chooses by itself, and
the price is found by bisection. What is left of the budget is spent greedily.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_BISECTIONS = 100


@dataclass(frozen=True)
class Option:
    """One way to compute a layer: its cost, and the noise that it adds to the output's energy."""

    cost: float
    noise: float


def allocate(layers: Sequence[Sequence[Option]], budget: float) -> list[int]:
    """Return the index of the option of each layer.

    Parameters
    ----------
    layers : of each layer its options, at least one.
    budget : of the sum of noise. If no choice keeps it, the least noise is chosen everywhere. An
        option of infinite noise is chosen only where a layer has no other.
    """
    quietest = [min(range(len(o)), key=lambda i: (o[i].noise, o[i].cost)) for o in layers]
    if _noise(layers, quietest) > budget:
        return quietest
    free = _choose(layers, 0.0)
    if _noise(layers, free) <= budget:
        return free
    # The price grows until the budget is kept; the least noise is the limit of that.
    low, high = 0.0, 1.0
    best = quietest
    while _noise(layers, _choose(layers, high)) > budget and high < 1e300:
        low, high = high, high * 16
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2 if low else high / 2
        chosen = _choose(layers, middle)
        if _noise(layers, chosen) <= budget:
            high, best = middle, chosen
        else:
            low = middle
    return _spend(layers, best, budget)


def _choose(layers: Sequence[Sequence[Option]], price: float) -> list[int]:
    """The cheapest option of each layer when noise has a price; of equals the least noise."""
    return [min(range(len(o)), key=lambda i: (_priced(o[i], price), o[i].noise)) for o in layers]


def _priced(option: Option, price: float) -> float:
    # Infinite noise stands for what is not allowed, at any price.
    return option.cost + price * option.noise if math.isfinite(option.noise) else math.inf


def _noise(layers: Sequence[Sequence[Option]], chosen: Sequence[int]) -> float:
    return sum(options[i].noise for options, i in zip(layers, chosen, strict=True))


def _spend(layers: Sequence[Sequence[Option]], chosen: list[int], budget: float) -> list[int]:
    """Take the change that saves most and still keeps the budget, until there is none."""
    chosen = list(chosen)
    while True:
        left = budget - _noise(layers, chosen)
        changes = [
            (options[chosen[k]].cost - option.cost, -k, -i)
            for k, options in enumerate(layers)
            for i, option in enumerate(options)
            if option.cost < options[chosen[k]].cost
            and option.noise - options[chosen[k]].noise <= left
            and math.isfinite(option.noise)
        ]
        if not changes:
            return chosen
        _, layer, option = max(changes)
        chosen[-layer] = -option
