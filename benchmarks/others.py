"""What networks gain and lose where strided layers and 1x1 are int8, too, not float.

    python -m benchmarks.others [--networks resnet waifu2x] [--rounds 9]

prints a table for each network: milliseconds by the CPU's clock, one thread, medians of interleaved
rounds, and SQNR of the output against float PyTorch's. ResNets have weights drawn at random: their
times tell, their dB say no more than that nothing is wrong. The others are trained (see
``benchmarks.accuracy.networks``).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import wqtvm
from wqtvm import WinogradConfig
from wqtvm.demo import images
from wqtvm.quantization import sqnr_db

from .accuracy.measure import folded
from .accuracy.networks import network
from .accuracy.resnet import ResNet
from .machine import Others

CONFIGS = {
    "float32": WinogradConfig(algorithm="float"),
    "F(4,3), others float": WinogradConfig(),
    "F(4,3), others direct": WinogradConfig(others="direct"),
    "direct": WinogradConfig(algorithm="direct"),
    "direct, one group": WinogradConfig(algorithm="direct", group_size=0, weight_steps="filter"),
    "auto": WinogradConfig(algorithm="auto"),
}
TRAINED = ("waifu2x_cunet", "hed", "terrain_diffusion")
NAMES = ("resnet18", "resnet50", *TRAINED)
EDGE = 224  # of the pictures that ResNets take


def load(name: str) -> tuple[nn.Module, Sequence[Tensor]]:
    """Return a network and its input."""
    if name in TRAINED:
        known = network(name)
        return folded(known.load()), known.inputs()[0]
    torch.manual_seed(0)
    model = ResNet(int(name.removeprefix("resnet")))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    picture = torch.from_numpy(images.photograph("astronaut")[:, :EDGE, :EDGE].copy())[None]
    return folded(model.eval().requires_grad_(False)), ((picture - 0.45) / 0.225,)


def measure(
    functions: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, float], float]:
    """Return milliseconds of the CPU's clock by name, and the CPUs that others kept busy."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    with Others() as others:
        for _ in range(rounds):
            for name, run in functions.items():
                run()  # what it needs comes into caches
                start = time.process_time()
                run()
                times[name].append(time.process_time() - start)
    return {name: 1e3 * statistics.median(each) for name, each in times.items()}, others.cpus


def compare(name: str, rounds: int) -> None:
    """Print the table of one network."""
    model, inputs = load(name)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    functions: dict[str, Callable[[], object]] = {"PyTorch float32": partial(last, *inputs)}
    kinds = {}
    for label, config in CONFIGS.items():
        compiled = wqtvm.compile(model, tuple(inputs), config=config)
        functions[f"wqtvm {label}"] = partial(compiled, *inputs)
        kinds[f"wqtvm {label}"] = Counter(layer.algorithm for layer in compiled.plan.layers)
    with torch.inference_mode():
        times, others = measure(functions, rounds)
        results = {label: np.asarray(run()) for label, run in functions.items()}
    shapes = ", ".join("x".join(map(str, value.shape)) for value in inputs)
    print(f"\n{name}, {shapes}; others took {others:.1f} CPUs\n")
    print("| | ms | times wqtvm's float32 | SQNR against float, dB | layers |")
    print("|---|---:|---:|---:|---|")
    for label, result in results.items():
        ratio = times["wqtvm float32"] / times[label]
        quality = sqnr_db(results["PyTorch float32"], result)
        layers = ", ".join(f"{count} {kind}" for kind, count in kinds.get(label, Counter()).items())
        print(
            f"| {label} | {times[label]:.1f} | {ratio:.2f} | {quality:.1f} | {layers} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="+", default=[""], metavar="PART", help="of their names"
    )
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wqtvm.set_num_threads(1)
    for name in NAMES:
        if any(part in name for part in options.networks):
            compare(name, options.rounds)


if __name__ == "__main__":
    main()
