"""Time attention and linear layers, as transformers and diffusion networks have them, and PyTorch.

    python -m benchmarks.tokens [--threads 1 2] [--rounds 9] [--only attention] [--target wq]

All rows of a layer take turns in one process. What is timed is a compiled network of this one
layer, float32 in and out, and PyTorch's module, in float32 and in bfloat16, in which it also takes
and gives its tensors. SQNR is in dB against PyTorch in float64, of the very results. In int8
activations have one step an image, or one a token and 64 channels.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import wqtvm
from benchmarks.machine import Others
from wqtvm.demo.demo import same_threads
from wqtvm.errors import WqtvmError
from wqtvm.quantization import sqnr_db
from wqtvm.target import TargetRecord, lookup

SECONDS = 0.15  # of each run in a round, about
FLOAT = {"algorithm": "float"}
# By the kind of layer, the configurations of its columns.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {"float32": FLOAT, "bfloat16": {**FLOAT, "attention": "bfloat16"}},
    "linear": {
        "float32": FLOAT,
        "bfloat16": {"algorithm": "direct", "precision": "bfloat16"},
        "int8, image": {"algorithm": "direct", "activation_steps": "image"},
        "int8, 64": {"algorithm": "direct", "group_size": 64, "weight_steps": "filter"},
    },
}


@dataclass(frozen=True)
class Case:
    """A layer, and what it takes."""

    name: str
    kind: str
    model: nn.Module
    inputs: tuple[torch.Tensor, ...]


class Attention(nn.Module):
    """PyTorch's own."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Give (images, heads, queries, channels)."""
        return nn.functional.scaled_dot_product_attention(q, k, v)


def cases() -> list[Case]:
    """Of Stable Diffusion 1.5 at 512 x 512 (U-Net, VAE), and of ViT-B/16 at 224 x 224."""
    attentions = [
        ("U-Net 64x64", 8, 4096, 4096, 40), ("U-Net 64x64, text", 8, 4096, 77, 40),
        ("U-Net 32x32", 8, 1024, 1024, 80), ("U-Net 32x32, text", 8, 1024, 77, 80),
        ("U-Net 16x16", 8, 256, 256, 160), ("VAE 64x64", 1, 4096, 4096, 512),
        ("ViT-B", 12, 197, 197, 64),
    ]  # fmt: skip
    linears = [
        ("U-Net 64x64, projection", 4096, 320, 320), ("U-Net 64x64, up", 4096, 320, 2560),
        ("U-Net 64x64, down", 4096, 1280, 320), ("U-Net 32x32, up", 1024, 640, 5120),
        ("U-Net 16x16, up", 256, 1280, 10240), ("U-Net, text", 77, 768, 320),
        ("ViT-B, up", 197, 768, 3072), ("ViT-B, down", 197, 3072, 768),
        ("classifier", 1, 2048, 1000),
    ]  # fmt: skip
    torch.manual_seed(0)
    return [
        *(
            Case(
                f"attention, {name}, {heads} x {n} x {m} x {c}", "attention", Attention(),
                (torch.randn(1, heads, n, c), *torch.randn(2, 1, heads, m, c)),
            )
            for name, heads, n, m, c in attentions
        ),
        *(
            Case(
                f"linear, {name}, {n} x {c} to {k}", "linear", nn.Linear(c, k),
                (torch.randn(1, n, c),),
            )
            for name, n, c, k in linears
        ),
    ]  # fmt: skip


def runs_of(case: Case, record: TargetRecord) -> dict[str, Callable[[], torch.Tensor]]:
    """What is timed, by column."""
    runs: dict[str, Callable[[], torch.Tensor]] = {}
    for name, options in VARIANTS[case.kind].items():
        if name == "bfloat16" and record.bfloat16 is None:
            continue
        config = wqtvm.WinogradConfig(**options)
        compiled = wqtvm.compile(case.model, case.inputs, target=record, config=config)
        runs[name] = partial(compiled, *case.inputs)
    narrow = [each.bfloat16() for each in case.inputs]
    runs["PyTorch float32"] = partial(case.model, *case.inputs)
    runs["PyTorch bfloat16"] = partial(copy.deepcopy(case.model).bfloat16(), *narrow)
    return runs


def medians(runs: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each, in turns."""
    counts = []
    for run in runs:
        run()
        start = time.perf_counter()
        run()
        counts.append(1 + int(SECONDS / (time.perf_counter() - start)))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, count, into in zip(runs, counts, times, strict=True):
            run()
            start = time.perf_counter()
            for _ in range(count):
                run()
            into.append((time.perf_counter() - start) / count * 1e3)
    return [statistics.median(each) for each in times]


def main() -> int:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tokens",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--rounds", type=int, default=9, help="of which the median counts")
    add("--only", default="", help="layers whose name contains this")
    add("--target", default="wq")
    options = parser.parse_args()
    try:
        record = lookup(options.target)
        for threads in options.threads:
            with same_threads(threads), torch.inference_mode():
                table([c for c in cases() if options.only in c.name], record, threads, options)
    except WqtvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def table(chosen: Sequence[Case], record: TargetRecord, threads: int, options: Any) -> None:
    print(f"\n{record.name}, {threads} threads: ms (dB), medians of {options.rounds} rounds\n")
    columns = [*VARIANTS["linear"], "PyTorch float32", "PyTorch bfloat16"]
    print(f"| layer | {' | '.join(columns)} | float32 / PyTorch | bfloat16 / PyTorch |")
    print(f"|---|{'---:|' * (len(columns) + 2)}")
    for case in chosen:
        runs = runs_of(case, record)
        truth = copy.deepcopy(case.model).double()(*(each.double() for each in case.inputs))
        quality = {
            name: sqnr_db(truth.numpy(), run().double().numpy()) for name, run in runs.items()
        }
        with Others() as others:
            ms = dict(zip(runs, medians([*runs.values()], options.rounds), strict=True))
        cells = [f"{ms[name]:.3g} ({quality[name]:.0f})" if name in ms else "" for name in columns]
        ratios = [
            f"{ms[f'PyTorch {name}'] / ms[name]:.2f}" if name in ms else ""
            for name in ("float32", "bfloat16")
        ]
        mark = "*" if others.cpus > 0.1 else ""
        print(f"| {case.name}{mark} | {' | '.join([*cells, *ratios])} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
