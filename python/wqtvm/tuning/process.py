"""A process that calls functions for another, and may crash or hang without harm.

The one that asks keeps the time: a candidate in an endless loop may hold whatever lock its own
process has. What hangs is killed; a new process is started for the next call.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_START_SECONDS = 120.0
_LAST = 300  # characters of what a process that crashed has printed


class Worker:
    """One process, started by the first call.

    Parameters
    ----------
    environment : variables that it has besides this process's.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """Call a function of a module there.

        Raises
        ------
        TimeoutError
            If it takes longer.
        ChildProcessError
            If the process ends: says by which signal, and what it printed last.
        Exception
            Whatever the function raises.
        """
        connection = self._started()
        try:
            connection.send((function, arguments))
            if not connection.poll(seconds):
                self.kill()
                raise TimeoutError(f"not done in {seconds:.0f} s")
            failed, value = connection.recv()
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(self._epitaph()) from error
        if failed:
            raise value
        return value

    def kill(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
        self._process = self._connection = None

    def _started(self) -> Connection[Any, Any]:
        if self._process is not None and self._process.poll() is not None:
            self.kill()
        if self._connection is None:
            ours, theirs = socket.socketpair()
            self._printed.truncate(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                env={**os.environ, **self._environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # Ctrl-C is not for it
            )
            theirs.close()
            self._connection = Connection(ours.detach())
            if not self._connection.poll(_START_SECONDS):
                self.kill()
                raise TimeoutError(f"a worker did not start in {_START_SECONDS:.0f} s")
            self._connection.recv()
        return self._connection

    def _epitaph(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._printed.seek(0)
        printed = self._printed.read().decode(errors="replace").strip()[-_LAST:]
        self.kill()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return f"the process was {how}" + (f": {printed}" if printed else "")


def _serve(connection: Connection[Any, Any]) -> None:
    """Call functions until the other side is gone."""
    connection.send("ready")
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = False, function(*arguments)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            kept = error if type(error).__module__ == "builtins" else RuntimeError(text)
            answer = True, kept.with_traceback(None)
        connection.send(answer)


if __name__ == "__main__":
    # TVM imports PyTorch where it is there: half of the time that a worker takes to start.
    sys.modules["torch"] = None  # type: ignore[assignment]
    _serve(Connection(int(sys.argv[1])))
