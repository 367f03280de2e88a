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
from tvm import ir, s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.cost_model import XGBModel
from tvm.s_tir.meta_schedule.database import PyDatabase, TuningRecord, Workload
from tvm.s_tir.meta_schedule.feature_extractor import PyFeatureExtractor
from tvm.s_tir.meta_schedule.mutator import PyMutator

from ..planning.cost import counted
from ..schedules.space import Point, Space
from .journal import Journal
from .task import Task, definition_of

logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)

_BLOCK = "output"
_CHOICE = "wq.point"
_POPULATION, _GENERATIONS = 256, 3
_NEIGHBOURS = 2  # values of a knob, on both sides, that a mutation mostly moves to
_NEAR = 0.7


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
    """The layer's definition, as it is before anything is chosen."""
    return ir.IRModule({"main": definition_of(task.work).with_attr("wq.key", task.key)})


def sample(schedule: s_tir.Schedule, space: Space, decision: int | None = None) -> None:
    """Choose a point, or take a given one."""
    count = len(space.points)
    if count == 1:
        schedule.annotate(schedule.get_sblock(_BLOCK), _CHOICE, 0)
        return
    chosen = schedule.sample_categorical(list(range(count)), [1 / count] * count, decision)
    schedule.annotate(schedule.get_sblock(_BLOCK), _CHOICE, chosen)


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


@derived_object
class Move(PyMutator):
    """Moves a point along one knob, mostly to a value nearby."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__()
        self.space, self.seed = space, seed
        self.random = random.Random(seed)
        self.numbers: dict[tuple[Any, ...], int] = {}

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
        if not self.numbers:
            points = self.space.points
            self.numbers = {tuple(point.values()): i for i, point in enumerate(points)}
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
                    for found in [self.numbers.get(tuple({**point, name: value}.values()))]
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
    divided = task.divided(point)
    parts = counted(divided, task.threads).time(task.record.machine)
    work = task.work
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


def cost_model_of(tasks: Mapping[str, Task]) -> XGBModel:
    """XGBoost's ranking, of all layers together."""
    return XGBModel(
        extractor=Features(tasks), num_warmup_samples=24, num_tuning_cores=1, verbose_eval=0
    )


@derived_object
class Database(PyDatabase):
    """The journal, as MetaSchedule asks for it; what is new is added by the session."""

    def __init__(self, journal: Journal, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.journal, self.tasks = journal, tasks
        self.workloads: dict[str, Workload] = {}

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
        numbers = {tuple(p.items()): i for i, p in enumerate(task.space.points)}
        known = [
            (trial.ms, numbers[tuple(trial.point.items())])
            for trial in self.journal.trials(task.key)
            if trial.ms is not None and tuple(trial.point.items()) in numbers
        ]
        return [self._record(workload, task, ms_, n) for ms_, n in sorted(known)[:top_k]]

    def _record(self, workload: Workload, task: Task, found: float, number: int) -> TuningRecord:
        schedule = s_tir.Schedule(workload.mod)
        sample(schedule, task.space, number)
        arguments = ArgInfo.from_entry_func(workload.mod, remove_preproc=True)
        return TuningRecord(schedule.trace, workload, [found / 1e3], None, arguments)

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """The fastest candidates of all layers."""
        return [r for workload in self.workloads.values() for r in self.get_top_k(workload, 10**9)]

    def __len__(self) -> int:
        return sum(len(list(self.journal.trials(key))) for key in self.workloads)


def learn_from(model: XGBModel, context: ms.TuneContext, task: Task, journal: Journal) -> None:
    """Teach a ranking what is known of a layer already."""
    from tvm.s_tir.meta_schedule.runner import RunnerResult
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

    numbers = {tuple(p.items()): i for i, p in enumerate(task.space.points)}
    candidates, results = [], []
    for trial in journal.trials(task.key):
        number = numbers.get(tuple(trial.point.items()))
        if number is None or trial.ms is None:
            continue
        schedule = s_tir.Schedule(context.mod)
        sample(schedule, task.space, number)
        candidates.append(MeasureCandidate(schedule, []))
        results.append(RunnerResult([trial.ms / 1e3], None))
    if candidates:
        model.update(context, candidates, results)
