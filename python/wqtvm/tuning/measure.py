"""MetaSchedule's builder and runner: candidates in processes of their own, see ``workers``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import (
    PyRunner,
    PyRunnerFuture,
    RunnerInput,
    RunnerResult,
)

from ..schedules.space import Point
from ..target import usable_cpus
from . import workers
from .process import Worker
from .search import chosen_of_module, key_of_module
from .task import Task
from .workers import Default, Measured, Remote

_BUILD_SECONDS = 120.0


class Bench:
    """Builds and runs candidates; one at a time runs, while nothing else does.

    Parameters
    ----------
    threads : that compute a layer.
    seconds : that a candidate may run, its input and weights made, before it is ended.
    remote : where candidates run; here if None.
    """

    def __init__(self, threads: int, seconds: float, remote: Remote | None = None) -> None:
        self.remote, self.seconds = remote, seconds
        self._builders: Queue[Worker] = Queue()
        count = usable_cpus()
        for _ in range(count):
            self._builders.put(Worker({"TVM_NUM_THREADS": "1"}))
        self._runner = Worker({"TVM_NUM_THREADS": str(threads)})
        self._pool = ThreadPoolExecutor(count)
        self._folder = tempfile.TemporaryDirectory(prefix="wqtvm-tune-")
        self._count = 0
        self.defaults: dict[str, Default] = {}  # by the layers' keys

    def build(self, wanted: Sequence[tuple[Task, Point]]) -> list[str | Exception]:
        """Build some candidates at once: their libraries' paths, or what went wrong."""
        calls = []
        for task, point in wanted:
            self._count += 1
            path = str(Path(self._folder.name) / f"candidate-{self._count}.so")
            calls.append((task, point, path))
        return list(self._pool.map(self._build, calls))

    def _build(self, call: tuple[Task, Point, str]) -> str | Exception:
        worker = self._builders.get()
        try:
            worker.call(workers.build, *call, seconds=_BUILD_SECONDS)
        except Exception as error:
            return error
        finally:
            self._builders.put(worker)
        return call[-1]

    def measure(self, task: Task, point: Point, path: str) -> Measured:
        """Run one candidate, the default kernel first, whose library is to be kept.

        Raises
        ------
        Exception
            Whatever went wrong: TimeoutError if it took too long, ArithmeticError if its result
            is wrong.
        """
        default = self.defaults.get(task.key)
        arguments = (task, point, path, default, self.remote)
        found: Measured = self._run(workers.measure, *arguments, seconds=self.seconds)
        if default is None:
            self.defaults[task.key] = Default(path, found.ms, found.digest)
        return found

    def race(
        self, task: Task, candidates: Sequence[tuple[Point, str]], rounds: int
    ) -> list[list[float]]:
        """Run some candidates in turns: milliseconds of each round."""
        arguments = (task, candidates, rounds, self.remote)
        seconds = self.seconds * len(candidates)
        found: list[list[float]] = self._run(workers.race, *arguments, seconds=seconds)
        return found

    def _run(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        try:
            return self._runner.call(function, *arguments, seconds=seconds)
        except ArithmeticError:
            raise
        except Exception:
            if self.remote is None:
                raise
        # The device may be gone, not the candidate wrong: once more, on what the tracker gives.
        return self._runner.call(function, *arguments, seconds=seconds)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove libraries."""
        for path in paths:
            Path(path).unlink(missing_ok=True)

    def close(self) -> None:
        """End all processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._runner.kill()
        while not self._builders.empty():
            self._builders.get().kill()
        self._folder.cleanup()


@derived_object
class Builder(PyBuilder):
    """Builds candidates that are not known yet."""

    def __init__(
        self,
        bench: Bench,
        tasks: Mapping[str, Task],
        known: Callable[[Task, Point], bool],
        go_on: Callable[[], None],
    ) -> None:
        super().__init__()
        self.bench, self.tasks, self.known, self.go_on = bench, tasks, known, go_on
        self.built: dict[str, tuple[Task, Point]] = {}

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Libraries; ``known:`` and a number for those whose time is known."""
        self.go_on()
        results: list[BuilderResult | None] = []
        missing = []
        for each in build_inputs:
            task = self.tasks[key_of_module(each.mod)]
            number = chosen_of_module(each.mod)
            point = task.space.points[number]
            if self.known(task, point):
                name = f"known:{len(self.built)}"
                self.built[name] = task, point
                results.append(BuilderResult(name, None))
            else:
                missing.append((task, point))
                results.append(None)
        paths = iter(zip(missing, self.bench.build(missing), strict=True))
        found = []
        for result in results:
            if result is None:
                candidate, path = next(paths)
                if isinstance(path, str):
                    self.built[path] = candidate
                    result = BuilderResult(path, None)
                else:
                    result = BuilderResult(None, f"{type(path).__name__}: {path}")
            found.append(result)
        return found


@derived_object
class Done(PyRunnerFuture):
    """A result that is there."""

    def __init__(self, value: RunnerResult) -> None:
        super().__init__()
        self.value = value

    def done(self) -> bool:
        """Yes."""
        return True

    def result(self) -> RunnerResult:
        """It."""
        return self.value


@derived_object
class Runner(PyRunner):
    """Runs candidates, one after the other."""

    def __init__(
        self,
        builder_paths: Mapping[str, tuple[Task, Point]],
        run: Callable[[Task, Point, str], RunnerResult],
    ) -> None:
        super().__init__()
        self.paths, self.run_one = builder_paths, run

    def run(self, runner_inputs: list[RunnerInput]) -> list[Done]:
        """Their seconds, or what went wrong."""
        futures = []
        for each in runner_inputs:
            path = str(each.artifact_path)
            futures.append(Done(self.run_one(*self.paths[path], path)))
        return futures
