"""A competitor's process: it makes subjects of the race ready and times them, when it is told to.

It reads commands from its standard input and writes a reply for each, both JSON lines:

    {"do": "prepare", "variant": NAME, "folder": PATH}   {"workspace": bytes or null} or {"cannot": why}
    {"do": "turn", "variant": NAME, "seconds": 0.1}       {"seconds": [each run], "quality": of the last}
    {"do": "drop"}                                        {}

What the libraries print goes to standard error.
"""  # noqa: E501

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from wqtvm.errors import WqtvmError

from .peers.base import CannotRunError, Problem, Runner, Setting

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LAYERS = f"{__package__}.peers"
MOST_RUNS = 1000  # a turn
PR_SET_PDEATHSIG = 1


class Worker:
    """What is ready, by variant, of a competitor in a package of peers."""

    def __init__(self, name: str, setting: Setting, package: str = LAYERS) -> None:
        self.peers = importlib.import_module(package)
        self.competitor = next(each for each in self.peers.COMPETITORS if each.name == name)
        self.setting = setting
        self.ready: dict[str, tuple[Runner, Problem]] = {}

    def prepare(self, variant: str, folder: str) -> dict[str, Any]:
        """Make a subject ready, whose data are in a folder."""
        problem = self.peers.Problem(Path(folder))
        try:
            module = importlib.import_module(f".{self.competitor.module}", self.peers.__name__)
            runner = module.prepare(self.competitor.variant(variant), problem, self.setting)
        except (CannotRunError, WqtvmError) as error:
            return {"cannot": str(error)}
        except Exception as error:  # a library's own, of whatever kind: the table names it
            return {"cannot": f"{type(error).__name__}: {error}"}
        self.ready[variant] = runner, problem
        return {"workspace": getattr(runner, "workspace", None)}

    def turn(self, variant: str, seconds: float) -> dict[str, Any]:
        """Run once to warm up, then time runs for so long, and check the last one's result."""
        if variant not in self.ready:  # made ready by a process that has ended since
            return {"cannot": "the process that had made it ready ended"}
        runner, problem = self.ready[variant]
        clock = CLOCKS[self.setting.clock]
        runner.run()
        times: list[float] = []
        while not times or (sum(times) < seconds and len(times) < MOST_RUNS):
            start = clock()
            runner.run()
            times.append(clock() - start)
        return {"seconds": times, "quality": problem.judge(runner.output())}

    def drop(self) -> dict[str, Any]:
        """Forget what is ready."""
        self.ready.clear()
        gc.collect()
        return {}


def main() -> None:
    # The race stops workers that are not at their turn: without this, they would outlive it so.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    package, name, setting = sys.argv[1:]
    worker = Worker(name, Setting(**json.loads(setting)), package)
    for line in sys.stdin:
        command = json.loads(line)
        reply = getattr(worker, command.pop("do"))(**command)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
