"""A tuning session: the default kernels, TVM's search, and a race of the best of each layer.

1. The default kernel of each layer is built, compared with the numpy reference, and timed: what
   all candidates are compared with, and a point of the space like others.
2. MetaSchedule searches, until the trials or the minutes are used up, or Ctrl-C. Candidates known
   from earlier sessions are not run again, but count for the search.
3. The fastest few of each layer take turns with the default kernel. The winner is added to the
   database only if it is faster by more than noise, or else the default itself, as the winner.
"""

from __future__ import annotations

import importlib.util
import math
import platform
import signal
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import ConfigError, MissingDependencyError, TuningError
from ..quantization.plan import LayerPlan, Plan
from ..schedules.narrow_parameters import WIDE
from ..schedules.space import Point
from ..schedules.tuned import SHIPPED, records_of, winners_of
from ..target import TargetRecord, lookup, target_names, usable_cpus
from ..versions import versions
from .journal import Journal, Trial
from .task import Task, tasks_of
from .workers import Measured, Remote, now

_A_ROUND = 8  # candidates of a layer that are built and run before the ranking learns
_SIMILAR = 3  # winners of similar layers that are run first
FINALISTS = 6  # that take turns with the default kernel
RACE_ROUNDS = 21
LEAST_GAIN = 1.01
_NEEDED = ("cloudpickle", "psutil", "xgboost")
CANDIDATE_SECONDS = 60.0


def gains_of(runs: Sequence[Sequence[float]]) -> list[float]:
    """How many times as fast as the first each of some kernels is, by a race's milliseconds.

    Rounds are compared with themselves: what disturbs a round disturbs all of it.
    """
    return [statistics.median(d / ms for d, ms in zip(runs[0], each, strict=True)) for each in runs]


@dataclass
class Standing:
    """How it stands with a layer.

    Attributes
    ----------
    task, count : the layer, and how many of the network are like it.
    default_ms : milliseconds of the default kernel, in the last round of a race its median.
    best_ms : of the fastest candidate so far; of the winner, when there is one.
    trials, failed : candidates that were tried in all sessions, and those that failed.
    winner : its point; None before the race.
    gain : how many times faster the winner is than the default kernel, by medians of the race.
    problem : why there was no race; empty if there was one.
    """

    task: Task
    count: int
    default_ms: float = math.nan
    best_ms: float = math.inf
    trials: int = 0
    failed: int = 0
    winner: Point | None = None
    gain: float = math.nan
    problem: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a session found.

    Attributes
    ----------
    standings : of each layer.
    trials : candidates that were run in this session.
    seconds : that it took.
    interrupted : whether Ctrl-C ended it.
    database : the file that holds all of it.
    broken : numbers of its lines that a kill cut off, which were left out.
    """

    standings: tuple[Standing, ...]
    trials: int
    seconds: float
    interrupted: bool
    database: Path
    broken: tuple[int, ...] = ()

    @property
    def gain(self) -> float:
        """The geometric mean of the layers' gains, each counted as often as it is there."""
        logs = [
            each.count * math.log(each.gain) for each in self.standings if each.gain == each.gain
        ]
        counts = sum(each.count for each in self.standings if each.gain == each.gain)
        return math.exp(sum(logs) / counts) if counts else math.nan


Watch = Callable[[Sequence[Standing], int, float], None]
"""Called as watch(standings, trials done, seconds) whenever a candidate is done."""


