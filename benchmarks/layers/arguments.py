"""The arguments that races have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

from .peers.base import CLOCKS, Competitor


def add_arguments(parser: argparse.ArgumentParser, competitors: Iterable[Competitor]) -> None:
    """Add who takes part, and how it is timed."""
    known = ", ".join(each.name for each in competitors)
    add = parser.add_argument
    add("--peers", nargs="+", default=[], metavar="NAME",
        help=f"{known}, or starts of the names of rows (all)")  # fmt: skip
    add("--threads", nargs="+", type=int, default=sorted({1, min(2, _cpus())}))
    add("--clock", choices=CLOCKS, default="wall",
        help="cpu: of one thread, for a machine that others use; default: wall")  # fmt: skip
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, default=0.1, help="of a turn, at least one run; default: 0.1")


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with an error where a number is impossible."""
    if max(options.threads) > _cpus():
        parser.error(f"--threads {max(options.threads)}: this process may use {_cpus()} CPUs")
    if min(options.threads) < 1 or options.rounds < 1:
        parser.error("--threads and --rounds have to be 1 or more")


def _cpus() -> int:
    return len(os.sched_getaffinity(0))
