"""What else the machine does while something is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")  # a second
USER, SYSTEM = 13, 14  # fields of /proc/PID/stat, counted from 0
IDLE = (3, 4)  # fields of the first line of /proc/stat: idle, and waiting for disks
COUNTED = 8  # the fields after it count guests a second time


class Others:
    """CPUs that other processes keep busy within a ``with``, after it in ``cpus``.

    Parameters
    ----------
    pids : of processes whose time, as that of this one, is not that of others.
    """

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self.pids = (os.getpid(), *pids)
        self.cpus = 0.0

    def __enter__(self) -> Others:
        self.start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        wall, others = (end - start for end, start in zip(self._now(), self.start, strict=True))
        self.cpus = max(0.0, others / wall)

    def _now(self) -> tuple[float, float]:
        """Seconds of the clock, and CPU seconds of the others."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1 : 1 + COUNTED]
        busy = sum(int(value) for index, value in enumerate(fields) if index not in IDLE)
        return time.monotonic(), busy / TICKS - sum(map(_cpu_seconds, self.pids))


def _cpu_seconds(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0  # it has ended
    fields = text.rsplit(")", 1)[1].split()  # a command's name may hold spaces
    # The name and what is before it are fields 0 and 1.
    return (int(fields[USER - 2]) + int(fields[SYSTEM - 2])) / TICKS
