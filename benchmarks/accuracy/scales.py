"""Scales for precision "full", learned on each network's own weights, against formulas.

    python -m benchmarks.accuracy.scales                      F(4,3) and F(6,3), all networks
    python -m benchmarks.accuracy.scales --networks ffdnet --algorithms F4 F6 SFC6

Of each algorithm: the closed forms, the set that comes with wqtvm (learned on random weights),
sets learned on the network's own weights and white Gaussian, white uniform or correlated noise,
and a set for each layer. Measured end to end on real inputs: PSNR against float in dB. Results are
added to a file of JSON lines at once, and not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from wqtvm.fastconv import BilinearAlgorithm
from wqtvm.learning import LearnedScales
from wqtvm.learning.learn import learn_scales
from wqtvm.learning.noise import Noise
from wqtvm.quantization.scheme import Scheme

from .measure import Subject
from .networks import NETWORKS, network
from .results import Results
from .variants import ALGORITHMS, bilinear_algorithm, variants

RESULTS = Path("out/scales.jsonl")
RULES = ("standard", "row-norm", "correlated", "learned")  # the last: random weights, shipped
OWN = {  # learned on the network's own weights
    "own-gaussian": {"noise": Noise("gaussian")},
    "own-uniform": {"noise": Noise("uniform")},
    "own-correlated": {"noise": Noise("correlated")},
    "own-layers": {"noise": Noise("correlated"), "per_layer": True},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.scales",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--algorithms", nargs="+", default=["F4", "F6"], choices=ALGORITHMS)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    options = parser.parse_args()
    results = Results(options.results)
    try:
        for name in options.networks:
            measure_network(name, options.algorithms, results)
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept", file=sys.stderr)
    print_table(results, options.networks, options.algorithms)
    return 0


def measure_network(name: str, algorithms: list[str], results: Results) -> None:
    """Measure what is not measured yet."""
    todo = [
        (algorithm, rule)
        for algorithm in algorithms
        for rule in (*RULES, *OWN)
        if not results.has(name, f"{algorithm}-{rule}")
    ]
    if not todo:
        return
    subject = Subject(network(name))
    for algorithm, rule in todo:
        started = time.monotonic()
        variant = variants().get(f"{algorithm}-full-{rule}")
        if variant is not None:
            schemes = dict.fromkeys(subject.layers, variant.scheme)
        elif rule in OWN:
            schemes = own_schemes(subject, bilinear_algorithm(ALGORITHMS[algorithm]), rule)
        else:
            continue  # no set of this algorithm comes with wqtvm
        measured = subject.measure(schemes)
        share = float(next(iter(schemes.values())).algorithm.multiplications_per_output) / 9
        results.add(name, f"{algorithm}-{rule}", share, asdict(measured))
        seconds = time.monotonic() - started
        print(f"{name} {algorithm}-{rule}: {measured.psnr_db:.2f} dB ({seconds:.0f} s)", flush=True)


def own_schemes(subject: Subject, algorithm: BilinearAlgorithm, rule: str) -> Mapping[str, Scheme]:
    """Schemes of all layers, with scales learned on their weights."""
    weights = {
        name: layer.weight.detach().numpy()
        for name, layer in subject.layers.items()
        if layer.weight.any()
    }
    found: LearnedScales = learn_scales(weights, algorithm, **OWN[rule])  # type: ignore[arg-type]
    scheme = Scheme(algorithm, found.scales, "full")
    return {
        name: replace(scheme, scales=found.scales_for(algorithm, name)) for name in subject.layers
    }


def print_table(results: Results, networks: list[str], algorithms: list[str]) -> None:
    """PSNR in dB, in Markdown, a row a network and algorithm."""
    columns = (*RULES, *OWN)
    print(f"\n| network | algorithm | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for name in networks:
        for algorithm in algorithms:
            rows = [results.rows.get((name, f"{algorithm}-{rule}")) for rule in columns]
            cells = ["" if row is None else f"{row['psnr_db']:.1f}" for row in rows]
            print(f"| {name} | {algorithm} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
