"""TVM's MetaSchedule, with our spaces: what it samples, mutates, and learns from.

A candidate is a trace of one decision, the number of a point of its ``Space``, annotated on the
layer's last block; the builder makes the kernel of it. So every trace is a kernel that can be
built, sampling and mutating one takes microseconds, and all of the search is TVM's: evolution,
XGBoost's ranking, the division of time among layers by its gradient.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tvm
from tvm import ir, s_tir, tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.cost_model import PyCostModel, XGBModel
from tvm.s_tir.meta_schedule.database import PyDatabase, TuningRecord, Workload
from tvm.s_tir.meta_schedule.feature_extractor import PyFeatureExtractor
from tvm.s_tir.meta_schedule.mutator import PyMutator
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate
from tvm.s_tir.stmt import SBlock, SBlockRealize

from ..planning.cost import Prediction, counted
from ..schedules.space import Point, Space
from .journal import Journal
from .task import Task

logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)

_BLOCK = "output"
_CHOICE = "wq.point"
_POPULATION, _GENERATIONS = 256, 3
_AT_RANDOM = 0.2  # of the candidates that are run
_NEIGHBOURS = 2  # values of a knob, on both sides, that a mutation mostly moves to
_NEAR = 0.7
_ENOUGH = 12  # candidates of a layer, on average, for XGBoost to learn from


def context_of(task: Task, seed: int) -> ms.TuneContext:
    """What MetaSchedule knows of a layer."""
    space = task.space
    mutators = {Move(space, seed): 1.0}
    generator = ms.space_generator.ScheduleFn(
        lambda schedule: sample(schedule, space), [], [], mutators
    )
    strategy = ms.search_strategy.EvolutionarySearch(
        population_size=_POPULATION,
        init_measured_ratio=0.2,
        init_min_unmeasured=min(50, len(space.points)),
        genetic_num_iters=_GENERATIONS,
        eps_greedy=_AT_RANDOM,
    )
    with without_cuda_intrinsics():
        return ms.TuneContext(
            module_of(task),
            target=task.record.tvm_target(),
            space_generator=generator,
            search_strategy=strategy,
            task_name=task.name,
            rand_state=seed + 1,
            num_threads=1,
        )


def module_of(task: Task) -> ir.IRModule:
    """What stands for a layer in the search, which copies and hashes it thousands of times a round.

    One block that computes nothing: the layer itself is made by the builder.
    """
    cell = tirx.decl_buffer((1,), "float32", "cell")
    store = tirx.BufferStore(cell, tirx.const(0.0, "float32"), [tirx.const(0, "int32")])
    block = SBlock([], [], [], _BLOCK, store)
    root = SBlock([], [], [], "root", SBlockRealize([], True, block))
    function = tirx.PrimFunc([cell], SBlockRealize([], True, root))
    return ir.IRModule({"main": function.with_attrs({"global_symbol": "main", "wq.key": task.key})})


def sample(schedule: s_tir.Schedule, space: Space, decision: int | None = None) -> None:
    """Choose a point, or take a given one."""
    count = len(space.points)
    if count == 1:
        schedule.annotate(schedule.get_sblock(_BLOCK), _CHOICE, 0)
        return
    chosen = schedule.sample_categorical(list(range(count)), [1 / count] * count, decision)
    schedule.annotate(schedule.get_sblock(_BLOCK), _CHOICE, chosen)


class Chosen:
    """Schedules of a module that choose given points."""

    def __init__(self, module: ir.IRModule, space: Space) -> None:
        self.module, self._numbers = module, Numbers(space)
        schedule = s_tir.Schedule(module)
        sample(schedule, space, 0)
        self._trace = schedule.trace

    def trace(self, point: Point) -> s_tir.schedule.Trace | None:
        """The trace that chooses a point; None if it is none of the space."""
        number = self._numbers.of(point)
        if number is None:
            return None
        for instruction in self._trace.decisions:
            return self._trace.with_decision(instruction, number, False)
        return self._trace

    def schedule(self, point: Point) -> s_tir.Schedule | None:
        """The schedule that chooses a point; None if it is none of the space."""
        trace = self.trace(point)
        if trace is None:
            return None
        schedule = s_tir.Schedule(self.module)
        trace.apply_to_schedule(schedule, False)
        return schedule


def chosen_of(schedule: s_tir.Schedule) -> int:
    """The number of the point that a schedule chose."""
    return int(schedule.get(schedule.get_sblock(_BLOCK)).annotations[_CHOICE])


def chosen_of_module(module: ir.IRModule) -> int:
    """The number of the point that a candidate's module has."""
    return chosen_of(s_tir.Schedule(module))


