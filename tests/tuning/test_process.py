"""Workers that crash, hang, fail, and go on."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator

import pytest

from wqtvm.tuning.process import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker({"ANSWER": "42"})
    yield made
    made.kill()


def test_it_calls_with_its_environment(worker: Worker) -> None:
    assert worker.call(os.getenv, "ANSWER", seconds=30) == "42"
    first = worker.call(os.getpid, seconds=30)
    assert first == worker.call(os.getpid, seconds=30) != os.getpid()


def test_errors_arrive(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        worker.call(divmod, 1, 0, seconds=30)
    with pytest.raises(RuntimeError, match="NotEligibleError: no such layer"):
        worker.call(raise_ours, seconds=30)
    assert worker.call(abs, -3, seconds=30) == 3


def raise_ours() -> None:
    from wqtvm.errors import NotEligibleError

    raise NotEligibleError("no such layer")


def test_a_hang_that_holds_all_locks_is_ended(worker: Worker) -> None:
    pid = worker.call(os.getpid, seconds=30)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="not done in 1 s"):
        worker.call(sleep_with_the_lock, 60, seconds=1)
    assert time.monotonic() - started < 20
    assert worker.call(os.getpid, seconds=30) != pid


def sleep_with_the_lock(seconds: int) -> None:
    """As an endless loop in compiled code: no other Python thread of the process runs."""
    ctypes.PyDLL(None).sleep(seconds)


def test_a_crash_is_told(worker: Worker) -> None:
    with pytest.raises(ChildProcessError, match="SIGABRT"):
        worker.call(os.abort, seconds=30)
    with pytest.raises(ChildProcessError, match=r"code 3.*last words"):
        worker.call(say_and_exit, seconds=30)
    assert worker.call(abs, -3, seconds=30) == 3


def say_and_exit() -> None:
    print("last words", flush=True)
    os._exit(3)
