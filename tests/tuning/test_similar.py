"""What won on layers like one is run before the search."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuning_layers import layer, task

import wqtvm
from wqtvm.quantization.plan import Plan
from wqtvm.schedules.space import Point
from wqtvm.schedules.tuned import Winner, records_of
from wqtvm.tuning.similar import nearest_point, similar_points


def winner(key: str, point: Point, **fields: Any) -> Winner:
    """A record of a layer whose key differs in some fields."""
    return Winner(json.dumps({**json.loads(key), **fields}), point, 1.0, 2.0)


def test_the_nearest_layers_come_first_and_their_points_are_moved_into_the_space() -> None:
    one = task()
    points = [point for point in one.space.points if point != one.space.default]
    near = winner(one.key, points[0], size=[20, 20])
    far = winner(one.key, points[1], size=[200, 200])
    other = winner(one.key, points[2], algorithm="F(6,3)")
    found = similar_points(one, [far, other, near], 3)
    assert found == [points[0], points[1]]
    assert similar_points(one, [far, other, near], 1) == [points[0]]
    outside = {**points[0], "block": (1000, 1000)}
    (moved,) = similar_points(one, [replace(near, point=outside)], 3) or [one.space.default]
    assert one.space.contains(moved) or moved == one.space.default


def test_points_of_the_space_are_nearest_to_themselves() -> None:
    space = task().space
    for point in space.points[:20]:
        assert nearest_point(space, point) == point


def test_points_with_other_knobs_and_the_default_one_are_left_out() -> None:
    one = task()
    assert similar_points(one, [winner(one.key, {"block": (1, 1)})], 3) == []
    assert similar_points(one, [winner(one.key, one.space.default)], 3) == []


def test_a_session_runs_them_first(tmp_path: Path) -> None:
    one = task(threads=1)
    points = [point for point in one.space.points if point != one.space.default]
    path = tmp_path / "records.jsonl"
    entry = {"kind": "winner", "key": json.loads(one.key) | {"size": [24, 24]},
             "point": dict(points[-1]), "ms": 1.0, "default_ms": 1.0}  # fmt: skip
    path.write_text(json.dumps(entry) + "\n")
    database = tmp_path / "db.jsonl"
    wqtvm.tune(Plan((layer(),)), database=database, trials=1, threads=1, records=str(path))
    trials = [e for e in map(json.loads, database.read_text().splitlines()) if e["kind"] == "trial"]
    assert len(trials) == 2  # the default one, too
    assert tuple(trials[1]["point"]["block"]) == points[-1]["block"]


@pytest.mark.parametrize("records", ["none", "shipped"])
def test_records_are_found_by_name(records: str) -> None:
    assert (len(records_of(task().record, records)) == 0) == (records == "none")
