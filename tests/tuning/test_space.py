"""Every point of a schedule's space is the same convolution, to the bit."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_layers import X86, make_layer
from tuning_layers import task

from wqtvm.quantization import Scheme
from wqtvm.schedules.kernels import kernels_of
from wqtvm.schedules.space import Space
from wqtvm.target import TABLE, TargetRecord, lookup
from wqtvm.tuning.search import Move

CPUS = [record for record in TABLE if record.architecture != "cuda"]
WORKLOADS = {
    "F(4,3)": {"tile": 4, "shape": (1, 18, 27, 33), "out_channels": 96},
    "F(2,3) batch 3": {"tile": 2, "shape": (3, 7, 9, 64), "out_channels": 64},
    "F(4,3) full": {"tile": 4, "shape": (1, 13, 17, 64), "out_channels": 80, "precision": "full"},
    "SFC-6": {"tile": 6, "family": "sfc", "shape": (1, 14, 25, 32), "out_channels": 64},
    "direct": {"tile": 1, "shape": (1, 14, 19, 40), "out_channels": 100},
    "direct whole": {
        "tile": 1, "shape": (1, 9, 14, 256), "out_channels": 64, "group_size": 0,
        "weight_steps": "filter",
    },
    "direct image": {
        "tile": 1, "shape": (1, 14, 19, 70), "out_channels": 100, "activation_steps": "image",
    },
    "direct stride 2": {"tile": 1, "shape": (2, 15, 16, 17), "out_channels": 33, "stride": 2},
}  # fmt: skip


def check_points(target: str, name: str, count: int) -> None:
    options = WORKLOADS[name]
    default = make_layer(target, **options)  # type: ignore[arg-type]
    expected = default.reference().output.view(np.int32)
    space = kernels_of(lookup(target)).space(default.work, 2)
    rng = random.Random(name)
    points = rng.sample(space.points[1:], min(count, len(space.points) - 1))
    for point in [space.default, *points]:
        found = make_layer(target, **options, point=point).run()["output"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.view(np.int32), expected, str(point))


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("name", WORKLOADS)
def test_random_points_are_exact(target: str, name: str) -> None:
    check_points(target, name, 5)


@pytest.mark.slow
@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("name", WORKLOADS)
def test_fifty_random_points_are_exact(target: str, name: str) -> None:
    check_points(target, name, 50)


@pytest.mark.parametrize("record", CPUS, ids=lambda record: record.name)
@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
@pytest.mark.parametrize("threads", [1, 2, 16])
def test_the_default_is_a_point(record: TargetRecord, algorithm: str, threads: int) -> None:
    tile = 4 if algorithm == "winograd" else None
    layer = task(threads, record.name, algorithm=algorithm, tile=tile)
    space = layer.space
    assert space.contains(space.default)
    assert space.points[0] == space.default
    assert len(space.points) > 3
    # What the schedule does by itself, and what the default point asks for, is the same kernel.
    asked, own = layer.divided(space.default), kernels_of(record).divided(layer.work, threads)
    assert asked.block == own.block
    assert asked.packed_shape == own.packed_shape


@given(data=st.data())
def test_moves_change_one_knob(data: st.DataObject) -> None:
    space = SPACES[data.draw(st.sampled_from(sorted(SPACES)))]
    move = Move(space, data.draw(st.integers(0, 1000)))
    number = data.draw(st.integers(0, len(space.points) - 1))
    moved = move.moved(number)
    assert moved is not None
    before, after = space.points[number], space.points[moved]
    assert sum(before[name] != after[name] for name in space.knobs) == 1


SPACES = {
    "winograd": task().space,
    "direct": task(algorithm="direct", tile=None).space,
}


def test_points_are_distinct_and_of_the_knobs() -> None:
    for space in SPACES.values():
        assert len({tuple(point.items()) for point in space.points}) == len(space.points)
        assert math.prod(map(len, space.knobs.values())) >= len(space.points)
        assert all(space.contains(point) for point in space.points)


def test_what_is_no_point() -> None:
    space: Space = SPACES["winograd"]
    assert not space.contains({})
    assert not space.contains({**space.default, "registers": (31, 7)})
    assert not space.contains({**space.default, "colour": 1})


def test_a_space_of_one_point() -> None:
    cuda = next(record for record in TABLE if record.architecture == "cuda")
    work = make_layer(cuda.name, (1, 8, 8, 4), 4).work
    assert kernels_of(cuda).space(work, 1).points == ({},)


def test_schemes_are_told_apart() -> None:
    assert isinstance(task().work.scheme, Scheme)
    keys = {
        task().key, task(precision="full").key, task(group_size=64).key, task(1).key,
        task(tile=2).key, task(algorithm="sfc").key, task(algorithm="direct", tile=None).key,
        task(batch=2).key, task(size=(14, 11)).key, task(channels=(48, 32)).key,
    }  # fmt: skip
    assert len(keys) == 10
