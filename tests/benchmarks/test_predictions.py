"""Predictions against measurements: what is read, and the arithmetic of the comparison."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmark_peaks import PEAKS
from benchmarks.layers.layers import LAYERS
from benchmarks.layers.peers import Setting, competitor
from benchmarks.layers.peers.wqtvm_layers import CONFIGS
from benchmarks.layers.race import Contest, Row
from benchmarks.layers.results import Record, machine_name
from benchmarks.predictions import (
    Sample,
    choices,
    fit,
    planned,
    rank_correlation,
    read,
    summary,
    table,
)

from wqtvm.planning.cost import FITTED, Work, work_of
from wqtvm.target import lookup

VNNI = lookup("wq/x86-vnni")
ONE = Setting(1, clock="cpu")
NAMES = ("wqtvm direct", "wqtvm F(4,3)", "wqtvm float32")


def samples(factor: float = 1.0) -> list[Sample]:
    """Of two layers, measured as predicted, times a factor."""
    works = [
        (layer, name, work_of(planned(layer, CONFIGS[name]), VNNI, 1))
        for layer in (LAYERS[2], LAYERS[3])
        for name in NAMES
    ]
    return [Sample(a, name, w, factor * w.time(VNNI.machine).ms) for a, name, w in works]


def times(found: list[Sample]) -> list[float]:
    return [sample.work.time(VNNI.machine).ms for sample in found]


def test_every_variant_of_the_race_has_a_plan() -> None:
    for name, config in CONFIGS.items():
        layer = planned(LAYERS[0], config)
        assert layer.algorithm == config.algorithm
        assert layer.weight_shape == (64, 64, 3, 3)
        assert name in [variant.name for variant in competitor("wqtvm").variants]


def test_the_last_contest_of_this_machine_and_setting_counts(tmp_path: Path) -> None:
    def line(ms: float, machine: str, setting: Setting) -> str:
        contest = Contest([Row(NAMES[0], ms, ms, [ms], 40.0, None, "0")])
        record = Record(LAYERS[0], setting, PEAKS, contest, machine, "code")
        return json.dumps(asdict(record))

    path = tmp_path / "layers.jsonl"
    here = machine_name()
    lines = [
        line(1, here, ONE),
        line(2, here, ONE),
        line(3, "other", ONE),
        line(4, here, Setting(2)),
    ]
    path.write_text("\n".join(lines))
    (record,) = read(path, ONE)
    assert record.contest.rows[0].ms == 2


def test_a_perfect_prediction_and_one_that_picks_the_wrong_one() -> None:
    found = samples()
    text = "\n".join(summary(found, times(found)))
    assert "geometric mean 1.00, about which they spread by a factor of 1.00" in text
    assert "1.000 over all, 1.000 within layers" in text
    assert "in 2 of 2 layers; lost are 0.0 % on average and 0 % at most" in text
    reversed_times = [1 / ms for ms in times(found)]
    assert any(choice.lost > 1 for choice in choices(found, reversed_times).values())
    assert "-1.000 the least" in summary(found, reversed_times)[1]
    lines = table(found, times(found))
    assert len(lines) == 4
    assert "(1.00)" in lines[2]


def test_ranks() -> None:
    assert rank_correlation([1, 2, 3, 9], [10, 20, 30, 31]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_the_fit_finds_constants_that_times_were_made_of() -> None:
    # A single number of everything is what these samples tell most clearly.
    slower = samples(2.0)
    fitted = fit(slower, VNNI.machine)
    errors = [s.work.time(VNNI.machine, fitted).ms / s.measured for s in slower]
    assert all(math.isclose(error, 1, rel_tol=0.1) for error in errors)
    same = fit(samples(), VNNI.machine)
    assert asdict(same) == pytest.approx(asdict(FITTED), rel=1e-3)


def test_work_is_a_value() -> None:
    assert {s.work for s in samples()} == {s.work for s in samples()}
    assert all(isinstance(s.work, Work) for s in samples())
