"""What is done with a database besides tuning: listing, pruning, and exporting it."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.table import Table

from ..errors import AlreadyExistsError, TuningDatabaseError
from ..schedules.narrow_parameters import WIDE
from ..schedules.tuned import WINNER, read_lines, winner_from
from .journal import SESSION, TRIAL

_KEPT_TRIALS = 32


def listing(database: Path) -> Table:
    """The winners of a database as a table, with what they were measured on."""
    from ..console import table

    entries = _entries(database)
    machines = {e.get("session"): e.get("cpu", "") for e in entries if e["kind"] == SESSION}
    trials: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        if entry["kind"] == TRIAL:
            trials[json.dumps(entry["key"])] += 1
    result = table(
        "target", "threads>", "algorithm", "group>", "channels", "size", "images",
        "default ms>", "ms>", "gain>", "trials>", "point", "measured", "on",
        title=f"{database}: {sum(trials.values())} trials of {len(trials)} layers",
    )  # fmt: skip
    for entry in _last_winners(entries):
        winner, key = winner_from(entry), entry["key"]
        result.add_row(
            key["target"],
            str(key["threads"]),
            key["algorithm"],
            str(key["group"] or "all"),
            "->".join(map(str, key["channels"])),
            "x".join(map(str, key["size"])),
            key.get("images", WIDE),
            f"{winner.default_ms:.4g}",
            f"{winner.ms:.4g}",
            f"{winner.default_ms / winner.ms:.3f}",
            str(trials[winner.key] or entry.get("trials", "")),
            " ".join(f"{n}={_short(v)}" for n, v in winner.point.items()),
            entry.get("when", ""),
            entry.get("cpu", machines.get(entry.get("session"), "")),
        )
    return result


def export(database: Path, path: Path) -> str:
    """Write the last winner of each layer, with its provenance, to a new file.

    Raises
    ------
    AlreadyExistsError
        If the file is there.
    TuningDatabaseError
        If the database cannot be read, or has no winner.
    """
    entries = _entries(database)
    sessions = {entry.get("session"): entry for entry in entries if entry["kind"] == SESSION}
    winners = _last_winners(entries)
    if not winners:
        raise TuningDatabaseError(f"database {database} has no winner yet; tune a network first")
    lines = []
    for entry in winners:
        session = sessions.get(entry.get("session"), {})
        kept = {name: session[name] for name in _PROVENANCE if name in session}
        lines.append(json.dumps({**entry, **kept}))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError as error:
        raise AlreadyExistsError(f"{path} exists; give another path") from error
    except OSError as error:
        raise TuningDatabaseError(f"{path} cannot be written: {error}") from error
    return f"Wrote {path}: the winners of {len(lines)} layers."


_PROVENANCE = ("cpu", "versions", "command", "seed")


def prune(database: Path) -> str:
    """Drop what no longer counts: old winners, slow trials, and lines that were cut off.

    A session that uses the database meanwhile loses nothing: it waits for the lock.

    Raises
    ------
    TuningDatabaseError
        If the database cannot be read or written.
    """
    try:
        descriptor = os.open(database, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TuningDatabaseError(f"database {database} cannot be opened: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        entries, broken = read_lines(database)
        kept = _pruned(entries)
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        # In place, and the new text before the end is cut off: others hold the file open.
        os.pwrite(descriptor, text.encode(), 0)
        os.ftruncate(descriptor, len(text.encode()))
        os.fsync(descriptor)
    except OSError as error:
        raise TuningDatabaseError(f"database {database} cannot be written: {error}") from error
    finally:
        os.close(descriptor)
    return (
        f"{database}: kept {len(kept)} of {len(entries)} lines"
        + (f", dropped {len(broken)} that were cut off" if broken else "")
        + "."
    )


def _pruned(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    trials: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        if entry["kind"] == TRIAL:
            trials[json.dumps(entry["key"])].append(entry)
    fastest = {
        id(entry)
        for found in trials.values()
        for entry in sorted(found, key=lambda e: math.inf if e["ms"] is None else e["ms"])[
            :_KEPT_TRIALS
        ]
    }
    last = {id(entry) for entry in _last_winners(entries)}
    kept = [
        entry
        for entry in entries
        if entry["kind"] not in (TRIAL, WINNER) or id(entry) in fastest | last
    ]
    used = {entry.get("session") for entry in kept if entry["kind"] != SESSION}
    return [e for e in kept if e["kind"] != SESSION or e.get("session") in used]


def _entries(database: Path) -> list[dict[str, Any]]:
    if not database.is_file():
        raise TuningDatabaseError(f"database {database} does not exist; give --database")
    return read_lines(database)[0]


def _last_winners(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = {json.dumps(entry["key"]): entry for entry in entries if entry["kind"] == WINNER}
    return list(found.values())


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
