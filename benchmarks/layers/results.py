"""What was measured, as a file of JSON lines that only grows."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..peaks import Peaks
from .layers import Layer
from .peers import Setting
from .race import Contest, Row

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("python", "topi", "schedules", "src", "benchmarks/layers/peers")


@dataclass(frozen=True)
class Record:
    """A contest, where and when it was.

    Attributes
    ----------
    layer, setting : of the contest.
    peaks : of this machine with as many threads, just before.
    contest : what was measured.
    machine : the CPU.
    code : a hash of wqtvm's sources.
    """

    layer: Layer
    setting: Setting
    peaks: Peaks
    contest: Contest
    machine: str
    code: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What has to be equal for a contest to count as held already."""
        return self.layer, self.setting, self.machine, self.code

    def covers(self, names: Iterable[str]) -> bool:
        """Whether all these variants took part or said why not."""
        held = {row.name for row in self.contest.rows} | set(self.contest.absent)
        return held.issuperset(names)


class Results:
    """Contests of this machine and these sources; of several of one kind the last counts."""

    def __init__(self, path: Path, *, machine: str, code: str) -> None:
        self.path, self.machine, self.code = path, machine, code
        self.records: dict[tuple[Layer, Setting], Record] = {}
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
            try:
                record = parse(json.loads(line))
            except (ValueError, KeyError, TypeError):
                print(f"{path}: line {number} is left out, it is no contest: {line[:60]!r}")
                continue
            if (record.machine, record.code) == (machine, code):
                self.records[record.layer, record.setting] = record

    def find(self, layer: Layer, setting: Setting, names: Iterable[str]) -> Record | None:
        """Return the contest if it was held, with all these variants."""
        record = self.records.get((layer, setting))
        return record if record is not None and record.covers(names) else None

    def add(self, layer: Layer, setting: Setting, peaks: Peaks, contest: Contest) -> Record:
        """Add a contest, and write it at once."""
        record = Record(layer, setting, peaks, contest, self.machine, self.code)
        self.records[layer, setting] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **asdict(record)}
            file.write(json.dumps(line) + "\n")
        return record


def parse(line: dict[str, Any]) -> Record:
    """Return the contest that a line holds."""
    contest = line["contest"]
    rows = [Row(**row) for row in contest["rows"]]
    return Record(
        Layer(**line["layer"]),
        Setting(**line["setting"]),
        Peaks(**line["peaks"]),
        Contest(rows, contest["absent"], contest["others_cpus"]),
        line["machine"],
        line["code"],
    )


def machine_name() -> str:
    """Return the CPU's name as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def code_hash() -> str:
    """Return a hash of the sources that the times depend on, in 12 digits."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cc", ".h"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
