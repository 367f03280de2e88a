"""Plots of what was measured, and of what the taps of a layer hold."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from wqtvm.fastconv import BilinearAlgorithm, named_scales, winograd
from wqtvm.quantization.scheme import Scheme
from wqtvm.quantization.weights import transform_weights

from .measure import Subject
from .networks import network
from .results import Results

matplotlib.use("Agg")
from matplotlib import pyplot

_SHOWN = ("direct-tap", "F2-hadamard", "F4-hadamard", "F6-hadamard", "F4-full-correlated")
_POINTS_PER_INCH = 80


def draw(results: Results, networks: list[str], output: Path) -> None:
    """Write PNGs: accuracy against multiplications, SQNR a layer, ranges and energies of taps."""
    output.mkdir(parents=True, exist_ok=True)
    measured = [name for name in networks if results.has(name, "direct-tap")]
    _accuracy(results, measured, output / "accuracy.png")
    for name in measured:
        _layers(results, name, output / f"layers-{name}.png")
    for name in measured[:1]:
        subject = Subject(network(name))
        _cross(subject, output / f"ranges-{name}.png")
    _energies([Subject(network(name)) for name in measured], output / "energies.png")
    print(f"wrote {', '.join(sorted(file.name for file in output.glob('*.png')))} to {output}")


def _accuracy(results: Results, names: list[str], path: Path) -> None:
    columns = 3
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(12, 3.4 * rows), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for row in (r for (n, _), r in results.rows.items() if n == name):
            variant = row["variant"]
            if variant.endswith(("-tile", "-axis")) or row["psnr_db"] < 0:
                continue
            kind = "auto" if "auto" in variant else "full" if "full" in variant else "hadamard"
            colour = {"auto": "C2", "full": "C1", "hadamard": "C0"}[kind]
            axis.plot(row["multiplications"], row["psnr_db"], "o", color=colour)
            if kind != "full":
                label = variant.removesuffix("-hadamard")
                place = (row["multiplications"], row["psnr_db"])
                axis.annotate(label, place, fontsize=7, xytext=(3, 3), textcoords="offset points")
        axis.set(title=name, xlabel="multiplications, direct = 1", ylabel="PSNR against float, dB")
    for axis in list(axes.flat)[len(names) :]:
        axis.axis("off")
    figure.suptitle("hadamard blue, full orange, auto green")
    _save(figure, path)


def _layers(results: Results, name: str, path: Path) -> None:
    figure, axis = pyplot.subplots(figsize=(10, 4))
    for variant in _SHOWN:
        if results.has(name, variant):
            values = results.rows[name, variant]["layers_db"]
            axis.plot(list(values.values()), ".-", label=variant)
            if len(values) <= 20:
                axis.set_xticks(range(len(values)), list(values), rotation=60, fontsize=7)
    axis.set(title=f"{name}: each layer alone", xlabel="layer", ylabel="SQNR, dB")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    _save(figure, path)


def _cross(subject: Subject, path: Path) -> None:
    """Largest absolute values of V by tap: before scales, after those of formulas."""
    name = max(subject.layers, key=lambda n: subject.layers[n].in_channels)
    algorithm = winograd(6)
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for axis, rule in zip(axes, ("standard", "row-norm", "correlated"), strict=True):
        scheme = Scheme(algorithm, named_scales(rule, algorithm), "full")
        matrix = scheme.row_axis.input_row_scale[:, None] * np.asarray(
            scheme.row_axis.input_matrix.rows, float
        )
        largest = np.log2(np.abs(_taps(subject.features[name].numpy(), matrix, algorithm)).max(0))
        image = axis.imshow(largest - largest.max(), cmap="viridis", vmin=-11, vmax=0)
        axis.set(title=rule, xlabel="tap, column", ylabel="tap, row")
    figure.colorbar(image, ax=axes, label="bits below the largest")
    figure.suptitle(f"{subject.known.name} {name}, {algorithm.name}: largest |V| by tap")
    _save(figure, path)


def _energies(subjects: list[Subject], path: Path) -> None:
    """RMS by tap of V and U in F(4,3): the spread that a step for each tap takes advantage of."""
    algorithm = winograd(4)
    scheme = Scheme(algorithm, named_scales("row-norm", algorithm), "full")
    matrix = scheme.row_axis.input_row_scale[:, None] * np.asarray(
        scheme.row_axis.input_matrix.rows, float
    )
    figure, axes = pyplot.subplots(
        2, len(subjects), figsize=(2.2 * len(subjects), 5), squeeze=False
    )
    for column, subject in enumerate(subjects):
        v = np.zeros((algorithm.n,) * 2)
        u = np.zeros_like(v)
        for name, layer in subject.layers.items():
            taps = _taps(subject.features[name].numpy(), matrix, algorithm)
            energy = np.square(taps).mean(0)
            v += energy / energy.mean()
            weights = transform_weights(
                layer.weight.detach().numpy(), scheme.row_axis.weight_matrix
            )
            energy = np.square(weights).mean((2, 3))
            u += energy / energy.mean()
        for axis, values, what in zip(axes[:, column], (v, u), ("V", "U"), strict=True):
            image = axis.imshow(10 * np.log10(values / values.max()), vmin=-30, vmax=0)
            axis.set_title(f"{what} {subject.known.name}", fontsize=7)
    figure.colorbar(image, ax=axes, label="dB below the strongest tap")
    figure.suptitle("energy by tap, F(4,3), rows of B and G normalised")
    _save(figure, path)


def _taps(
    x: NDArray[np.float32], matrix: NDArray[np.float64], algorithm: BilinearAlgorithm
) -> NDArray[np.float64]:
    """B^T d B of all tiles, float64 (tile and channel, tap row, tap column)."""
    edge, step = algorithm.t, algorithm.m
    padded = functional.pad(torch.from_numpy(x).double(), (1, step, 1, step))
    tiles = padded.unfold(2, edge, step).unfold(3, edge, step).reshape(-1, edge, edge)
    factor = torch.from_numpy(matrix)
    result: NDArray[np.float64] = (factor @ tiles @ factor.T).numpy()
    return result


def _save(figure: pyplot.Figure, path: Path) -> None:
    figure.savefig(path, dpi=_POINTS_PER_INCH, bbox_inches="tight")
    pyplot.close(figure)
