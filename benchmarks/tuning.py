"""Layers of known networks for ``wqtvm tune``, and how fast its searches find what they find.

    python -m benchmarks.tuning plan resnet18 demo unet --output plan.json
    wqtvm tune plan.json --minutes 30 --database tuning.jsonl
    python -m benchmarks.tuning curve tuning.jsonl --plot curve.png
    python -m benchmarks.tuning curve tuning.jsonl --race plan.json
    wqtvm tune --export schedules/records/x86-vnni.jsonl --database tuning.jsonl

A plan has each layer once, as often as it is in the network, by each of the algorithms named. The
curve is the geometric mean, over the layers, of the default kernel's time over the best so far,
against the trials of all layers. The best of many noisy times flatters the later ones: --race says
what sessions that ended at parts of the trials would have kept, by a race of their finalists with
the default kernel.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wqtvm.errors import WqtvmError
from wqtvm.quantization.plan import Plan
from wqtvm.schedules.space import Point
from wqtvm.schedules.tuned import point_from, read_lines
from wqtvm.target import TargetRecord, lookup, usable_cpus
from wqtvm.tuning.journal import TRIAL
from wqtvm.tuning.measure import Bench
from wqtvm.tuning.session import CANDIDATE_SECONDS, FINALISTS, LEAST_GAIN, RACE_ROUNDS, gains_of
from wqtvm.tuning.task import Task, tasks_of

from .layers.layers import Layer
from .layers.peers.wqtvm_layers import CONFIGS
from .layers.plans import planned

PARTS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
# (input channels, output channels, height, width): how often.
NETWORKS: dict[str, dict[tuple[int, int, int, int], int]] = {
    "resnet18": {
        (64, 64, 56, 56): 4, (128, 128, 28, 28): 3, (256, 256, 14, 14): 3, (512, 512, 7, 7): 3,
    },
    "demo": {(15, 96, 256, 256): 1, (96, 96, 256, 256): 10, (96, 12, 256, 256): 1},
    "unet": {
        (320, 320, 64, 64): 7, (640, 320, 64, 64): 2, (960, 320, 64, 64): 1,
        (640, 640, 32, 32): 6, (1280, 640, 32, 32): 1, (1920, 640, 32, 32): 1,
        (1280, 1280, 16, 16): 6, (2560, 1280, 16, 16): 2, (1280, 1280, 8, 8): 11,
    },
    "vae": {(512, 512, 64, 64): 8, (256, 256, 256, 256): 5, (128, 128, 512, 512): 5},
    "sr": {(64, 64, 180, 320): 16},
}  # fmt: skip


def main() -> int:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuning",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("plan", help="write a plan").add_argument
    add("networks", nargs="+", choices=NETWORKS)
    add("--algorithms", nargs="+", choices=CONFIGS, default=["wqtvm F(4,3)"], metavar="NAME")
    add("--output", type=Path, required=True, metavar="FILE")
    add = commands.add_parser("curve", help="best so far against trials").add_argument
    add("database", type=Path)
    add("--plot", type=Path, metavar="FILE", help="a picture to write")
    add("--race", type=Path, metavar="PLAN", help="the plan that was tuned; minutes")
    add("--target", default="wq", help="that it was tuned for")
    options = parser.parse_args()
    try:
        if options.command == "plan":
            plan = plan_of(options.networks, options.algorithms)
            options.output.write_text(plan.to_json(), encoding="utf-8")
            print(f"Wrote {options.output}: {len(plan.layers)} layers")
        else:
            show_curves(curves(options.database), options.plot)
            if options.race is not None:
                plan = Plan.from_json(options.race.read_text(encoding="utf-8"))
                race(options.database, plan, lookup(options.target))
    except WqtvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def plan_of(networks: Sequence[str], algorithms: Sequence[str]) -> Plan:
    """The layers of some networks by some of the race's algorithms."""
    (images,) = {CONFIGS[name].images for name in algorithms}
    return Plan(
        tuple(
            replace(
                planned(Layer(network, *shape), CONFIGS[name]),
                name=f"{network}.{'x'.join(map(str, shape))}.{name}.{index}",
            )
            for network in networks
            for shape, count in NETWORKS[network].items()
            for name in algorithms
            for index in range(count)
        ),
        images,
    )


