"""A classifier of CIFAR-10 in Keras' format: six valid convolutions, batch normalisation behind."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor, nn

from .base import Inputs, MissingPackageError, Network, conv2d, package_file
from .images import foolbox_images

_PACKAGE = "cifar-10-model==7.4.0"


def _load() -> nn.Module:
    try:
        import h5py
    except ImportError as error:
        raise MissingPackageError("h5py is not installed; run: pip install h5py") from error
    path = package_file("cifar_10_model", "trained_models/cnn_model.h5", _PACKAGE)
    layers: list[nn.Module] = []
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])["config"]["layers"]
        for layer in config:
            layers += _layer(layer, file["model_weights"])
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _layer(layer: dict, weights: object) -> list[nn.Module]:
    kind, options = layer["class_name"], layer["config"]
    name = options["name"]

    def array(part: str) -> Tensor:
        return torch.from_numpy(np.asarray(weights[f"{name}/{name}/{part}:0"]))

    activation = {"relu": [nn.ReLU()], "softmax": [], None: [], "linear": []}
    if kind == "Conv2D":
        padding = 0 if options["padding"] == "valid" else 1
        kernel = array("kernel").permute(3, 2, 0, 1)
        return [conv2d(kernel, array("bias"), 1, padding), *activation[options["activation"]]]
    if kind == "BatchNormalization":
        norm = nn.BatchNorm2d(len(array("gamma")), eps=options["epsilon"])
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        with torch.no_grad():
            for part, target in zip(
                parts, (norm.weight, norm.bias, norm.running_mean, norm.running_var), strict=True
            ):
                target.copy_(array(part))
        return [norm]
    if kind == "Dense":
        dense = nn.Linear(*array("kernel").shape)
        with torch.no_grad():
            dense.weight.copy_(array("kernel").T)
            dense.bias.copy_(array("bias"))
        return [dense, *activation[options["activation"]]]
    plain = {
        "MaxPooling2D": lambda: [nn.MaxPool2d(options["pool_size"][0], options["strides"][0])],
        "Flatten": lambda: [_ChannelsLast(), nn.Flatten()],
        "Dropout": list,
        "InputLayer": list,
    }
    return plain[kind]()


class _ChannelsLast(nn.Module):
    """Brings channels to the end, as they are flattened in Keras."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def _inputs() -> list[Inputs]:
    images = np.stack([pixels for pixels, _ in foolbox_images("cifar10")])
    return [(torch.from_numpy(images).permute(0, 3, 1, 2).float(),)]


def _labels() -> list[int]:
    return [label for _, label in foolbox_images("cifar10")]


NETWORK = Network("cifar10", _PACKAGE, _load, _inputs, labels=_labels)
