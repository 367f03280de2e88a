from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wqtvm.planning.allocate import Option, allocate

OPTION = st.builds(Option, st.floats(0.1, 50, allow_nan=False), st.floats(0, 10, allow_nan=False))
LAYERS = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=4)


def cost(layers: list[list[Option]], chosen: list[int]) -> float:
    return sum(o[i].cost for o, i in zip(layers, chosen, strict=True))


def noise(layers: list[list[Option]], chosen: list[int]) -> float:
    return sum(o[i].noise for o, i in zip(layers, chosen, strict=True))


@given(LAYERS, st.floats(0, 30))
def test_the_budget_is_kept_where_that_can_be(layers: list[list[Option]], budget: float) -> None:
    chosen = allocate(layers, budget)
    least = sum(min(option.noise for option in options) for options in layers)
    assert noise(layers, chosen) <= max(budget, least) + 1e-9


@given(LAYERS, st.floats(0, 30))
def test_no_single_change_is_better(layers: list[list[Option]], budget: float) -> None:
    chosen = allocate(layers, budget)
    if noise(layers, chosen) > budget:
        return
    for layer, options in enumerate(layers):
        for index in range(len(options)):
            other = [*chosen]
            other[layer] = index
            kept = noise(layers, other) <= budget - 1e-9
            assert not kept or cost(layers, other) >= cost(layers, chosen) - 1e-9


@given(LAYERS, st.floats(0, 30))
def test_the_choice_is_near_the_best_of_all(layers: list[list[Option]], budget: float) -> None:
    everything = itertools.product(*(range(len(options)) for options in layers))
    kept = [list(c) for c in everything if noise(layers, list(c)) <= budget]
    if not kept:
        return
    best = min(cost(layers, c) for c in kept)
    # The relaxation loses at most the gap of one layer's options.
    gap = max(max(o.cost for o in options) - min(o.cost for o in options) for options in layers)
    assert cost(layers, allocate(layers, budget)) <= best + gap + 1e-9


def test_infinite_noise_is_never_chosen_while_there_is_another_choice() -> None:
    layers = [[Option(1, math.inf), Option(36, 0)], [Option(1, 0.1), Option(36, 0)]]
    assert allocate(layers, math.inf) == [1, 0]
    assert allocate(layers, 1.0) == [1, 0]


@pytest.mark.parametrize(("budget", "wanted"), [(10, [0, 0]), (2, [1, 0]), (0, [1, 1])])
def test_noise_goes_where_it_saves_most(budget: float, wanted: list[int]) -> None:
    layers = [[Option(1, 3.0), Option(2, 0.0)], [Option(1, 1.0), Option(9, 0.0)]]
    assert allocate(layers, budget) == wanted