def curves(database: Path) -> dict[str, list[float]]:
    """By session, the geometric mean of gains after each trial, the first of a layer its default.

    Sessions that went on with the layers of another begin where that ended.
    """
    default: dict[str, float] = {}
    best: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    layers: dict[str, set[str]] = {}
    trials = [entry for entry in read_lines(database)[0] if entry["kind"] == TRIAL]
    for entry in trials:
        layers.setdefault(entry["session"], set()).add(json.dumps(entry["key"]))
    for entry in trials:
        key, session = json.dumps(entry["key"]), entry["session"]
        ms = entry["ms"] or math.inf
        default.setdefault(key, ms)
        best[key] = min(best.get(key, ms), ms)
        logs = [math.log(default[k] / best[k]) for k in layers[session] if k in best]
        found.setdefault(session, []).append(math.exp(sum(logs) / len(layers[session])))
    return found


def race(database: Path, plan: Plan, record: TargetRecord) -> None:
    """Race the finalists that a session would have had at parts of its trials; print the gains.

    Of a database with one session. Gains are means over layers, each as often as it is in the plan.
    """
    trials = [entry for entry in read_lines(database)[0] if entry["kind"] == TRIAL]
    marks = {part: max(1, round(part * len(trials))) for part in PARTS}
    counted = tasks_of(plan.layers, record, usable_cpus(), plan.images)
    bench = Bench(usable_cpus(), CANDIDATE_SECONDS)
    logs = dict.fromkeys(PARTS, 0.0)
    try:
        for task, count in counted:
            finalists = {
                part: fastest(trials[:mark], task, FINALISTS) for part, mark in marks.items()
            }
            gains = raced(bench, task, [point for each in finalists.values() for point in each])
            kept = {
                part: max([1.0, *(gains[str(point)] for point in points)])
                for part, points in finalists.items()
            }
            for part, gain in kept.items():
                logs[part] += count * math.log(gain if gain >= LEAST_GAIN else 1.0)
            print(f"{task.name}: {' '.join(f'{gain:.3f}' for gain in kept.values())}", flush=True)
    finally:
        bench.close()
    layers = sum(count for _, count in counted)
    for part, mark in marks.items():
        share = logs[part] / logs[1] if logs[1] else 1.0
        gain = math.exp(logs[part] / layers)
        print(f"{mark:6d} trials: {gain:.3f} times the default, raced, {share:.0%} of the gain")


def fastest(trials: Sequence[Mapping[str, Any]], task: Task, count: int) -> list[Point]:
    """The fastest of a layer's trials, the default one left out."""
    own = [entry for entry in trials if json.dumps(entry["key"]) == task.key and entry["ms"]]
    points = [point_from(entry["point"]) for entry in sorted(own, key=lambda entry: entry["ms"])]
    return [point for point in points if point != task.space.default][:count]


def raced(bench: Bench, task: Task, points: Sequence[Point]) -> dict[str, float]:
    """How many times as fast as the default kernel each point is: medians over rounds."""
    unique = list({str(point): point for point in (task.space.default, *points)}.values())
    paths = bench.build([(task, point) for point in unique])
    built = [(p, path) for p, path in zip(unique, paths, strict=True) if isinstance(path, str)]
    for point, path in built:
        bench.measure(task, point, path)  # right, or an error
    gains = gains_of(bench.race(task, built, RACE_ROUNDS))
    bench.remove(path for _, path in built)
    found = {str(point): gain for (point, _), gain in zip(built, gains, strict=True)}
    return {str(point): found.get(str(point), 1.0) for point in unique}


def show_curves(found: Mapping[str, Sequence[float]], path: Path | None) -> None:
    """Print the curves at eighths to all of the trials, and draw them."""
    if not found:
        raise WqtvmError("the database has no trial yet; tune a network first")
    for session, gains in found.items():
        final = math.log(gains[-1])
        print(f"session {session}")
        for part in PARTS:
            at = max(1, round(part * len(gains)))
            share = math.log(gains[at - 1]) / final if final else 1.0
            print(f"{at:6d} trials: {gains[at - 1]:.3f} times the default, {share:.0%} of the gain")
    if path is None:
        return
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for session, gains in found.items():
        axes.plot(
            [(index + 1) / len(gains) for index in range(len(gains))],
            gains,
            drawstyle="steps-post",
            label=f"{session}: {len(gains)} trials",
        )
    axes.axvline(1 / 4, color="gray", linestyle=":")
    axes.set_xlabel("part of the session's trials")
    axes.set_ylabel("times the default, geometric mean of layers")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
