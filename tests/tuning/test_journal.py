"""The database: added to by several, cut off by kills, pruned and exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tuning_layers import task

from wqtvm.errors import AlreadyExistsError, TuningDatabaseError
from wqtvm.schedules.tuned import Records, records_of, winners_of
from wqtvm.target import lookup
from wqtvm.tuning.journal import Journal, Trial
from wqtvm.tuning.keeping import export, listing, prune

LAYER = task(target="wq/x86-vnni")  # whatever this machine is: its space has enough points
POINTS = LAYER.space.points


def filled(path: Path) -> Journal:
    journal = Journal(path)
    journal.add_session(session="a", cpu="a CPU", versions={}, command="wqtvm tune", seed=0)
    for number in range(40):
        journal.add_trial(LAYER.key, Trial(POINTS[number], 1.0 + number / 10), session="a")
    journal.add_trial(LAYER.key, Trial(POINTS[40], None, "it crashed"), session="a")
    journal.add_winner(LAYER.key, POINTS[3], 1.3, 1.5, session="a", when="now")
    journal.add_winner(LAYER.key, POINTS[2], 1.2, 1.5, session="a", when="later")
    return journal


def test_what_is_added_is_there_again(tmp_path: Path) -> None:
    filled(tmp_path / "db.jsonl")
    again = Journal(tmp_path / "db.jsonl")
    assert len(list(again.trials(LAYER.key))) == 41
    found = again.trial(LAYER.key, POINTS[7])
    assert found is not None
    assert found.ms == 1.7
    failed = again.trial(LAYER.key, POINTS[40])
    assert failed == Trial(POINTS[40], None, "it crashed")
    assert again.trial(LAYER.key, POINTS[41]) is None
    assert again.broken == []


def test_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    again = Journal(path)
    assert again.broken == [len(whole.splitlines())]
    # The next line begins a line of its own.
    again.add_winner(LAYER.key, POINTS[5], 1.1, 1.5)
    assert [winner.ms for winner in winners_of(path)] == [1.3, 1.1]


def test_several_processes_add_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    code = (
        "import sys; from pathlib import Path; from wqtvm.tuning.journal import append_line\n"
        "for i in range(300): append_line(Path(sys.argv[1]), "
        "{'kind': 'trial', 'who': sys.argv[2], 'i': i, 'long': 'x' * (i * 37 % 5000)})"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in ("a", "b", "c")
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for who in ("a", "b", "c"):
        assert [entry["i"] for entry in entries if entry["who"] == who] == list(range(300))


def test_pruning_keeps_the_fastest_and_the_last_winner(tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    filled(path)
    path.write_text(path.read_text() + '{"kind": "tri')
    assert "dropped 1 that were cut off" in prune(path)
    again = Journal(path)
    assert sorted(t.ms or 0 for t in again.trials(LAYER.key)) == [1 + i / 10 for i in range(32)]
    (winner,) = winners_of(path)
    assert winner.ms == 1.2


def test_exported_winners_know_where_they_are_from(tmp_path: Path) -> None:
    filled(tmp_path / "db.jsonl")
    new = tmp_path / "new.jsonl"
    assert "1 layers" in export(tmp_path / "db.jsonl", new)
    (line,) = new.read_text().splitlines()
    entry = json.loads(line)
    assert entry["cpu"] == "a CPU"
    assert entry["command"] == "wqtvm tune"
    records = records_of(lookup("wq"), str(new))
    winner = records.winner(LAYER.work, LAYER.record, 2)
    assert winner is not None
    assert winner.point == POINTS[2]
    with pytest.raises(AlreadyExistsError, match=r"new\.jsonl exists"):
        export(tmp_path / "db.jsonl", new)


def test_a_listing_names_the_layer(tmp_path: Path) -> None:
    filled(tmp_path / "db.jsonl")
    shown = listing(tmp_path / "db.jsonl")
    assert shown.row_count == 1
    assert "41 trials of 1 layers" in str(shown.title)


def test_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    path.write_text("hello\nworld\n")
    with pytest.raises(TuningDatabaseError, match="is no database"):
        Journal(path)
    with pytest.raises(TuningDatabaseError, match="there is no such file"):
        records_of(lookup("wq"), str(tmp_path / "other"))
    with pytest.raises(TuningDatabaseError, match="does not exist"):
        Journal(tmp_path / "folder" / "db.jsonl")
    path.write_text('{"kind": "winner", "key": {}, "point": {}, "ms": "fast"}\n')
    with pytest.raises(TuningDatabaseError, match="lacks a field"):
        winners_of(path)


def test_a_record_of_another_space_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    journal = filled(path)
    journal.add_winner(LAYER.key, {"block": (1, 1), "old": 3}, 0.1, 1.5)
    records = records_of(lookup("wq"), str(path))
    assert records.winner(LAYER.work, LAYER.record, 2) is None
    divided = records.divided(LAYER.work, LAYER.record, 2)
    assert divided == Records().divided(LAYER.work, LAYER.record, 2)
    # Nor one for another number of threads.
    assert records.winner(LAYER.work, LAYER.record, 3) is None
