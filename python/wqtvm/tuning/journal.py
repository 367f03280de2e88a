"""The database of tuning: a file of JSON lines that is only ever added to.

A line is one of a kind: "session" (what measured: CPU, versions, command), "trial" (a candidate of
a layer, its milliseconds or its error), "winner" (see ``schedules.tuned``). Several sessions may
add to one file: each line is written at once, under a lock. A line that a kill cut off is left
where it is, and said; the next one begins a line of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TuningDatabaseError
from ..schedules.space import Point, Value
from ..schedules.tuned import WINNER, point_from, read_lines

SESSION, TRIAL = "session", "trial"


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried.

    Attributes
    ----------
    point : a value for each knob.
    ms : milliseconds of its undisturbed runs; None if it failed.
    error : why it failed; empty if it did not.
    """

    point: Mapping[str, Value]
    ms: float | None
    error: str = ""


class Journal:
    """A database file.

    Attributes
    ----------
    path : of the file; it need not exist.
    broken : numbers of lines that are cut off.

    Raises
    ------
    TuningDatabaseError
        If the file is there and is no database, or its folder is not there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise TuningDatabaseError(
                f"database {path}: the folder {self.path.parent} does not exist; make it first"
            )
        entries: list[dict[str, Any]] = []
        self.broken: list[int] = []
        if self.path.exists():
            entries, self.broken = read_lines(self.path)
        self._trials: dict[str, dict[str, Trial]] = {}
        for entry in entries:
            if entry["kind"] == TRIAL:
                self._remember(entry)

    def trials(self, key: str) -> Iterator[Trial]:
        """The candidates of a layer that were tried, each once, the first first."""
        yield from self._trials.get(key, {}).values()

    def trial(self, key: str, point: Point) -> Trial | None:
        """What is known of a candidate."""
        return self._trials.get(key, {}).get(_text(point))

    def add_session(self, **fields: Any) -> None:
        """Say who measures what follows."""
        self._append({"kind": SESSION, **fields})

    def add_trial(self, key: str, trial: Trial, **fields: Any) -> None:
        """Add a candidate, with its repetitions and what else there is to say."""
        entry = {
            "kind": TRIAL, "key": json.loads(key), "point": dict(trial.point), "ms": trial.ms,
            "error": trial.error, **fields,
        }  # fmt: skip
        self._append(entry)
        self._remember(entry)

    def add_winner(
        self, key: str, point: Point, ms: float, default_ms: float, **fields: Any
    ) -> None:
        """Add the winner of a layer."""
        self._append(
            {
                "kind": WINNER, "key": json.loads(key), "point": dict(point), "ms": ms,
                "default_ms": default_ms, **fields,
            }
        )  # fmt: skip

    def _remember(self, entry: Mapping[str, Any]) -> None:
        try:
            ms = None if entry["ms"] is None else float(entry["ms"])
            trial = Trial(point_from(entry["point"]), ms, str(entry.get("error", "")))
            found = self._trials.setdefault(json.dumps(entry["key"]), {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TuningDatabaseError(
                f"database {self.path}: a trial lacks a field, or has a wrong one ({error!r}): "
                f"{dict(entry)}; remove that line"
            ) from error
        found.setdefault(_text(trial.point), trial)

    def _append(self, entry: Mapping[str, Any]) -> None:
        append_line(self.path, entry)


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a database, on disk when this returns.

    Raises
    ------
    TuningDatabaseError
        If it cannot be written.
    """
    line = json.dumps(entry).encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TuningDatabaseError(f"database {path} cannot be written: {error}") from error


def _text(point: Point) -> str:
    return json.dumps(dict(sorted(point.items())))
