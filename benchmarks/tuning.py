"""Layers of known networks for ``wqtvm tune``, and how fast its searches find what they find.

    python -m benchmarks.tuning plan resnet18 demo unet --output plan.json
    wqtvm tune plan.json --minutes 30 --database tuning.jsonl
    python -m benchmarks.tuning curve tuning.jsonl --plot curve.png
    wqtvm tune --export schedules/records/x86-vnni.jsonl --database tuning.jsonl

A plan has each layer once, as often as it is in the network, by each of the algorithms named. The
curve is the geometric mean, over the layers, of the default kernel's time over the best so far,
against the trials of all layers.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wqtvm import WinogradConfig
from wqtvm.errors import WqtvmError
from wqtvm.fastconv import bilinear_algorithm
from wqtvm.quantization.plan import LayerPlan, Plan, Reason
from wqtvm.schedules.tuned import read_lines
from wqtvm.tuning.journal import TRIAL

from .layers.peers.wqtvm_layers import CONFIGS

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
    options = parser.parse_args()
    try:
        if options.command == "plan":
            plan = plan_of(options.networks, options.algorithms)
            options.output.write_text(plan.to_json(), encoding="utf-8")
            print(f"Wrote {options.output}: {len(plan.layers)} layers")
        else:
            show_curves(curves(options.database), options.plot)
    except WqtvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def plan_of(networks: Sequence[str], algorithms: Sequence[str]) -> Plan:
    """The layers of some networks by some of the race's algorithms."""
    return Plan(
        tuple(
            replace(
                planned(shape, CONFIGS[name]),
                name=f"{network}.{'x'.join(map(str, shape))}.{name}.{index}",
            )
            for network in networks
            for shape, count in NETWORKS[network].items()
            for name in algorithms
            for index in range(count)
        )
    )


def planned(shape: tuple[int, int, int, int], config: WinogradConfig) -> LayerPlan:
    """A 3x3 convolution of stride 1 as a configuration has it."""
    inputs, outputs, height, width = shape
    tile = None if config.algorithm == "direct" else config.tile_of(3)
    points: tuple[str, ...] | None = None
    if config.algorithm == "winograd":
        assert isinstance(tile, int)
        points = bilinear_algorithm(config.algorithm, tile, config.points, 3).points
    return LayerPlan(
        "layer", (1, inputs, height, width), (outputs, inputs, 3, 3), (1, 1), (1, 1), (1, 1), 1,
        config.algorithm, tile, points, config.precision, config.group_size, config.scales,
        config.steps, config.weight_steps, Reason.ELIGIBLE,
    )  # fmt: skip


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


def show_curves(found: Mapping[str, Sequence[float]], path: Path | None) -> None:
    """Print the curves at eighths to all of the trials, and draw them."""
    if not found:
        raise WqtvmError("the database has no trial yet; tune a network first")
    for session, gains in found.items():
        final = math.log(gains[-1])
        print(f"session {session}")
        for part in (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1):
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
