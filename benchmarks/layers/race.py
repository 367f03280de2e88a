"""The workers' side that leads: it starts them, and lets them take turns."""

from __future__ import annotations

import importlib.metadata
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..machine import Others
from .peers import Competitor, Setting, Variant

WORKER = f"{__package__}.worker"
PATIENCE = 900  # seconds until a reply
LOG_LINES = 3  # of a worker that died, for the table


@dataclass
class Row:
    """What was measured of one variant.

    Attributes
    ----------
    name : of the variant.
    ms : median of the medians of all rounds, in milliseconds.
    best_ms : the fastest run.
    rounds_ms : the median of each round.
    quality : by measure in dB, such as "sqnr_db", the least of all rounds.
    workspace : bytes besides inputs, weights and outputs, where they are known.
    version : of the library.
    """

    name: str
    ms: float
    best_ms: float
    rounds_ms: list[float]
    quality: dict[str, float]
    workspace: int | None
    version: str


@dataclass
class Contest:
    """One subject by all competitors, in turns.

    Attributes
    ----------
    rows : of those that ran.
    absent : why not, by variant.
    others_cpus : CPUs that other processes kept busy meanwhile.
    """

    rows: list[Row] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    others_cpus: float = 0.0


class Subject(Protocol):
    """What all competitors compute: a layer, or a network."""

    def write(self, folder: Path) -> None:
        """Write its data for all workers, as their ``Problem`` reads them."""


class WorkerError(Exception):
    """A worker died, or does not answer."""


class WorkerProcess:
    """A competitor's process, stopped whenever it is not at its turn.

    A thread pool may spin for a while after its work; a stopped process takes nothing.
    """

    def __init__(self, competitor: Competitor, setting: Setting, log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", WORKER, competitor.package, competitor.name,
                 json.dumps(asdict(setting))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(competitor, setting),
                start_new_session=True,  # Ctrl-C is for the race, which then ends its workers
            )  # fmt: skip

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the reply.

        Raises
        ------
        WorkerError
            If the worker died, or does not answer within ``PATIENCE``.
        """
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            os.kill(process.pid, signal.SIGCONT)
            process.stdin.write(json.dumps(command).encode() + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, ProcessLookupError) as error:
            raise WorkerError(self._epitaph()) from error
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            raise WorkerError(f"no answer to {command['do']!r} within {PATIENCE} s")
        line = process.stdout.readline()
        if not line:
            raise WorkerError(self._epitaph())
        os.kill(process.pid, signal.SIGSTOP)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def end(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()

    def _epitaph(self) -> str:
        status = self.process.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        last = self.log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
        return f"its process ended with {how}: {' / '.join(last)}"


def environment(competitor: Competitor, setting: Setting) -> dict[str, str]:
    """Return the environment of a worker: its threads, its ISA, and nothing of other workers."""
    threads = str(setting.threads)
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "TVM_NUM_THREADS": threads,
        # A library that installs packages when it is imported shall not do it outside of this
        # environment.
        "PIP_REQUIRE_VIRTUALENV": "1",
    }
    if setting.restriction and competitor.onednn:
        variables["ONEDNN_MAX_CPU_ISA"] = setting.restriction
    return variables


def missing(competitor: Competitor) -> str | None:
    """Return which package is not installed, in words, or None."""
    for package in competitor.packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed; pip install -r benchmarks/layers/requirements.txt"
    return None


def unrestricted(competitor: Competitor, setting: Setting, has_amx: bool) -> str | None:
    """Return why a competitor cannot take part without AMX, or None."""
    ours = any(variant.ours for variant in competitor.variants)
    if not setting.restriction or not has_amx or not competitor.amx or competitor.onednn or ours:
        return None
    return "it would use AMX, and has no setting against it"


class Race:
    """Workers of the competitors, for one setting; they live for as long as it does."""

    def __init__(
        self,
        entries: Sequence[tuple[Competitor, Sequence[Variant]]],
        setting: Setting,
        *,
        has_amx: bool,
        say: Callable[[str], None],
    ) -> None:
        self.entries, self.setting, self.has_amx, self.say = entries, setting, has_amx, say
        self.folder = tempfile.TemporaryDirectory(prefix="race-")
        self.workers: dict[str, WorkerProcess] = {}

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.end()
        self.folder.cleanup()

    def run(self, subject: Subject, rounds: int, seconds: float) -> Contest:
        """Let all competitors run a subject: a turn of so many seconds each, round after round."""
        contest = Contest()
        folder = Path(self.folder.name)
        subject.write(folder)
        ready = self._prepare(folder, contest)
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in ready}
        with Others(worker.process.pid for worker in self.workers.values()) as others:
            for index in range(rounds):
                self.say(f"  round {index + 1} of {rounds}")
                for name, (competitor, _) in list(ready.items()):
                    reply = self._ask(competitor, do="turn", variant=name, seconds=seconds)
                    if "cannot" in reply:
                        contest.absent[name] = reply["cannot"]
                        del ready[name]
                    else:
                        turns[name].append(reply)
        contest.others_cpus = others.cpus
        for name, (competitor, workspace) in ready.items():
            version = importlib.metadata.version(competitor.packages[0])
            contest.rows.append(summarize(name, turns[name], workspace, version))
        for competitor, _ in self.entries:
            if competitor.name in self.workers:
                self._ask(competitor, do="drop")
        return contest

    def _prepare(self, folder: Path, contest: Contest) -> dict[str, tuple[Competitor, int | None]]:
        ready: dict[str, tuple[Competitor, int | None]] = {}
        for competitor, variants in self.entries:
            why = missing(competitor) or unrestricted(competitor, self.setting, self.has_amx)
            for variant in variants:
                if why:
                    contest.absent[variant.name] = why
                    continue
                self.say(f"  prepare {variant.name}")
                reply = self._ask(
                    competitor, do="prepare", variant=variant.name, folder=str(folder)
                )
                if "cannot" in reply:
                    contest.absent[variant.name] = reply["cannot"]
                else:
                    ready[variant.name] = competitor, reply["workspace"]
        return ready

    def _ask(self, competitor: Competitor, **command: Any) -> dict[str, Any]:
        """Ask a worker, which is started if it is not there; one that fails is ended."""
        name = competitor.name
        if name not in self.workers:
            if command["do"] != "prepare":
                return {"cannot": "its process ended"}
            log = Path(self.folder.name, f"{name}.log")
            self.workers[name] = WorkerProcess(competitor, self.setting, log)
        try:
            return self.workers[name].ask(**command)
        except WorkerError as error:
            self.workers.pop(name).end()
            return {"cannot": str(error)}


def summarize(name: str, turns: list[dict[str, Any]], workspace: int | None, version: str) -> Row:
    """Return the row of a variant from the replies of its turns."""
    rounds = [1e3 * statistics.median(turn["seconds"]) for turn in turns]
    return Row(
        name=name,
        ms=statistics.median(rounds),
        best_ms=1e3 * min(min(turn["seconds"]) for turn in turns),
        rounds_ms=[round(each, 4) for each in rounds],
        quality={
            measure: least(turn["quality"][measure] for turn in turns)
            for measure in turns[0]["quality"]
        },
        workspace=workspace,
        version=version,
    )


def least(values: Iterable[float]) -> float:
    """Return the least value, NaN if there is one: it is no number, and must not be missed."""
    return min(values, key=lambda value: (value == value, value))
