"""Time the demo's network, FFDNet at 512 x 512, against PyTorch in float and in int8.

    python benchmarks/ffdnet.py [--threads 1 2] [--runs 15]

prints the tables of RESULTS.md. All take turns, so that what else the machine does falls on all of
them alike; even so run it on an idle machine: it says how busy it was. Results are checked: against
float PyTorch, and between thread counts to the bit.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch_int8 import StaticInt8

import wqtvm
from wqtvm.demo.demo import FLOAT, label, same_threads, time_in_turns
from wqtvm.demo.images import SIGMA, add_noise, photograph
from wqtvm.demo.weights import pretrained
from wqtvm.doctor import examine
from wqtvm.quantization import psnr_db
from wqtvm.versions import version

IMAGE = "astronaut"
CHANNELS_LAST = f"{FLOAT}, channels last"
STATIC = "PyTorch static int8, calibrated on this image"
CONFIGS = (
    wqtvm.WinogradConfig(tile=2),
    wqtvm.WinogradConfig(tile=4),
    wqtvm.WinogradConfig(tile=6),
    wqtvm.WinogradConfig(algorithm="sfc", tile=4),
    wqtvm.WinogradConfig(algorithm="sfc", tile=6),
    wqtvm.WinogradConfig(tile=4, precision="full"),
    wqtvm.WinogradConfig(algorithm="direct", weight_steps="filter"),
    wqtvm.WinogradConfig(algorithm="float"),
)
# Against float PyTorch, peak 1: what 8 bits must at least keep of this network, and float32 of it.
LEAST_DB = {"winograd": 28.0, "sfc": 28.0, "direct": 28.0, "float": 90.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()

    clean = photograph(IMAGE)
    noisy = torch.from_numpy(add_noise(clean))[None]
    sigma = torch.full((1, 1, 1, 1), SIGMA)
    network = pretrained()
    channels_last = pretrained().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        static = StaticInt8(network, noisy, sigma)
    functions: dict[str, Callable[[], torch.Tensor]] = {
        FLOAT: partial(network, noisy, sigma),
        CHANNELS_LAST: partial(channels_last, noisy, sigma),
        STATIC: partial(static, noisy, sigma),
    }
    for config in CONFIGS:
        compiled = wqtvm.compile(network, (noisy, sigma), config=config)
        functions[label(config)] = partial(compiled, noisy, sigma)

    print(describe_machine(), "\n")
    earlier: dict[str, np.ndarray] = {}
    for threads in options.threads:
        with same_threads(threads), torch.inference_mode():
            results = {name: run()[0].numpy() for name, run in functions.items()}
            check(results, earlier)
            load = os.getloadavg()[0]
            seconds = time_in_turns(functions, options.runs)
        print_table(
            clean, results, seconds, f"{threads} threads, {options.runs} runs, load {load:.1f}"
        )
        earlier = results


def describe_machine() -> str:
    found = examine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "apache-tvm"))
    return f"{found.cpu}, {found.cpus} CPUs, {wqtvm.target.lookup('wq').name}; {packages}"


def check(results: dict[str, np.ndarray], earlier: dict[str, np.ndarray]) -> None:
    """Stop if a result is too far from PyTorch's, or differs from that of other threads."""
    for config in CONFIGS:
        name = label(config)
        quality = psnr_db(results[FLOAT], results[name], 1.0)
        if not quality >= LEAST_DB[config.algorithm]:
            raise SystemExit(
                f"{name}: {quality:.1f} dB from PyTorch's result; its time means nothing"
            )
        if name in earlier and not np.array_equal(results[name], earlier[name]):
            raise SystemExit(f"{name}: the result depends on the number of threads")


def print_table(
    clean: np.ndarray, results: dict[str, np.ndarray], seconds: dict[str, float], title: str
) -> None:
    fastest = min(seconds[FLOAT], seconds[CHANNELS_LAST])
    print(f"{title}\n")
    print("| | ms | times PyTorch's best float | PSNR against clean, dB | against float, dB |")
    print("|---|---:|---:|---:|---:|")
    for name, result in results.items():
        quality = psnr_db(clean, result, 1.0)
        fidelity = psnr_db(results[FLOAT], result, 1.0)
        ratio = fastest / seconds[name]
        print(
            f"| {name} | {1e3 * seconds[name]:.1f} | {ratio:.2f} | {quality:.2f} | {fidelity:.1f} |"
        )
    print()


if __name__ == "__main__":
    main()
