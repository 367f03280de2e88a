"""What happens in processes of its own: building a candidate, running it, racing some of them.

A candidate may crash or hang: its process is then ended, and the session goes on. Inputs and
weights are random, one seed for all: what a kernel takes does not depend on them. Each result is
compared, to the bit, with what the default kernel gives, and that with the numpy reference.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..schedules.space import Point
from ..topi.layer import packed_weights
from .task import Task

_SEED = 0
# Milliseconds of all runs of a candidate, and of its turn in a race.
_MEASURE_MS, _TURN_MS = 60.0, 6.0
_FIRST_RUNS, _MOST_RUNS = 3, 200
# Others use the machine, too, and a thread that waits for another may wait for its turn: what
# counts is what a tenth of the runs take at most.
_QUIET = 0.1
_SESSION_SECONDS = 600  # after which a server drops a session
_CHECKED_MACS = 2 * 10**9  # more are compared with the reference on some output channels only
_LANES = 16


@dataclass(frozen=True)
class Remote:
    """Where candidates run, if not here.

    Attributes
    ----------
    tracker : "host:port" of TVM's RPC tracker.
    device : the name by which servers registered with it.
    """

    tracker: str
    device: str


@dataclass(frozen=True)
class Default:
    """A layer's default kernel: its library, its milliseconds, and the SHA-256 of its result."""

    path: str
    ms: float
    digest: str


@dataclass(frozen=True)
class Measured:
    """What a candidate took, in milliseconds while the default kernel takes what it took first.

    Attributes
    ----------
    ms : milliseconds that a tenth of the runs took at most: undisturbed ones.
    median_ms : the median of all runs.
    runs : how many there were.
    digest : SHA-256 of the result.
    """

    ms: float
    median_ms: float
    runs: int
    digest: str


def build(task: Task, point: Point, path: str) -> None:
    """Compile a candidate into a library."""
    import tvm

    from ..runtime.artefact import linker

    library = tvm.compile(task.scheduled(point), target=task.record.tvm_target())
    library.export_library(path, cc=linker(task.record))


def measure(
    task: Task,
    point: Point,
    path: str,
    default: Default | None,
    remote: Remote | None,
) -> Measured:
    """Run a candidate, compare its result, and take its time.

    Parameters
    ----------
    default : the default kernel, which runs before and after, here: a machine is now faster, now
        slower, and what counts is the candidate's time in the default's. If None, this is the
        default kernel itself, and its result is compared with the numpy reference.

    Raises
    ------
    ArithmeticError
        If the result is another.
    """
    session = _session(task, remote)
    loaded = _Loaded(task, point, path, session)
    result = loaded.result()
    digest = hashlib.sha256(result.tobytes()).hexdigest()
    if default is None:
        _check(task, result)
    elif digest != default.digest:
        raise ArithmeticError("its result is not the default kernel's")
    if default is None or remote is not None:  # a device is taken to do nothing else meanwhile
        ms, scale = loaded.ms(_MEASURE_MS), 1.0
    else:
        reference = _Loaded(task, task.space.default, default.path, session)
        before = reference.ms(_MEASURE_MS / 2)
        ms = loaded.ms(_MEASURE_MS)
        scale = default.ms / _quiet([*before, *reference.ms(_MEASURE_MS / 2)])
    return Measured(scale * _quiet(ms), scale * float(np.median(ms)), len(ms), digest)


def _quiet(ms: Sequence[float]) -> float:
    """What a tenth of some runs take at most."""
    return float(np.quantile(ms, _QUIET))


def race(
    task: Task, candidates: Sequence[tuple[Point, str]], rounds: int, remote: Remote | None
) -> list[list[float]]:
    """Milliseconds of some candidates that take turns, a list each; the first round is dropped."""
    session = _session(task, remote)
    loaded = [_Loaded(task, point, path, session) for point, path in candidates]
    found: list[list[float]] = [[] for _ in loaded]
    for index in range(rounds + 1):
        for i in range(len(loaded)) if index % 2 else reversed(range(len(loaded))):
            ms = _quiet(loaded[i].ms(_TURN_MS))
            if index:
                found[i].append(ms)
    return found


class _Loaded:
    """A library with its arguments, here or where an RPC session leads."""

    def __init__(self, task: Task, point: Point, path: str, session: Any) -> None:
        import tvm

        kind = "cuda" if task.record.architecture == "cuda" else "cpu"
        if session is None:
            self._library = tvm.runtime.load_module(path)
            self._device = tvm.device(kind, 0)
        else:
            session.upload(path)
            self._library = session.load_module(Path(path).name)
            self._device = session.device(kind, 0)
        work = task.work
        shape = (work.batch, work.out_height, work.out_width, work.out_channels)
        result = _stored(np.full(shape, np.nan, np.float32), task.images)
        self._runs = 0.0  # milliseconds of one; 0 before it is known
        self._arguments = [
            *_tensors(task, point, self._device, is_here=session is None),
            tvm.runtime.tensor(result, self._device),
        ]

    def result(self) -> NDArray[Any]:
        """Run it once."""
        self._library["main"](*self._arguments)
        result: NDArray[Any] = self._arguments[-1].numpy()
        return result

    def ms(self, duration: float) -> list[float]:
        """Milliseconds of each of some runs, which take about so many together."""
        if not self._runs:
            self._timed(1)  # warms up
            self._runs = 1e-3 + min(self._timed(_FIRST_RUNS))
        return self._timed(round(min(max(duration / self._runs, _FIRST_RUNS), _MOST_RUNS)))

    def _timed(self, runs: int) -> list[float]:
        evaluator = self._library.time_evaluator("main", self._device, number=1, repeat=runs)
        return [1e3 * float(each) for each in evaluator(*self._arguments).results]