@contextmanager
def without_cuda_intrinsics() -> Iterator[None]:
    """Keep TVM from importing its tensor intrinsics of CUDA: a minute or two, for none of ours."""
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = types.ModuleType(name)
    had = getattr(s_tir, "tensor_intrin", None)
    try:
        yield
    finally:
        del sys.modules[name]
        if had is None and hasattr(s_tir, "tensor_intrin"):
            del s_tir.tensor_intrin


class Numbers:
    """The numbers of a space's points."""

    def __init__(self, space: Space) -> None:
        self._numbers = {tuple(point.items()): i for i, point in enumerate(space.points)}

    def of(self, point: Point) -> int | None:
        """The number of a point; None if it is none of the space."""
        return self._numbers.get(tuple(point.items()))


@derived_object
class Move(PyMutator):
    """Moves a point along one knob, mostly to a value nearby."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__()
        self.space, self.seed = space, seed
        self.random = random.Random(seed)
        self.numbers = Numbers(space)

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        """Nothing: the space is known."""

    def apply(self, trace: s_tir.schedule.Trace, _: int) -> s_tir.schedule.Trace | None:
        """The trace with another decision; None if there is none."""
        decisions = list(trace.decisions.items())
        if not decisions:
            return None
        ((instruction, decision),) = decisions
        number = self.moved(int(decision))
        if number is None:
            return None
        return trace.with_decision(instruction, number, True)

    def moved(self, number: int) -> int | None:
        """The number of another point, which differs in one knob."""
        point = self.space.points[number]
        names = [name for name, values in self.space.knobs.items() if len(values) > 1]
        for name in self.random.sample(names, len(names)):
            values = self.space.knobs[name]
            at = values.index(point[name])
            near = [values[i] for i in range(at - _NEIGHBOURS, at + _NEIGHBOURS + 1)
                    if 0 <= i < len(values)]  # fmt: skip
            for choices in (near, values) if self.random.random() < _NEAR else (values,):
                others = [
                    found
                    for value in choices
                    if value != point[name]
                    for found in [self.numbers.of({**point, name: value})]
                    if found is not None
                ]
                if others:
                    return self.random.choice(others)
        return None

    def clone(self) -> ms.Mutator:
        """Another of the same space."""
        return Move(self.space, self.seed)


def features_of(task: Task, point: Point) -> list[float]:
    """What the ranking learns from: what is chosen, and what our cost model says about it."""
    parts, work = predicted(task, point), task.work
    found = [
        float(len(task.space.knobs)),
        *(math.log2(size) for size in (work.in_channels, work.out_channels, work.height)),
        float(task.threads),
        *(math.log2(max(part, 1e-6)) for part in (
            parts.ms, parts.products, parts.scaling, parts.transforms + 1e-6, parts.quantization,
            parts.weights, parts.traffic,
        )),
    ]  # fmt: skip
    for name, value in point.items():
        numbers = value if isinstance(value, tuple) else (value,)
        found += [math.log2(number + 1) for number in numbers]
        if len(numbers) == 2:
            found.append(math.log2(math.prod(numbers)))
        if name == "block":
            blocks = math.prod(
                math.ceil(size / edge)
                for size, edge in zip((work.out_height, work.out_width), numbers, strict=True)
            )
            found.append((blocks % task.threads) / task.threads)
    return found


@derived_object
class Features(PyFeatureExtractor):
    """The features of candidates, a row each; rows of layers of fewer knobs end in zeros."""

    LENGTH = 32

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.tasks = tasks
        self.known: dict[tuple[str, int], Any] = {}

    def extract_from(self, context: ms.TuneContext, candidates: Any) -> list[Any]:
        """Float32 (1, LENGTH) of each candidate."""
        task = self.tasks[key_of_module(context.mod)]
        return [self._row(task, chosen_of(candidate.sch)) for candidate in candidates]

    def _row(self, task: Task, number: int) -> Any:
        at = (task.key, number)
        if at not in self.known:
            row = np.zeros((1, self.LENGTH), np.float32)
            values = features_of(task, task.space.points[number])
            row[0, : len(values)] = values
            self.known[at] = tvm.runtime.tensor(row)
        return self.known[at]


def key_of_module(module: ir.IRModule) -> str:
    """The key of the layer that a module defines."""
    return str(module["main"].attrs["wq.key"])


@derived_object
class Ranking(PyCostModel):
    """Scores candidates: by our cost model, until enough is measured for XGBoost to learn from."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.tasks = tasks
        self.learned = XGBModel(extractor=Features(tasks), num_tuning_cores=1, verbose_eval=0)

    def load(self, path: str) -> None:
        """Read what was learned."""
        self.learned.load(path)

    def save(self, path: str) -> None:
        """Write what was learned."""
        self.learned.save(path)

    def update(self, context: ms.TuneContext, candidates: Any, results: Any) -> None:
        """Learn from measurements."""
        self.learned.update(context, candidates, results)

    def predict(self, context: ms.TuneContext, candidates: Any) -> Any:
        """Float64 (candidate): more is faster."""
        if self.learned.data_size >= _ENOUGH * len(self.tasks):
            return self.learned.predict(context, candidates)
        task = self.tasks[key_of_module(context.mod)]
        points = (task.space.points[chosen_of(each.sch)] for each in candidates)
        return np.array([1 / predicted(task, point).ms for point in points])

    def teach(self, context: ms.TuneContext, task: Task, journal: Journal) -> None:
        """Learn what is known of a layer from earlier sessions."""
        chosen = Chosen(context.mod, task.space)
        candidates, results = [], []
        for trial in journal.trials(task.key):
            schedule = None if trial.ms is None else chosen.schedule(trial.point)
            if schedule is not None and trial.ms is not None:
                candidates.append(MeasureCandidate(schedule, []))
                results.append(RunnerResult([trial.ms / 1e3], None))
        self.update(context, candidates, results)


