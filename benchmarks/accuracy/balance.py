"""What balancing of input channels and clipping would win: SQNR of layers in precision hadamard.

    python -m benchmarks.accuracy.balance --networks ffdnet waifu2x_cunet

Balancing: the weights of an input channel are divided by a power of their norm, its values
multiplied with that. Clipping: steps of V are a fraction of those that hold the largest value;
steps of U are those of six fractions that have the least squared error, and weights are rounded to
nearest. Mean over up to ten layers of each network, on what a real input gives them, by F(4,3).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wqtvm import emulation
from wqtvm.emulation import EmulatedConvolution
from wqtvm.fastconv import standard_scales, winograd
from wqtvm.quantization import sqnr_db, weights
from wqtvm.quantization.arithmetic import F32, LARGEST, Quantized
from wqtvm.quantization.scheme import Scheme

from .measure import Subject
from .networks import NETWORKS, network

_LAYERS = 10
_FRACTIONS = (1.0, 0.97, 0.94, 0.9, 0.86, 0.82)
_ALGORITHM = winograd(4)
_SCHEME = Scheme(_ALGORITHM, standard_scales(_ALGORITHM), "hadamard")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.balance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = [n for n in NETWORKS if n != "real_esrgan_rrdb"]
    parser.add_argument("--networks", nargs="+", default=default, choices=NETWORKS)
    options = parser.parse_args()
    columns = (*(f"power {p:g}" for p in (0, 0.25, 0.5, -0.25)), "V 0.95", "V 0.9", "U by MSE")
    print(f"| network | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name in options.networks:
        subject = Subject(network(name))
        cells = [mean_db(subject, power) for power in (0, 0.25, 0.5, -0.25)]
        cells += [clipped_inputs_db(subject, fraction) for fraction in (0.95, 0.9)]
        cells.append(clipped_weights_db(subject))
        print(f"| {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)
    return 0


def mean_db(subject: Subject, power: float) -> float:
    """Mean SQNR over layers with input channels balanced."""
    names = list(subject.layers)
    return float(
        np.mean([layer_db(subject, n, power) for n in names[:: max(1, len(names) // _LAYERS)]])
    )


def layer_db(subject: Subject, name: str, power: float) -> float:
    """SQNR in dB of one layer whose channels are balanced by a power of their weights' norms."""
    layer, x = subject.layers[name], subject.features[name]
    weight = layer.weight.detach().double().numpy()
    norms = np.sqrt(np.square(weight).sum((0, 2, 3))) + 1e-12
    factor = (norms / np.exp(np.log(norms).mean())) ** power
    ours = EmulatedConvolution(weight / factor[:, None, None], _SCHEME, int(layer.padding[0]))
    exact = functional.conv2d(x, layer.weight.detach(), padding=layer.padding)
    balanced = x * torch.from_numpy(factor).float()[:, None, None]
    return sqnr_db(exact.numpy(), ours(balanced).numpy())


def clipped_inputs_db(subject: Subject, fraction: float) -> float:
    """Mean SQNR where steps of V are a fraction of those that hold the largest value."""
    whole = emulation.quantize

    def clipped(values: Tensor, shared: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        step = values.abs().amax(dim=shared, keepdim=True) * (fraction / LARGEST)
        quotient = torch.where(step > 0, values / step, 0.0)
        return quotient.round().clamp(-LARGEST, LARGEST), step

    emulation.quantize = clipped
    try:
        return mean_db(subject, 0.0)
    finally:
        emulation.quantize = whole


def clipped_weights_db(subject: Subject) -> float:
    """Mean SQNR where each step of U is that of some fractions with the least squared error."""
    whole, in_turn = weights.quantize, weights.round_weights
    chosen: list[Quantized] = []

    def least(values: F32, shared: tuple[int, ...]) -> Quantized:
        largest = np.abs(values).max(axis=shared, keepdims=True)
        errors, found = [], []
        for fraction in _FRACTIONS:
            step = np.maximum(largest * np.float32(fraction / LARGEST), np.float32(1e-30))
            q = np.clip(np.rint(values / step), -LARGEST, LARGEST)
            errors.append(np.square(values - q * step).sum(axis=shared, keepdims=True))
            found.append(step)
        index = np.argmin(np.stack(errors), axis=0)[None]
        step = np.take_along_axis(np.stack(found), index, axis=0)[0]
        q = np.clip(np.rint(values / step), -LARGEST, LARGEST).astype(np.int8)
        chosen.append(Quantized(q, step))
        return chosen[-1]

    def nearest(*_: NDArray[np.floating]) -> NDArray[np.int8]:
        return chosen[-1].q

    weights.quantize, weights.round_weights = least, nearest
    try:
        return mean_db(subject, 0.0)
    finally:
        weights.quantize, weights.round_weights = whole, in_turn


if __name__ == "__main__":
    sys.exit(main())
