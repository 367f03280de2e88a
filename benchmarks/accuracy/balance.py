"""What balancing of input channels and clipping would win: SQNR of layers in precision hadamard.

    python -m benchmarks.accuracy.balance --networks ffdnet waifu2x_cunet

Balancing: the weights of an input channel are divided by a factor, its values multiplied with it:
the root of the norm of its weights ("weights"), over a root of what the channel holds on the input
("equal ranges"), over that one's root ("balance", which wqtvm uses), or the same by a made-up input
("made up", as wqtvm does without data). Clipping: steps of V are a fraction of those that hold the
largest value; steps of U are those of six fractions that have the least squared error, and weights
are rounded to nearest. Mean over up to ten layers of each network, on what a real input gives them,
by F(4,3).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from types import MappingProxyType

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
from wqtvm.quantization.balance import balance_factors
from wqtvm.quantization.scheme import Scheme
from wqtvm.runtime.made_up import completed
from wqtvm.tensor_spec import TensorSpec

from .measure import Subject, layer_inputs
from .networks import NETWORKS, network

_LAYERS = 10
_RULES = ("none", "weights", "equal ranges", "balance", "made up")
_NONE: Mapping[str, Tensor] = MappingProxyType({})
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
    columns = (*_RULES, "V 0.95", "V 0.9", "U by MSE")
    print(f"| network | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name in options.networks:
        subject = Subject(network(name))
        made_up = layer_inputs(subject.model, subject.layers, made_up_input(subject))
        cells = [mean_db(subject, rule, made_up) for rule in _RULES]
        cells += [clipped_inputs_db(subject, fraction) for fraction in (0.95, 0.9)]
        cells.append(clipped_weights_db(subject))
        print(f"| {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)
    return 0


def made_up_input(subject: Subject) -> tuple[Tensor, ...]:
    """A call as wqtvm makes it up: pictures of dead leaves, single numbers as they are."""
    given = subject.inputs[0]
    specs = [TensorSpec(f"x{i}", tuple(x.shape), "float32") for i, x in enumerate(given)]
    examples = [x if x.numel() == 1 else torch.zeros_like(x) for x in given]
    return tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in completed(specs, examples))


def mean_db(subject: Subject, rule: str = "none", made_up: Mapping[str, Tensor] = _NONE) -> float:
    """Mean SQNR over layers with input channels balanced by a rule."""
    names = list(subject.layers)[:: max(1, len(subject.layers) // _LAYERS)]
    return float(np.mean([layer_db(subject, name, rule, made_up) for name in names]))


def layer_db(subject: Subject, name: str, rule: str, made_up: Mapping[str, Tensor]) -> float:
    """SQNR in dB of one layer whose channels are balanced by a rule."""
    layer, x = subject.layers[name], subject.features[name]
    weight = layer.weight.detach().double().numpy()
    norms = np.sqrt(np.square(weight).sum((0, 2, 3))) + 1e-12
    if rule == "none":
        factors = np.ones_like(norms)
    elif rule == "weights":
        factors = norms**0.5
    elif rule == "equal ranges":
        factors = (norms / np.maximum(_rms(x), 1e-3 * _rms(x).max())) ** 0.5
    else:
        factors = np.array(balance_factors(weight, _rms(x if rule == "balance" else made_up[name])))
    padding = int(layer.padding[0])
    ours = EmulatedConvolution(weight, _SCHEME, padding, balance=tuple(map(float, factors)))
    exact = functional.conv2d(x, layer.weight.detach(), padding=layer.padding)
    return sqnr_db(exact.numpy(), ours(x).numpy())


def _rms(x: Tensor) -> NDArray[np.float64]:
    rms: NDArray[np.float64] = x.double().square().mean((0, 2, 3)).sqrt().numpy()
    return rms


def clipped_inputs_db(subject: Subject, fraction: float) -> float:
    """Mean SQNR where steps of V are a fraction of those that hold the largest value."""
    whole = emulation.quantize

    def clipped(values: Tensor, shared: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        step = values.abs().amax(dim=shared, keepdim=True) * (fraction / LARGEST)
        quotient = torch.where(step > 0, values / step, 0.0)
        return quotient.round().clamp(-LARGEST, LARGEST), step

    emulation.quantize = clipped
    try:
        return mean_db(subject)
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
        return mean_db(subject)
    finally:
        weights.quantize, weights.round_weights = whole, in_turn


if __name__ == "__main__":
    sys.exit(main())
