"""Sessions on small layers: what they find, what they keep, and what stops them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tuning_layers import layer, small_plan, task

import wqtvm
from wqtvm.errors import ConfigError, TuningError
from wqtvm.quantization.plan import Plan
from wqtvm.schedules.tuned import records_of, winners_of
from wqtvm.target import lookup, usable_cpus
from wqtvm.topi.layer import workload_of
from wqtvm.tuning import session, workers
from wqtvm.tuning.journal import Journal
from wqtvm.tuning.measure import Bench
from wqtvm.tuning.session import Standing
from wqtvm.tuning.task import Task


def test_a_session_and_another_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    seen: list[tuple[int, int]] = []

    def watch(standings: object, trials: int, seconds: float) -> None:
        assert isinstance(standings, list)
        seen.append((trials, len(standings)))

    first = wqtvm.tune(small_plan(), database=path, trials=20, watch=watch)
    assert first.trials == 20
    assert [each.count for each in first.standings] == [2, 1]
    assert all(each.gain >= 1 for each in first.standings)
    assert first.gain >= 1
    assert seen[-1][0] == 20
    assert max(count for _, count in seen) == 2
    lines = path.read_text().splitlines()
    journal = Journal(path)
    known = {each.task.key: len(list(journal.trials(each.task.key))) for each in first.standings}
    assert sum(known.values()) == 22  # and the default kernels
    assert all(t.ms is not None for key in known for t in journal.trials(key))

    assert first.broken == ()
    with path.open("a") as file:
        file.write('{"kind": "trial", "ke')  # as a kill leaves it
    second = wqtvm.tune(small_plan(), database=path, trials=8)
    assert second.trials == 8
    assert second.broken == (len(lines) + 1,)
    again = Journal(path)
    assert sum(len(list(again.trials(key))) for key in known) == 30
    points = [json.dumps(t.point) for key in known for t in again.trials(key)]
    assert len(points) == 30  # none was run twice
    assert len(winners_of(path)) == 4

    # A network with such a layer takes the record, and computes the same.
    torch.manual_seed(0)
    model = torch.nn.Conv2d(32, 48, 3, padding=1).eval()
    x = torch.randn(1, 32, 11, 14)
    tuned = wqtvm.compile(model, x, config=wqtvm.WinogradConfig(records=str(path)))
    default = wqtvm.compile(model, x, config=wqtvm.WinogradConfig(records="none"))
    np.testing.assert_array_equal(tuned(x).numpy(), default(x).numpy())


def test_the_same_seed_begins_alike(tmp_path: Path) -> None:
    plan = Plan((layer(),))
    for name in ("a", "b"):
        wqtvm.tune(plan, database=tmp_path / name, trials=6, threads=1, seed=7)
    first, second = (
        [t.point for t in Journal(tmp_path / name).trials(task(1).key)] for name in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        ("wq", {"activation_steps": "image"}),
        pytest.param("wq", {"precision": "bfloat16"}, marks=pytest.mark.isa("amx_bf16")),
    ],
)
def test_groups_that_are_parts_of_one(target: str, changed: dict[str, str], tmp_path: Path) -> None:
    whole = layer(algorithm="direct", tile=None, channels=(130, 48), group_size=0)
    planned = replace(whole, weight_steps="filter", **changed)  # type: ignore[arg-type]
    record = lookup(target)
    wanted = Task(workload_of(planned, record), record, 2)
    path = str(tmp_path / "kernel.so")
    workers.build(wanted, wanted.space.default, path)
    assert workers.measure(wanted, wanted.space.default, path, None, None).ms > 0


@pytest.mark.parametrize("images", ["float16", "bfloat16"])
def test_layers_are_timed_with_the_images_of_the_plan(images: str, tmp_path: Path) -> None:
    """Each candidate's result is that of the reference, rounded, to the bit."""
    plan = Plan((layer(),), images)
    outcome = wqtvm.tune(plan, database=tmp_path / "db", trials=2, threads=1)
    (standing,) = outcome.standings
    assert standing.failed == 0
    assert standing.task.images == images
    assert standing.task.name.endswith(images)
    kernel = standing.task.scheduled(standing.task.space.default)
    assert [str(kernel.params[i].dtype) for i in (0, -1)] == [images] * 2
    work, record = standing.task.work, standing.task.record
    records = records_of(record, str(tmp_path / "db"))
    found = records.winner(work, record, 1, images)
    assert found is not None
    assert json.loads(found.key)["images"] == images
    # Other images' records are better than none.
    assert records.winner(work, record, 1) == found


