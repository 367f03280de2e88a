"""The race: single 3x3 convolutions by wqtvm and by its peers.

    python -m benchmarks.layers                                   all of it: hours
    python -m benchmarks.layers --layers SR ResNet --threads 1 --batches 1
    python -m benchmarks.layers --peers "wqtvm F(4,3)" pytorch-int8 --rounds 15
    python -m benchmarks.layers --isa vnni                        without AMX, where there is any
    python -m benchmarks.layers --show                            print what is measured already

Each library has a process of its own, with its own number of threads and ISA, that is stopped
whenever it is not at its turn. In each round each variant runs once to warm up, then for --seconds,
and the last result is compared with float32: the tables have its SQNR beside the time. A contest,
one layer by all, is added to a file of JSON lines as soon as it is over, and not held again while
the machine, wqtvm's sources and the names asked for stay the same: stop with Ctrl-C when you like.
A library that is not installed, or cannot run a layer, is named with the reason; for all of them:

    pip install -r benchmarks/layers/requirements.txt
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .. import peaks as meter
from ..peaks.__main__ import table as peaks_table
from . import layers, peers, tables
from .arguments import add_arguments, check
from .layers import Layer
from .peers import Setting
from .peers.base import ISAS
from .race import Race
from .results import Record, Results, code_hash, machine_name

RESULTS = Path("out/layers.jsonl")


def main() -> int:
    options = parse()
    try:
        chosen = layers.chosen(options.layers, options.batches)
        entries = peers.chosen(options.peers)
        settings = [
            Setting(threads, isa, options.clock)
            for isa in options.isa
            for threads in options.threads
        ]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [variant.name for _, group in entries for variant in group]
    results = Results(options.json, machine=machine_name(), code=code_hash())
    try:
        if not options.show:
            hold(chosen, settings, entries, names, results, options)
    except KeyboardInterrupt:
        print("\nstopped; the contests that were over are kept", file=sys.stderr)
    except meter.PeaksError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(chosen, settings, names, results, fastest=options.fastest)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--layers", nargs="+", default=[], metavar="PART", help="parts of names, or patterns (all)")
    add("--batches", nargs="+", type=int, default=[1, 2])
    add_arguments(parser, peers.COMPETITORS)
    add("--isa", nargs="+", choices=ISAS, default=["best"], help="default: best")
    add("--json", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    add("--again", action="store_true", help="hold contests anew")
    add("--show", action="store_true", help="measure nothing, print what is there")
    add("--fastest", action="store_true",
        help="tables of each variant's fastest round, for a CPU that changes its speed meanwhile, "
        "such as AMX; default: the median of all rounds")  # fmt: skip
    options = parser.parse_args()
    check(parser, options)
    if min(options.batches) < 1:
        parser.error("--batches have to be 1 or more")
    return options


def hold(
    chosen: list[Layer],
    settings: list[Setting],
    entries: list[tuple[peers.Competitor, list[peers.Variant]]],
    names: list[str],
    results: Results,
    options: argparse.Namespace,
) -> None:
    """Hold all contests that were not held yet."""
    todo = {
        setting: [
            layer for layer in chosen
            if options.again or results.find(layer, setting, names) is None
        ]
        for setting in settings
    }  # fmt: skip
    total, done, started = sum(map(len, todo.values())), 0, time.monotonic()
    work_done, work = 0.0, sum(effort(layer) for group in todo.values() for layer in group)
    for setting, group in todo.items():
        if not group:
            continue
        peaks = meter.measure(setting.threads)
        has_amx = peaks.amx is not None
        with Race(entries, setting, has_amx=has_amx, say=say) as race:
            for layer in group:
                if has_amx:  # whose speed may have changed
                    peaks = meter.measure(setting.threads)
                say(f"{layer.name}, {setting.threads} threads, {setting.isa}")
                contest = race.run(layer, options.rounds, options.seconds)
                record = results.add(layer, setting, peaks, contest)
                done, work_done = done + 1, work_done + effort(layer)
                spent = time.monotonic() - started
                left = spent / work_done * (work - work_done)
                say(f"[{done}/{total}] {outcome(record)}; {spent / 60:.0f} min, "
                    f"{left / 60:.0f} min left")  # fmt: skip


def effort(layer: Layer) -> float:
    """What a contest takes, in arbitrary units, for the estimate of the time left."""
    return 1.0 + layer.macs / 5e9


def outcome(record: Record) -> str:
    """One line of a contest."""
    parts = [record.layer.name]
    for ours in (False, True):
        row = tables.best(record.contest.rows, ours=ours)
        if row:
            parts.append(f"{row.name} {tables.milliseconds(row.ms)} ms")
    times = tables.ratio(record)
    return ", ".join(parts) + (f": {times:.2f} times" if times is not None else "")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(
    chosen: list[Layer],
    settings: list[Setting],
    names: list[str],
    results: Results,
    *,
    fastest: bool,
) -> None:
    """Print the tables of what there is."""
    print(f"{results.machine}; wqtvm's sources {results.code}")
    for setting in settings:
        records = [
            record for layer in chosen
            if (record := results.records.get((layer, setting))) is not None
        ]  # fmt: skip
        if not records:
            continue
        if fastest:
            records = [tables.fastest(record) for record in records]
        print(f"\n## {setting.threads} thread{'s' * (setting.threads > 1)}, {setting.isa}\n")
        print("\n".join(peaks_table([records[-1].peaks])), "\n")
        print("\n".join(tables.summary_table(records, names)), "\n")
        print("\n".join(tables.workspace_table(records)), "\n")
        for record in records:
            print("\n".join(tables.contest_table(record)), "\n")
        print(versions(records), "\n")
    if any(setting == s for _, s in results.records for setting in settings):
        print("\n\n".join(tables.notes(fastest=fastest)))


def versions(records: list[Record]) -> str:
    """One line with the libraries' versions."""
    found = {row.name: row.version for record in records for row in record.contest.rows}
    texts = {
        f"{each.packages[0]} {found[variant.name]}": None
        for each in peers.COMPETITORS
        for variant in each.variants
        if variant.name in found
    }
    return ", ".join(texts)


if __name__ == "__main__":
    sys.exit(main())
