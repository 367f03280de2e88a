"""Why a fast algorithm is as accurate as it is in precision hadamard: the energies of its taps.

    python -m benchmarks.accuracy.taps                          all networks
    python -m benchmarks.accuracy.taps --networks ffdnet hed

With a step for each tap a product's relative error is the same in all taps, so that tap k adds
noise in proportion to E[V_k^2] E[U_k^2], weighed by the squares of the output transform's entries:

    noise ~ sum over outputs a and taps k of A[a, k]^2 E[V_k^2] E[U_k^2]

in two dimensions, and for the direct convolution (A all ones, V pixels) E[x^2] times the energy of
the weights. The ratio predicts how many dB a layer loses against direct int8 with a weight step a
tap. On white inputs it is the noise gain of the algorithm; smooth inputs put their energy where the
output transform is small, and win part of it back. Printed are means over a network's layers, in
dB: the noise gain in theory, the loss as predicted by the layers' own energies, and as measured.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from wqtvm.fastconv import BilinearAlgorithm, noise_gain_db
from wqtvm.quantization.weights import transform_weights

from .measure import Subject
from .networks import NETWORKS, network
from .variants import ALGORITHMS, bilinear_algorithm, variants


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    options = parser.parse_args()
    print("| network | algorithm | white noise | predicted | measured | correlation |")
    print("|---|---|---|---|---|---|")
    for name in options.networks:
        subject = Subject(network(name))
        direct = measured_db(subject, "direct-tap")
        for label, config in ALGORITHMS.items():
            algorithm = bilinear_algorithm(config)
            predicted = np.array([loss_db(subject, layer, algorithm) for layer in subject.layers])
            measured = direct - measured_db(subject, f"{label}-hadamard")
            along = np.corrcoef(predicted, measured)[0, 1]
            print(
                f"| {name} | {label} | {noise_gain_db(algorithm):.1f} | {predicted.mean():.1f} | "
                f"{measured.mean():.1f} | {along:.2f} |",
                flush=True,
            )
    return 0


def measured_db(subject: Subject, variant: str) -> NDArray[np.float64]:
    """SQNR in dB of each layer alone."""
    scheme = variants()[variant].scheme
    return np.array([subject.layer_db(layer, scheme) for layer in subject.layers])


def loss_db(subject: Subject, name: str, algorithm: BilinearAlgorithm) -> float:
    """Noise of a layer against the direct convolution's, in dB, from energies alone."""
    layer, x = subject.layers[name], subject.features[name]
    weight = layer.weight.detach().double().numpy()
    matrix = torch.tensor([[float(entry) for entry in row] for row in algorithm.b_t])
    edge, step, pad = algorithm.t, algorithm.m, int(layer.padding[0])
    padded = functional.pad(x, (pad, step, pad, step))
    tiles = padded.unfold(2, edge, step).unfold(3, edge, step).reshape(-1, edge, edge)
    taps = matrix @ tiles @ matrix.T
    v = taps.double().square().mean(0).numpy()
    g = np.asarray(algorithm.g, dtype=np.float64)
    u = np.square(transform_weights(weight, g)).mean((2, 3))
    squares = np.square(np.asarray(algorithm.a_t, dtype=np.float64))  # (a, k)
    noise = (squares @ (v * u) @ squares.T).mean()
    direct = float(x.double().square().mean()) * np.square(weight).mean((0, 1)).sum()
    return float(10 * np.log10(noise / direct))


if __name__ == "__main__":
    sys.exit(main())
