"""Measure and print the peaks of this machine.

    python -m benchmarks.peaks --threads 1 2
    python -m benchmarks.peaks --threads 1 --json peaks.json

The file tells algorithm "auto" what machine to plan for: wqtvm compile --algorithm auto --peaks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from . import Peaks, PeaksError, measure

ROWS = (
    ("float32", "float32 FMA", "GFLOPS"),
    ("float32_ymm", "float32 FMA ymm", "GFLOPS"),
    ("bfloat16", "vdpbf16ps zmm", "GFLOPS"),
    ("vnni", "vpdpbusd zmm", "GOPS"),
    ("avx_vnni", "vpdpbusd ymm", "GOPS"),
    ("avx2", "vpmaddwd + vpaddd ymm", "GOPS"),
    ("amx", "tdpbssd, tiles from L1", "GOPS"),
    ("l1", "read from L1", "GB/s"),
    ("l2", "read from L2", "GB/s"),
    ("l3", "read from L3", "GB/s"),
    ("memory", "read from memory", "GB/s"),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peaks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = sorted({1, len(os.sched_getaffinity(0))})
    parser.add_argument("--threads", type=int, nargs="+", default=default)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write them there, too")
    options = parser.parse_args()
    try:
        columns = [measure(threads) for threads in options.threads]
    except PeaksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(columns)))
    if options.json:
        options.json.write_text(json.dumps([peaks.to_dict() for peaks in columns], indent=2) + "\n")
    return 0


def table(columns: list[Peaks]) -> list[str]:
    """Lines of a table in Markdown: rates of one core, threads a column."""
    heads = [f"{peaks.threads} thread{'s' * (peaks.threads > 1)}" for peaks in columns]
    lines = [f"| a core | {' | '.join(heads)} | |", f"|---|{'---:|' * len(heads)}---|"]
    for field, text, unit in ROWS:
        cells = [_rate(getattr(peaks, field), peaks.threads) for peaks in columns]
        lines.append(f"| {text} | {' | '.join(cells)} | {unit} |")
    return lines


def _rate(rate: float | None, threads: int) -> str:
    return "absent" if rate is None else f"{rate / threads / 1e9:.3g}"


if __name__ == "__main__":
    sys.exit(main())
