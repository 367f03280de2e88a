"""What the networks are, and how far they are from their own packages' runtimes.

python -m benchmarks.accuracy.networks              all of them
python -m benchmarks.accuracy.networks ffdnet hed   some
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from wqtvm.errors import WqtvmError
from wqtvm.quantization import psnr_db

from . import NETWORKS, network
from .base import eligible_layers


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    failed = False
    for name in parser.parse_args().names or NETWORKS:
        try:
            describe(name)
        except WqtvmError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


def describe(name: str) -> None:
    """Print one network's size, time, accuracy and deviation from its runtime."""
    known = network(name)
    model, inputs = known.load(), known.inputs()
    layers = eligible_layers(model)
    weights = [layer.weight for layer in layers.values()]
    largest = max(float(weight.abs().max()) for weight in weights)
    with torch.no_grad():
        started = time.monotonic()
        outputs = [model(*x) for x in inputs]
        seconds = (time.monotonic() - started) / len(inputs)
    millions = sum(weight.numel() for weight in weights) / 1e6
    print(
        f"{name}: {len(layers)} eligible convolutions, {millions:.2f} M weights in them, up to "
        f"{largest:.3g}; {len(inputs)} inputs of {seconds:.2f} s"
    )
    if known.truth:
        values = [
            psnr_db(truth.numpy(), output.clamp(0, known.peak).numpy(), known.peak)
            for truth, output in zip(known.truth(), outputs, strict=True)
        ]
        print("  PSNR against truth: " + ", ".join(f"{value:.2f}" for value in values) + " dB")
    if known.labels:
        right = int((outputs[0].argmax(1) == torch.tensor(known.labels())).sum())
        print(f"  right: {right} of {len(known.labels())}")
    print(f"  {known.verify()}" if known.verify else "  no runtime of its own that runs here")


if __name__ == "__main__":
    sys.exit(main())
