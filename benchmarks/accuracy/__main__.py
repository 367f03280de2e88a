"""The laboratory: what quantized fast convolutions cost trained networks.

    python -m benchmarks.accuracy table                      measure, and print the tables
    python -m benchmarks.accuracy table --networks ffdnet --variants F4 direct-tap
    python -m benchmarks.accuracy show                       print what is measured already
    python -m benchmarks.accuracy plots --output plots       draw it

Everything that is measured is added to a file of JSON lines at once, and not measured again: stop
with Ctrl-C when you like. --again measures anew. Names of variants start with the algorithm: F2,
F4 (the best points), F4-lavin, F6, F3-complex, F5-complex and F6-complex (with the points +-i),
SFC4, SFC6, direct-filter and direct-tap (a weight step a filter or a tap), direct-image (a step an
image, and a filter), auto (planned without data) and auto-data (on the first input and its truth),
which minimize time, with "-fewest" multiplications; then the precision, the scales, and "tile" or
"axis" where a group of channels shares a step. Behind a whole name "-g64" is for groups of 64
channels (0: of all), and "-calibrated" for channels balanced and mean errors taken off by made-up
inputs, as auto does.
F4:0,2/3,-2/3,4/3,-4/3 is F(4,3) in precision hadamard with points of your own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

from wqtvm import WinogradConfig
from wqtvm.errors import ConfigError, WqtvmError
from wqtvm.planning.candidates import saved

from .automatic import planned_layers
from .measure import Subject
from .networks import NETWORKS, network
from .results import Results, print_summary, print_tables
from .variants import chosen

RESULTS = Path("out/accuracy.jsonl")
LOSS_DB = 0.1  # that "auto" may cost
# Whether the planner is given real inputs, and what it minimizes.
AUTO = {
    "auto": (False, "time"),
    "auto-data": (True, "time"),
    "auto-fewest": (False, "multiplications"),
    "auto-data-fewest": (True, "multiplications"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("table", "show", "plots"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--variants", nargs="+", default=[], help="starts of names (all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--output", type=Path, default=Path("out/plots"), help="of the plots")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = Results(options.results)
    try:
        if options.command == "table":
            for name in options.networks:
                measure_network(name, options.variants, results, again=options.again)
        elif options.command == "plots":
            from .plots import draw

            draw(results, options.networks, options.output)
            return 0
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept", file=sys.stderr)
    except WqtvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_summary(results, options.networks)
    print_tables(results, options.networks)
    return 0


def measure_network(name: str, names: list[str], results: Results, *, again: bool) -> None:
    """Measure a network by each variant that is wanted and not measured yet."""
    fixed = [n for n in names if n not in AUTO]
    wanted = chosen(fixed) if fixed or not names else []
    todo = [v for v in wanted if again or not results.has(name, v.name)]
    automatic = [
        n for n in AUTO if (not names or n in names) and (again or not results.has(name, n))
    ]
    if not todo and not automatic:
        return
    subject = Subject(network(name))
    started = time.monotonic()
    for index, variant in enumerate(todo):
        if variant.config.calibrate:
            try:
                planned = planned_layers(subject, variant.config)
            except ConfigError as error:
                print(f"{name} {variant.name}: {error}", file=sys.stderr)
                continue
            measured = subject.measure(planned)
        else:
            measured = subject.measure(dict.fromkeys(subject.layers, variant.scheme))
        results.add(name, variant.name, variant.multiplications, asdict(measured))
        left = (time.monotonic() - started) / (index + 1) * (len(todo) - index - 1)
        print(
            f"{name} {variant.name}: {measured.psnr_db:.2f} dB  "
            f"({index + 1}/{len(todo)}, {left:.0f} s left)",
            file=sys.stderr,
            flush=True,
        )
    for variant_name in automatic:
        data, minimize = AUTO[variant_name]
        config = WinogradConfig(algorithm="auto", max_loss_db=LOSS_DB, minimize=minimize)
        plan = planned_layers(subject, config, data=data)
        measured = subject.measure(plan)
        counted = Counter(layer.label for layer in plan.values())
        share = 1 / saved([plan[layer] for layer in subject.layers])
        results.add(name, variant_name, share, {**asdict(measured), "plan": counted})
        print(f"{name} {variant_name}: {measured.psnr_db:.2f} dB, {counted}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
