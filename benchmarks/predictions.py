"""Predicted against measured times of the race's layers by wqtvm's algorithms.

    python -m benchmarks.layers --peers wqtvm --threads 1 --batches 1 --clock cpu     measure first
    python -m benchmarks.predictions                          the table, and what the errors cost
    python -m benchmarks.predictions --plot predictions.png
    python -m benchmarks.predictions --fit                    the constants that fit best

It measures nothing itself: it reads the contests that ``benchmarks.layers`` held on this machine,
of each layer the last, whatever wqtvm's sources were then. Layers were compiled for as many threads
as this process has CPUs, and so divided among them, however many ran.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wqtvm.errors import WqtvmError
from wqtvm.planning.cost import FITTED, Efficiency, Work, work_of
from wqtvm.target import lookup, usable_cpus
from wqtvm.target.machine import Machine, measured_machine

from .layers.__main__ import RESULTS
from .layers.layers import Layer
from .layers.peers import Setting, competitor
from .layers.peers.base import CLOCKS
from .layers.peers.wqtvm_layers import CONFIGS
from .layers.plans import planned
from .layers.results import Record, machine_name, parse
from .layers.tables import milliseconds

OURS = "wqtvm"
STATISTICS: dict[str, Callable[[object], float]] = {
    "median": lambda row: row.ms,  # type: ignore[attr-defined]
    "fastest": lambda row: row.best_ms,  # type: ignore[attr-defined]
}
SLACK = 1.02  # measured times within 2 % are taken for equal


@dataclass(frozen=True)
class Sample:
    """One layer by one algorithm: what it does, and its measured milliseconds."""

    layer: Layer
    name: str
    work: Work
    measured: float


def main() -> int:
    options = parse_options()
    record, setting = lookup(options.target), Setting(options.threads, clock=options.clock)
    try:
        machine = record.machine
        if options.peaks:
            machine = measured_machine(machine, options.peaks, options.threads)
        contests = read(options.json, setting)
    except (WqtvmError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    samples = [
        Sample(contest.layer, row.name, work, STATISTICS[options.statistic](row))
        for contest in contests
        for row in contest.contest.rows
        if row.name in CONFIGS
        for layer in [planned(contest.layer, CONFIGS[row.name])]
        for work in [work_of(layer, record, options.threads, usable_cpus())]
    ]
    if not samples:
        print(f"error: {options.json} has no contests of {setting}", file=sys.stderr)
        return 2
    efficiency = FITTED
    if options.fit:
        efficiency = fit(samples, machine)
        print(f"{rounded(efficiency)}\n")
    predicted = [sample.work.time(machine, efficiency).ms for sample in samples]
    busy = statistics.mean(contest.contest.others_cpus for contest in contests)
    sources = ", ".join(sorted({contest.code for contest in contests}))
    print(
        f"{machine_name()}; {record.name}, {options.threads} threads, {options.clock} clock, the "
        f"{options.statistic} of runs; wqtvm's sources {sources}; other processes kept {busy:.1f} "
        "CPUs busy\n"
    )
    print("\n".join(table(samples, predicted)), "\n")
    print("\n".join(summary(samples, predicted)))
    if options.plot:
        plot(samples, predicted, options.plot, options.statistic)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.predictions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", type=Path, default=RESULTS, help=f"contests; default: {RESULTS}")
    add("--target", default="wq", help="whose schedules were timed; default: wq, this machine")
    add("--threads", type=int, default=1)
    add("--clock", choices=CLOCKS, default="cpu")
    add("--statistic", choices=STATISTICS, default="median",
        help="of runs: the fastest is the least disturbed; default: median")  # fmt: skip
    add("--peaks", metavar="FILE", help="by python -m benchmarks.peaks --json FILE")
    add("--fit", action="store_true", help="fit the constants, and predict by them")
    add("--plot", type=Path, metavar="FILE", help="a picture to write")
    return parser.parse_args()


def read(path: Path, setting: Setting) -> list[Record]:
    """Contests of this machine with such a setting, of each layer the last."""
    found = {}
    for line in path.read_text().splitlines():
        record = parse(json.loads(line))
        if record.machine == machine_name() and record.setting == setting:
            found[record.layer] = record
    return list(found.values())


def table(samples: Sequence[Sample], predicted: Sequence[float]) -> list[str]:
    """Lines of a table in Markdown: predicted / measured milliseconds, and their ratio."""
    cells = {
        (s.layer, s.name): f"{milliseconds(p)} / {milliseconds(s.measured)} ({p / s.measured:.2f})"
        for s, p in zip(samples, predicted, strict=True)
    }
    known = [variant.name for variant in competitor(OURS).variants]
    names = [name for name in known if any(s.name == name for s in samples)]
    shown = [name.removeprefix(f"{OURS} ") for name in names]
    lines = [
        f"| predicted / measured, ms | {' | '.join(shown)} | predicted best | best | lost |",
        f"|---|{'---:|' * len(names)}---|---|---:|",
    ]
    for layer, choice in choices(samples, predicted).items():
        row = [cells.get((layer, name), "") for name in names]
        best = [each.name.removeprefix(f"{OURS} ") for each in (choice.chosen, choice.fastest)]
        lines.append(f"| {layer.name} | {' | '.join((*row, *best))} | {100 * choice.lost:.0f} % |")
    return lines


@dataclass(frozen=True)
class Choice:
    """Of one layer what is predicted to be the fastest, and what is."""

    chosen: Sample
    fastest: Sample

    @property
    def lost(self) -> float:
        """How much more time the chosen one takes, as a share."""
        return self.chosen.measured / self.fastest.measured - 1


def choices(samples: Sequence[Sample], predicted: Sequence[float]) -> dict[Layer, Choice]:
    """The choices in each layer."""
    both = list(zip(samples, predicted, strict=True))
    found = {}
    for layer in dict.fromkeys(sample.layer for sample in samples):
        own = [(sample, ms) for sample, ms in both if sample.layer == layer]
        chosen = min(own, key=lambda pair: pair[1])[0]
        found[layer] = Choice(chosen, min((s for s, _ in own), key=lambda s: s.measured))
    return found


def summary(samples: Sequence[Sample], predicted: Sequence[float]) -> list[str]:
    """Lines on errors, ranks and choices."""
    errors = _log_errors(samples, np.log(predicted))
    spread = float(np.sqrt(np.mean(np.square(errors - errors.mean()))))
    ranks = []
    for layer in dict.fromkeys(sample.layer for sample in samples):
        own = [i for i, sample in enumerate(samples) if sample.layer == layer]
        ranks.append(rank_correlation([predicted[i] for i in own],
                                      [samples[i].measured for i in own]))  # fmt: skip
    found = list(choices(samples, predicted).values())
    right = sum(choice.lost < SLACK - 1 for choice in found)
    every = rank_correlation(predicted, [sample.measured for sample in samples])
    return [
        f"{len(samples)} times of {len(found)} layers. Predicted over measured: geometric mean "
        f"{math.exp(errors.mean()):.2f}, about which they spread by a factor of "
        f"{math.exp(spread):.2f} (root mean square), at most "
        f"{math.exp(float(np.abs(errors - errors.mean()).max())):.2f}.",
        f"Rank correlation (Spearman): {every:.3f} over all, {statistics.mean(ranks):.3f} within "
        f"layers on average, {min(ranks):.3f} the least.",
        f"The predicted best is the measured best, or within {100 * (SLACK - 1):.0f} % of it, in "
        f"{right} of {len(found)} layers; lost are {100 * _mean_loss(found):.1f} % on average and "
        f"{100 * max(choice.lost for choice in found):.0f} % at most.",
    ]


def _mean_loss(found: Sequence[Choice]) -> float:
    return statistics.mean(choice.lost for choice in found)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def fit(samples: Sequence[Sample], machine: Machine) -> Efficiency:
    """The constants with the least mean square of the logarithms of predicted over measured.

    By Gauss and Newton, on logarithms of the constants, damped as by Levenberg; those that the
    samples do not tell apart stay near where they begin.
    """
    names = [field.name for field in fields(Efficiency)]
    start = np.log([getattr(FITTED, name) for name in names])

    def efficiency(point: NDArray[np.float64]) -> Efficiency:
        return Efficiency(**dict(zip(names, np.exp(point).tolist(), strict=True)))

    def residuals(point: NDArray[np.float64]) -> NDArray[np.float64]:
        constants = efficiency(point)
        times = [sample.work.time(machine, constants).ms for sample in samples]
        return np.concatenate([_log_errors(samples, np.log(times)), 0.05 * (point - start)])

    point, damping = start, 1e-2
    now = residuals(point)
    for _ in range(100):
        step = 1e-5
        slopes = np.stack(
            [(residuals(point + step * unit) - now) / step for unit in np.eye(len(names))], 1
        )
        normal = slopes.T @ slopes + damping * np.eye(len(names))
        candidate = point - np.linalg.solve(normal, slopes.T @ now)
        then = residuals(candidate)
        if then @ then < now @ now:
            point, now, damping = candidate, then, damping / 3
        else:
            damping *= 4
    return efficiency(point)


def rounded(efficiency: Efficiency) -> Efficiency:
    """With three digits, as they are written down."""
    return Efficiency(**{name: float(f"{x:.3g}") for name, x in asdict(efficiency).items()})


def _log_errors(samples: Sequence[Sample], log_times: NDArray[np.float64]) -> NDArray[np.float64]:
    errors: NDArray[np.float64] = log_times - np.log([sample.measured for sample in samples])
    return errors


def plot(samples: Sequence[Sample], predicted: Sequence[float], path: Path, what: str) -> None:
    """Draw predicted against measured times, both logarithmic, a colour an algorithm."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6), layout="constrained")
    for name in dict.fromkeys(sample.name for sample in samples):
        own = [(s.measured, p) for s, p in zip(samples, predicted, strict=True) if s.name == name]
        axes.loglog(*zip(*own, strict=True), "o", markersize=4, label=name.removeprefix(f"{OURS} "))
    ends = [min(*predicted, *(s.measured for s in samples)),
            max(*predicted, *(s.measured for s in samples))]  # fmt: skip
    axes.loglog(ends, ends, "k-", linewidth=0.8)
    for factor in (0.8, 1.25):
        axes.loglog(ends, [factor * end for end in ends], "k:", linewidth=0.6)
    axes.set_xlabel(f"measured, ms ({what}); dotted: 25 % off")
    axes.set_ylabel("predicted, ms")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
