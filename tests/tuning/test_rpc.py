"""A session over TVM's RPC: a tracker and two servers, one of which is killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuning_layers import layer, task

import wqtvm
from wqtvm.quantization.plan import Plan
from wqtvm.tuning.journal import Journal
from wqtvm.tuning.workers import Remote

HOST, KEY = "127.0.0.1", "board"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tornado") is None, reason="TVM's RPC tracker needs tornado"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def servers() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A tracker's address, and two servers, each the leader of a process group."""
    port = free_port()
    environment = {**os.environ, "TVM_NUM_THREADS": "1"}

    def start(*command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    started = [
        start(
            "tvm.exec.rpc_tracker",
            "--host",
            HOST,
            "--port",
            str(port),
            "--port-end",
            str(port + 1),
            "--silent",
        )
    ]
    address = f"{HOST}:{port}"
    try:
        wait_for(lambda: reachable(port))
        for _ in range(2):
            first = free_port()
            started.append(
                start(
                    "tvm.exec.rpc_server", "--host", HOST, "--tracker", address, "--key", KEY,
                    "--port", str(first), "--port-end", str(first + 50), "--silent",
                )
            )  # fmt: skip
        wait_for(lambda: registered(port) == 2)
        yield address, started[1:]
    finally:
        for process in started:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_for(condition: object, seconds: float = 90) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the tracker or its servers do not come up"
        time.sleep(0.3)


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def registered(port: int) -> int:
    from tvm import rpc

    summary = rpc.connect_tracker(HOST, port).summary()
    return int(summary["queue_info"].get(KEY, {}).get("free", 0))


def test_a_session_outlives_one_of_its_servers(
    tmp_path: Path, servers: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, (first, _) = servers
    killed = []

    def watch(standings: object, trials: int, seconds: float) -> None:
        if trials == 3 and not killed:
            kill(first)
            killed.append(trials)

    path = tmp_path / "db.jsonl"
    outcome = wqtvm.tune(
        Plan((layer(),)), database=path, trials=6, threads=1,
        remote=Remote(address, KEY), candidate_seconds=25, watch=watch,
    )  # fmt: skip
    assert killed
    assert outcome.trials == 6
    (standing,) = outcome.standings
    assert not standing.problem
    assert standing.gain >= 1
    assert standing.failed == 0
    assert all(trial.ms for trial in Journal(path).trials(task(1).key))
