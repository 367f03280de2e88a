from __future__ import annotations

import itertools
from typing import Any

import pytest
import tvm_ffi
from kernel_layers import make_layer
from tvm import sym, tirx

from wqtvm.schedules.cpu_generic.rewrite import substitute
from wqtvm.schedules.prefetch import loop_variables, realized


def branches(function: tirx.PrimFunc) -> list[tirx.IfThenElse]:
    """The branches with a tile's copy in them."""
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.IfThenElse, found.append))
    return [branch for branch in found if "tile" in names(branch)]


def names(statement: Any) -> list[str]:
    return [realize.block.name_hint for realize in realized(statement)]


def inside(branch: tirx.IfThenElse, function: tirx.PrimFunc) -> dict[tuple[int, ...], bool]:
    """By the values of the loops around a branch, whether it takes the image."""
    inner = {*loop_variables(branch)}
    loops: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.For, loops.append))
    loops = [
        loop for loop in loops
        if loop.loop_var not in inner and "tile" in names(loop) and int(loop.extent) > 1
    ]  # fmt: skip
    units = dict.fromkeys(
        (v for v in loop_variables(function.body) if v not in inner), tirx.const(0, "int64")
    )
    found = {}
    shape = tuple(int(loop.extent) for loop in loops)
    for index in itertools.product(*map(range, shape)):
        at = {loop.loop_var: tirx.const(i, "int64") for loop, i in zip(loops, index, strict=True)}
        value = sym.Analyzer().simplify(substitute(branch.condition, units | at))
        found[index] = bool(int(value))
    return found


@pytest.mark.parametrize("target", ["wq/x86-vnni", "wq/x86-avx2", "wq/arm-neon"])
def test_only_tiles_that_reach_beyond_the_image_are_copied(target: str) -> None:
    layer = make_layer(target, (1, 20, 16, 32), 32, tile=4, padding=1, threads=1)
    function = layer.scheduled()
    (branch,) = branches(function)
    assert names(branch.then_case) == ["input_rows"]
    assert names(branch.else_case) == ["tile", "input_rows"]
    taken = list(inside(branch, function).values())
    # Of 5 x 4 tiles of 6 x 6 pixels, from row and column -1 on, the inner 3 x 2.
    assert len(taken) == 20
    assert sum(taken) == 6


def test_channels_that_pad_a_group_are_not_read() -> None:
    layer = make_layer("wq/x86-vnni", (1, 12, 12, 33), 32, tile=4, padding=0, threads=1)
    function = layer.scheduled()
    (branch,) = branches(function)
    # Of two groups of 32, the second has one channel; of 3 x 3 tiles the last reach beyond.
    assert sum(inside(branch, function).values()) == 4


def test_precision_full_copies_its_tiles() -> None:
    layer = make_layer("wq/x86-vnni", (1, 12, 12, 32), 32, tile=2, precision="full", threads=1)
    assert branches(layer.scheduled()) == []
