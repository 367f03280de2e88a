"""The command, without its searches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tuning_layers import layer, small_plan, task

from wqtvm.cli import commands
from wqtvm.planning.cost import predict
from wqtvm.quantization.plan import Plan, Reason
from wqtvm.target import lookup
from wqtvm.tuning.alternatives import with_alternatives
from wqtvm.tuning.journal import Journal
from wqtvm.tuning.session import Outcome, Standing
from wqtvm.tuning.table import Standings, outcome_text, standings_table


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(commands, ["tune", *arguments])
    return result.exit_code, result.output + str(result.exception or "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a network"),
        (("net.json",), "how long it may take"),
        (("net.json", "--trials", "3", "--tracker", "a:1"), "go together"),
        (("net.json", "--list"), "about the database alone"),
        (("--list", "--database", "nowhere.jsonl"), "does not exist"),
    ],
)
def test_what_it_refuses(arguments: tuple[str, ...], message: str) -> None:
    code, output = run(*arguments)
    assert code != 0
    assert message in output


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(small_plan().to_json())
    code, output = run(str(path), "--trials", "1", "--layers", "head*")
    assert code != 0
    assert "body.0, body.1, tail" in output


def test_listing_and_exporting(tmp_path: Path) -> None:
    database = tmp_path / "db.jsonl"
    journal = Journal(database)
    journal.add_session(session="a", cpu="a CPU", versions={}, command="", seed=0)
    journal.add_winner(task().key, task().space.points[1], 1.0, 2.0, session="a")
    code, output = run("--list", "--database", str(database))
    assert code == 0
    assert "2.000" in output
    code, output = run("--prune", "--database", str(database))
    assert code == 0
    code, output = run("--export", str(tmp_path / "out.jsonl"), "--database", str(database))
    assert code == 0
    assert "a CPU" in (tmp_path / "out.jsonl").read_text()


def test_alternatives_are_the_fastest_predicted() -> None:
    record = lookup("wq/x86-vnni")
    plan = [layer(channels=(64, 64), size=(56, 56)), float_layer()]
    found = with_alternatives(plan, record, 2, 3)
    assert found[0] is plan[0]
    assert found[-1] is plan[1]
    others = found[1:-1]
    assert len(others) == 3
    assert all(each.algorithm != "float" for each in others)
    times = [predict(each, record, 2).ms for each in others]
    assert times == sorted(times)


def float_layer() -> object:
    import dataclasses

    from wqtvm.planning.candidates import as_float

    return dataclasses.replace(as_float(layer("stem")), reason=Reason.EXCLUDED)


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    raced = Standing(task(), 2, 2.0, 1.0, 30, 1, task().space.default, 2.0)
    waiting = Standing(task(1), 1)
    table = standings_table([raced, waiting])
    assert table.row_count == 2
    outcome = Outcome((raced,), 30, 20.0, True, Path("db.jsonl"))
    text = outcome_text(outcome)
    assert "30 trials in 20 s, 1.50 a second, ended by Ctrl-C" in text
    assert "2 ms instead of 4" in text
    assert "Cut off" not in text
    cut = outcome_text(replace(outcome, broken=(7,)))
    assert "Cut off in db.jsonl, and left out: line 7. All others are used" in cut
    with Standings(100, None) as watch:
        watch([Standing(task(), 1, 2.0, 1.5, 3)], 10, 20.0)
    assert "10 trials, 20 s, 1.5 ms, 1.333 times faster, 3 min 0 s left" in capsys.readouterr().err


def test_a_saved_plan_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(Plan((layer(size=(6, 6)),)).to_json())
    database = tmp_path / "db.jsonl"
    code, output = run(
        str(path), "--trials", "3", "--threads", "1", "--database", str(database), "--quiet"
    )
    assert code == 0, output
    assert "3 trials in" in output
    assert "geometric mean of the gains" in output