def predicted(task: Task, point: Point) -> Prediction:
    """The time of a point by our cost model."""
    return counted(task.divided(point), task.threads).time(task.record.machine)


@derived_object
class Database(PyDatabase):
    """The journal, as MetaSchedule asks for it; what is new is added by the session."""

    def __init__(self, journal: Journal, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.journal, self.tasks = journal, tasks
        self.workloads: dict[str, Workload] = {}
        self.chosen: dict[str, Chosen] = {}

    def has_workload(self, mod: ir.IRModule) -> bool:
        """Whether a layer was asked for before."""
        return key_of_module(mod) in self.workloads

    def commit_workload(self, mod: ir.IRModule) -> Workload:
        """The layer's workload."""
        return self.workloads.setdefault(key_of_module(mod), Workload(mod))

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Nothing: trials are in the journal already."""

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The fastest candidates of a layer."""
        task = self.tasks[key_of_module(workload.mod)]
        chosen = self.chosen.setdefault(task.key, Chosen(workload.mod, task.space))
        known = [(trial.ms, trial.point) for trial in self.journal.trials(task.key)
                 if trial.ms is not None]  # fmt: skip
        records: list[TuningRecord] = []
        for found, point in sorted(known, key=lambda each: each[0]):
            trace = chosen.trace(point)
            if trace is not None and len(records) < top_k:
                records.append(TuningRecord(trace, workload, [found / 1e3], None, []))
        return records

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """The fastest candidates of all layers."""
        return [r for workload in self.workloads.values() for r in self.get_top_k(workload, 10**9)]

    def __len__(self) -> int:
        return sum(len(list(self.journal.trials(key))) for key in self.workloads)