def tune(
    plan: Plan | Sequence[LayerPlan],
    *,
    images: str | None = None,
    target: str | TargetRecord = "wq",
    database: str | Path = "wqtvm-tuning.jsonl",
    trials: int | None = None,
    minutes: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    remote: Remote | None = None,
    candidate_seconds: float = CANDIDATE_SECONDS,
    records: str = SHIPPED,
    watch: Watch | None = None,
) -> Outcome:
    """Search for the fastest kernels of a network's int8 layers, and keep them as records.

    Parameters
    ----------
    plan : of a network, or some of its layers; ``CompiledModel.plan`` has it, of a loaded artefact,
        too.
    images : dtype of what layers take and give; the plan's if None, float32 of mere layers.
    target : whose kernels; it has to run here, or where ``remote`` says.
    database : the file that is added to; it is made if it is not there.
    trials : candidates that may be run, all layers together, besides the default ones.
    minutes : after which the search ends; the race of the best follows.
    threads : that compute a layer; all usable CPUs if None. Records are for as many.
    seed : of the search. What it finds also depends on the times that are measured.
    remote : a device that TVM's RPC reaches.
    candidate_seconds : after which a candidate that runs is ended.
    records : whose winners of similar layers are run first, as in WinogradConfig; those of the
        database are in any case.
    watch : called as watch(standings, trials done, seconds).

    Raises
    ------
    ConfigError
        If neither trials nor minutes are given, or a number is below what it can be.
    TuningError
        If a layer's default kernel does not build or run, or computes something wrong.
    TuningDatabaseError
        If the database cannot be read or written.
    MissingDependencyError
        If a package is not installed that MetaSchedule needs.
    """
    if trials is None and minutes is None:
        raise ConfigError("neither trials nor minutes are given; say how long the search may take")
    for name, value, least in (("trials", trials, 1), ("threads", threads, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; give at least {least}")
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes are {minutes}; give more than 0")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"tuning takes {', '.join(missing)}, which is not installed; pip install 'wqtvm[tune]'"
        )
    record = lookup(target)
    layers = plan.layers if isinstance(plan, Plan) else plan
    if images is None:
        images = plan.images if isinstance(plan, Plan) else WIDE
    counted = tasks_of(layers, record, threads or usable_cpus(), images)
    if not counted:
        raise ConfigError("no layer of the plan is computed in int8; there is nothing to tune")
    session = _Session(
        [Standing(task, count) for task, count in counted],
        Journal(database),
        trials,
        minutes,
        seed,
        remote,
        candidate_seconds,
        records,
        watch or (lambda *_: None),
    )
    return session.run()


class _Session:
    def __init__(
        self,
        standings: list[Standing],
        journal: Journal,
        trials: int | None,
        minutes: float | None,
        seed: int,
        remote: Remote | None,
        candidate_seconds: float,
        records: str,
        watch: Watch,
    ) -> None:
        from .measure import Bench

        self.standings, self.journal, self.seed, self.watch = standings, journal, seed, watch
        self.by_key = {each.task.key: each for each in standings}
        self.limit = trials
        self.winners = {w.key: w for w in records_of(standings[0].task.record, records)}
        if self.journal.path.exists():
            self.winners |= {w.key: w for w in winners_of(self.journal.path)}
        self.started = time.monotonic()
        self.deadline = math.inf if minutes is None else self.started + 60 * minutes
        self.done = 0
        self.interrupted = False
        self.name = uuid.uuid4().hex[:12]
        self.bench = Bench(standings[0].task.threads, candidate_seconds, remote)
        self.remote = remote

    def run(self) -> Outcome:
        try:
            with self._until_interrupted():
                self._introduce()
                for standing in self.standings:
                    self._measure_default(standing)
                self._try_similar()
                if not self._is_over():
                    self._search()
                for standing in self.standings:
                    try:
                        self._race(standing)
                    except Exception as error:
                        standing.problem = f"no race: {type(error).__name__}: {error}"
        finally:
            self.bench.close()
        return Outcome(
            tuple(self.standings), self.done, self._seconds(), self.interrupted,
            self.journal.path, tuple(self.journal.broken),
        )  # fmt: skip

    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _is_over(self) -> bool:
        used_up = self.limit is not None and self.done >= self.limit
        return self.interrupted or used_up or time.monotonic() >= self.deadline

    def _introduce(self) -> None:
        from ..doctor import cpu_name

        self.journal.add_session(
            session=self.name,
            when=now(),
            cpu=cpu_name(),
            host=platform.machine(),
            remote=None if self.remote is None else self.remote.device,
            versions=versions(),
            command=_command(sys.argv),
            seed=self.seed,
        )

    def _measure_default(self, standing: Standing) -> None:
        """Also the digest that all others are compared with."""
        task = standing.task
        point = task.space.default
        (path,) = self.bench.build([(task, point)])
        if isinstance(path, Exception):
            raise TuningError(
                f"layer {task.name}: its default kernel cannot be built: {path}"
            ) from path
        try:
            measured = self.bench.measure(task, point, path)
        except Exception as error:
            raise TuningError(f"layer {task.name}: its default kernel fails: {error}") from error
        standing.default_ms = measured.ms
        if self.journal.trial(task.key, point) is None:
            self._add(task, point, measured, "")
        for trial in self.journal.trials(task.key):
            self._count(standing, trial)
        standing.best_ms = min(standing.best_ms, standing.default_ms)
        self.watch(self.standings, self.done, self._seconds())

    def _add(self, task: Task, point: Point, measured: Measured | None, error: str) -> Trial:
        trial = Trial(point, None if measured is None else measured.ms, error)
        more = {} if measured is None else {"median_ms": measured.median_ms, "runs": measured.runs}
        self.journal.add_trial(task.key, trial, **more, session=self.name, when=now())
        return trial

    def _count(self, standing: Standing, trial: Trial) -> None:
        standing.trials += 1
        if trial.ms is None:
            standing.failed += 1
        elif trial.ms < standing.best_ms:
            standing.best_ms = trial.ms

    def _try_similar(self) -> None:
        """Run what won on similar layers: the nearest of each layer, then the next ones."""
        from .similar import similar_points

        points = [
            [point for point in similar_points(each.task, self.winners.values(), _SIMILAR)
             if not self._is_known(each.task, point)]
            for each in self.standings
        ]  # fmt: skip
        wanted = [
            (standing.task, each[turn])
            for turn in range(_SIMILAR)
            for standing, each in zip(self.standings, points, strict=True)
            if turn < len(each)
        ]
        at_once = usable_cpus()
        for first in range(0, len(wanted), at_once):
            if self._is_over():
                return
            some = wanted[first : first + at_once]
            for (task, point), path in zip(some, self.bench.build(some), strict=True):
                if isinstance(path, Exception):
                    self._add(task, point, None, f"{type(path).__name__}: {path}")
                elif not self._is_over():
                    self._run(task, point, path)

    def _search(self) -> None:
        from tvm.s_tir import meta_schedule as ms

        from . import search
        from .measure import Builder, Runner

        # A layer of which nothing can be chosen has nothing to search for.
        free = [each for each in self.standings if len(each.task.space.points) > 1]
        if not free:
            return
        tasks = {each.task.key: each.task for each in free}
        contexts = [search.context_of(each.task, self.seed) for each in free]
        builder = Builder(self.bench, tasks, self._is_known, self._go_on)
        runner = Runner(builder.built, self._run)
        model = search.Ranking(tasks)
        for context, each in zip(contexts, free, strict=True):
            model.teach(context, each.task, self.journal)
        try:
            ms.tune_tasks(
                tasks=contexts,
                task_weights=[float(each.count) for each in free],
                work_dir="",
                max_trials_global=10**9,  # known candidates do not count: we say when it is over
                num_trials_per_iter=_A_ROUND,
                builder=builder,
                runner=runner,
                database=search.Database(self.journal, tasks),
                cost_model=model,
                measure_callbacks=[ms.measure_callback.UpdateCostModel()],
                task_scheduler=ms.TaskScheduler.create("gradient", seed=self.seed + 1),
            )
        except Exception:
            if not self._is_over():
                raise

    def _go_on(self) -> None:
        """Before candidates are built: end the search if it is over."""
        if self._is_over():
            raise InterruptedError("the search is over")

    def _is_known(self, task: Task, point: Point) -> bool:
        return self.journal.trial(task.key, point) is not None

    def _run(self, task: Task, point: Point, path: str) -> Any:
        """What MetaSchedule asks of its runner: the seconds of a candidate, or what is wrong."""
        from tvm.s_tir.meta_schedule.runner import RunnerResult

        trial = self.journal.trial(task.key, point)
        if trial is None:
            if self._is_over():
                self.bench.remove([path])
                return RunnerResult(None, "the search is over")
            found, error = None, ""
            try:
                found = self.bench.measure(task, point, path)
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}"
            finally:
                self.bench.remove([path])
            trial = self._add(task, point, found, error)
            self.done += 1
            standing = self.by_key[task.key]
            self._count(standing, trial)
            self.watch(self.standings, self.done, self._seconds())
        if trial.ms is None:
            return RunnerResult(None, trial.error)
        return RunnerResult([trial.ms / 1e3], None)

    def _race(self, standing: Standing) -> None:
        """Let the fastest take turns with the default kernel, and keep the winner."""
        task = standing.task
        known = [t for t in self.journal.trials(task.key) if t.ms is not None]
        points = [t.point for t in sorted(known, key=lambda t: t.ms or math.inf)]
        points = [p for p in points if p != task.space.default and task.space.contains(p)]
        wanted = points[:FINALISTS]
        paths = self.bench.build([(task, point) for point in wanted])
        finalists = [(p, path) for p, path in zip(wanted, paths, strict=True)
                     if isinstance(path, str)]  # fmt: skip
        right = [(task.space.default, self.bench.defaults[task.key].path)]
        for point, path in finalists:
            # They were right when they were measured, perhaps by another version.
            try:
                self.bench.measure(task, point, path)
                right.append((point, path))
            except ArithmeticError:
                standing.failed += 1
        runs = self.bench.race(task, right, RACE_ROUNDS)
        self.bench.remove(path for _, path in finalists)
        gains = gains_of(runs)
        best = max(range(len(gains)), key=lambda i: gains[i])
        if gains[best] < LEAST_GAIN:
            best = 0
        standing.winner, standing.gain = right[best][0], gains[best]
        standing.default_ms = statistics.median(runs[0])
        standing.best_ms = standing.default_ms / gains[best]
        self.journal.add_winner(
            task.key, right[best][0], standing.best_ms, standing.default_ms,
            rounds=RACE_ROUNDS, trials=standing.trials, session=self.name, when=now(),
        )  # fmt: skip
        self.watch(self.standings, self.done, self._seconds())

    @contextmanager
    def _until_interrupted(self) -> Iterator[None]:
        """The first Ctrl-C ends the search, the second one all; neither loses a record."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        try:
            before = signal.signal(signal.SIGINT, stop)
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _command(words: Sequence[str]) -> str:
    """A command line without folders: they are this machine's own affair, and records travel."""
    names = target_names()
    return " ".join(word if word in names else Path(word).name or word for word in words)