def test_a_wrong_result_is_an_error(tmp_path: Path) -> None:
    wanted = task()
    point, other = wanted.space.points[:2]
    right = str(tmp_path / "right.so")
    workers.build(wanted, point, right)
    measured = workers.measure(wanted, point, right, None, None)
    assert 0 < measured.ms <= measured.median_ms
    assert measured.runs >= 3
    # A kernel of the same sizes that leaves out the padding is another convolution.
    wrong = replace(wanted, work=replace(wanted.work, padding=0, height=13, width=16))
    path = str(tmp_path / "wrong.so")
    workers.build(wrong, wrong.space.default, path)
    default = workers.Default(right, measured.ms, measured.digest)
    with pytest.raises(ArithmeticError, match="not the default kernel's"):
        workers.measure(wrong, wrong.space.default, path, default, None)
    # A kernel of other sizes, called with arguments that are not its own.
    with pytest.raises(Exception, match=r"(?i)mismatch|expected|shape|reference"):
        workers.measure(wanted, other, path, default, None)


def test_a_wrong_candidate_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each candidate but the default is told to be wrong."""
    measure = Bench.measure

    def wrong(bench: Bench, layer_: object, point: object, path: str) -> workers.Measured:
        measured = measure(bench, layer_, point, path)  # type: ignore[arg-type]
        if point != layer_.space.default:  # type: ignore[attr-defined]
            raise ArithmeticError("its result is not the default kernel's")
        return measured

    monkeypatch.setattr(Bench, "measure", wrong)
    outcome = wqtvm.tune(Plan((layer(),)), database=tmp_path / "db", trials=5, threads=1)
    (standing,) = outcome.standings
    assert standing.failed >= 5
    assert standing.winner == standing.task.space.default
    assert standing.gain == 1


def test_a_default_kernel_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "build", lambda *_: [RuntimeError("no compiler")])
    with pytest.raises(TuningError, match=r"F\(4,3\) g32 32->48@11x14.*no compiler"):
        wqtvm.tune(Plan((layer(),)), database=tmp_path / "db", trials=5)


def test_a_candidate_that_hangs_is_recorded(tmp_path: Path) -> None:
    """Here all do: nothing is done in a hundredth of a second."""
    bench = Bench(1, 0.01)
    try:
        wanted = task(1)
        (path,) = bench.build([(wanted, wanted.space.default)])
        assert isinstance(path, str)
        with pytest.raises(TimeoutError):
            bench.measure(wanted, wanted.space.default, path)
    finally:
        bench.close()


def test_candidates_for_another_machine_are_cross_compiled(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("there is no aarch64-linux-gnu-g++ (package g++-aarch64-linux-gnu)")
    wanted, path = task(4, "wq/arm-neon"), tmp_path / "kernel.so"
    workers.build(wanted, wanted.space.points[1], str(path))
    header = path.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither trials nor minutes"),
        ({"trials": 0}, "trials is 0"),
        ({"minutes": -1.0}, "minutes are"),
        ({"trials": 1, "threads": 0}, "threads is 0"),
    ],
)
def test_bad_numbers(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wqtvm.tune(small_plan(), database=tmp_path / "db", **options)  # type: ignore[arg-type]


def test_nothing_to_tune(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to tune"):
        wqtvm.tune(Plan(()), database=tmp_path / "db", trials=1)


def test_gain_counts_layers_as_often_as_they_are_there() -> None:
    one = Standing(task(), 3, 2.0, 1.0, gain=2.0)
    two = Standing(task(1), 1, 1.0, 1.0, gain=1.0)
    outcome = session.Outcome((one, two), 1, 1.0, False, Path("db"))
    assert outcome.gain == pytest.approx(2 ** (3 / 4))


def start(path: Path, plan: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wqtvm", "tune", str(plan), "--database", str(path)]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no {count} lines: {process.communicate()}")


def test_ctrl_c_ends_the_search_and_loses_nothing(tmp_path: Path) -> None:
    path, plan = tmp_path / "db.jsonl", tmp_path / "plan.json"
    plan.write_text(Plan((layer(),)).to_json())
    process = start(path, plan, "--minutes", "10")
    wait_for_lines(path, 8, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "ended by Ctrl-C" in output
    assert len(winners_of(path)) == 1
    assert Journal(path).broken == []


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_sessions_that_are_killed_lose_no_record(tmp_path: Path, kills: int) -> None:
    path, plan = tmp_path / "db.jsonl", tmp_path / "plan.json"
    # Of so many points, on each target, that no session ends by itself.
    options: Any = {"algorithm": "direct", "tile": None}
    plan.write_text(Plan((layer(**options),)).to_json())
    rng = random.Random(0)
    before: list[str] = []
    for round_ in range(kills):
        process = start(path, plan, "--minutes", "10")
        wait_for_lines(path, len(before) + 4 + 2 * round_, process)
        time.sleep(rng.uniform(0, 0.6))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        lines = path.read_text().splitlines()
        assert lines[: len(before)] == before
        before = lines
    trials = list(Journal(path).trials(task(usable_cpus(), **options).key))
    assert len(trials) >= 3 * kills
