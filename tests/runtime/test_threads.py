"""The width of TVM's pools, seen from inside: how many tasks a parallel loop is cut into."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from wqtvm.errors import ConfigError
from wqtvm.runtime.threads import get_num_threads, set_num_threads
from wqtvm.target import usable_cpus

# Run in fresh processes, since a pool's size is fixed at its first use.
PROBE = """
import ctypes, json, os, sys, threading
from pathlib import Path

before = sorted(os.sched_getaffinity(0))
import tvm
import wqtvm
from wqtvm.runtime import threads

class Environment(ctypes.Structure):
    _fields_ = [("sync", ctypes.c_void_p), ("tasks", ctypes.c_int32)]

TASK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.POINTER(Environment), ctypes.c_void_p
)
runtime = ctypes.CDLL(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime.so"))

def width():
    workers = set()

    def task(index, environment, data):
        workers.add((index, threading.get_native_id()))
        return 0

    runtime.TVMBackendParallelLaunch(TASK(task), None, 0)
    return len(workers)

def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]

answer = {"default": width(), "other thread": in_thread(width)}
for count in json.loads(sys.argv[1]):
    threads.set_num_threads(count)
    answer[str(count)] = [width(), threads.get_num_threads(), in_thread(width)]
answer["pinned"] = sorted(os.sched_getaffinity(0)) != before
print(json.dumps(answer))
"""


def _probe(counts: list[int], cpus: set[int] | None = None, **environment: str) -> dict:
    """Return what PROBE prints for these thread counts, on these CPUs only."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TVM_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(counts)],
        env=clean | environment,
        preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


def test_default_is_every_usable_cpu_in_every_thread():
    cpus = usable_cpus()
    answer = _probe([1, cpus])
    assert answer["default"] == answer["other thread"] == cpus
    assert answer["1"] == [1, 1, 1]
    assert answer[str(cpus)] == [cpus] * 3
    assert answer["pinned"] is False


def test_cpus_that_the_process_may_not_use_are_left_alone():
    last = max(os.sched_getaffinity(0))
    answer = _probe([], cpus={last})
    assert answer["default"] == 1
    assert answer["pinned"] is False


@pytest.mark.parametrize("variable", ["TVM_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_environment_is_honoured(variable):
    answer = _probe([], **{variable: "1"})
    assert answer["default"] == answer["other thread"] == 1
    # TVM itself would pin the main thread to CPU 0 here.
    assert answer["pinned"] is False


def test_threads_of_this_process_can_be_set_and_restored(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", os.environ["TVM_NUM_THREADS"])
    before = get_num_threads()
    try:
        set_num_threads(1)
        assert get_num_threads() == 1
    finally:
        set_num_threads(before)
    assert get_num_threads() == before


def test_more_threads_than_the_pool_was_made_with_are_refused(monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", os.environ["TVM_NUM_THREADS"])
    before = get_num_threads()
    with pytest.raises(ConfigError, match="TVM_NUM_THREADS=4096"):
        set_num_threads(4096)
    assert get_num_threads() == before
    assert os.environ["TVM_NUM_THREADS"] != "4096"


def test_zero_threads_are_refused():
    with pytest.raises(ConfigError, match="number of threads is 0"):
        set_num_threads(0)