def _session(task: Task, remote: Remote | None) -> Any:
    """A session on a device, or None for this machine, if it has what the target needs."""
    if remote is None:
        from ..runtime import cpu

        cpu.require(task.record)  # asks for AMX, too
        return None
    from tvm import rpc

    # A server is free when the last session with it is: not while its frames wait to be collected,
    # as those do from which TVM's script modules, whose decorators keep the stack, were imported.
    gc.collect()
    host, _, port = remote.tracker.rpartition(":")
    tracker = rpc.connect_tracker(host, int(port))
    return tracker.request(remote.device, session_timeout=_SESSION_SECONDS, max_retry=1)


_DATA: dict[str, Any] = {}  # of the last task: candidates of one come one after the other


def _data(task: Task) -> tuple[NDArray[np.float32], Any]:
    """The input, and quantized weights."""
    from ..quantization import QuantizedWeights
    from ..quantization.bfloat16_reference import bfloat16_bits

    if task.key not in _DATA:
        _DATA.clear()
        work = task.work
        rng = np.random.default_rng(_SEED)
        x = rng.standard_normal(
            (work.batch, work.height, work.width, work.in_channels), dtype=np.float32
        )
        # Groups as they are quantized: some kernels store parts of one as groups.
        groups = work.scheme.groups(work.in_channels)
        taps, shape = work.scheme.products, (work.out_channels, groups)
        size = work.scheme.channels_per_group(work.in_channels)
        u: NDArray[Any] = rng.integers(-127, 128, (*taps, *shape, size), dtype=np.int8)
        if work.scheme.is_bfloat16:
            # Sums of integers have the same bits in any order.
            x = np.rint(2 * x)
            u = bfloat16_bits(u[..., : work.in_channels].astype(np.float32))
        step = rng.uniform(0.5e-3, 1.5e-3, (*taps, *shape)).astype(np.float32)
        if work.scheme.weight_steps == "filter":
            step = np.broadcast_to(step[:1, :1], step.shape).copy()
        # Values that images of the dtype have.
        x = _stored(x, task.images).astype(np.float32, copy=False)
        _DATA[task.key] = x, QuantizedWeights(u, step, work.in_channels)
    found: tuple[NDArray[np.float32], Any] = _DATA[task.key]
    return found


def _arguments(task: Task, point: Point) -> list[NDArray[Any]]:
    x, weights = _data(task)
    divided = task.divided(point)
    packed = f"packed {divided.packed_shape}"
    if packed not in _DATA:
        _DATA[packed] = list(packed_weights(weights, divided).values())
    return [_stored(x, task.images), *_DATA[packed]]


def _tensors(task: Task, point: Point, device: Any, is_here: bool) -> list[Any]:
    """The arguments on a device; candidates that run here share them, up to 100 MB and more."""
    import tvm

    def tensors() -> list[Any]:
        return [tvm.runtime.tensor(array, device) for array in _arguments(task, point)]

    if not is_here:
        return tensors()
    _data(task)  # what is placed is then of this task
    placed = f"placed {task.divided(point).packed_shape}"
    if placed not in _DATA:
        _DATA[placed] = tensors()
    shared: list[Any] = _DATA[placed]
    return shared


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Values as images of a dtype have them, rounded to the nearest, ties to even."""
    import ml_dtypes

    stored = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return values.astype(stored, copy=False)


def _check(task: Task, result: NDArray[Any]) -> None:
    """Compare a result with the numpy reference.

    Raises
    ------
    ArithmeticError
        If a bit differs: says of how many values.
    """
    from ..quantization import convolution_reference, direct_reference
    from ..topi.direct_workload import DirectWorkload

    x, weights = _data(task)
    work = task.work
    size = _LANES if work.scheme.precision == "hadamard" else work.scheme.group_size
    channels = np.arange(work.out_channels)
    if task.macs > _CHECKED_MACS and 0 < 2 * size < work.out_channels:
        # Each is computed by itself, or with its group: the first, and the last whole one.
        last = work.out_channels // size * size - size
        channels = np.concatenate((channels[:size], channels[last : last + size]))
    part = replace(weights, u=weights.u[:, :, channels], step=weights.step[:, :, channels])
    if isinstance(work, DirectWorkload):
        expected = direct_reference(x, part, work.scheme, work.padding, stride=work.stride).output
    else:
        expected = convolution_reference(x, part, work.scheme, work.padding).output
    found, expected = result[..., channels], _stored(expected, task.images)
    bits = f"int{8 * found.itemsize}"
    differ = np.count_nonzero(found.view(bits) != expected.view(bits))
    if differ:
        raise ArithmeticError(
            f"its result differs from the reference in {differ} of {expected.size} values"
        )


def now() -> str:
    """The time, as records have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
