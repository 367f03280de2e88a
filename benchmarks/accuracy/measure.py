"""Measure a quantized network against float: end to end, and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from wqtvm.emulation import EmulatedConvolution, emulate_network, emulated_convolution
from wqtvm.quantization import psnr_db, sqnr_db
from wqtvm.quantization.plan import LayerPlan
from wqtvm.quantization.scheme import Scheme

from .networks.base import Inputs, Network, eligible_layers

Layers = Mapping[str, Scheme | LayerPlan | None]


@dataclass(frozen=True)
class Measured:
    """One network by one variant.

    Attributes
    ----------
    psnr_db : against float, with the range of the float output as peak; the mean over inputs.
    sqnr_db : against float, the mean over inputs.
    loss_db : of PSNR against truth, compared with float; None without truth.
    right, right_float, labelled : classes that are right; None without labels.
    worst, worst_db : the layer that by itself, given float inputs, has the least SQNR.
    layers_db : that SQNR of every layer, by name.
    """

    psnr_db: float
    sqnr_db: float
    loss_db: float | None
    right: int | None
    right_float: int | None
    labelled: int | None
    worst: str
    worst_db: float
    layers_db: dict[str, float]


class Subject:
    """A network with what does not depend on the variant: inputs, float outputs, truth."""

    def __init__(self, known: Network) -> None:
        self.known = known
        self.model = folded(known.load())
        self.inputs = known.inputs()
        self.layers = eligible_layers(self.model)
        self.truth = [t.detach() for t in known.truth()] if known.truth else None
        self.labels = torch.tensor(known.labels()) if known.labels else None
        with torch.no_grad():
            self.outputs = [self.model(*x) for x in self.inputs]
        self.convolutions = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Conv2d)
        }
        self.features = layer_inputs(self.model, self.convolutions, self.inputs[0])

    def measure(self, layers: Layers) -> Measured:
        """Compare the network, its named layers quantized, with float."""
        emulated = emulate_network(self.model, layers)
        with torch.no_grad():
            outputs = [emulated(*x) for x in self.inputs]
        layers_db = {
            name: self.layer_db(name, layer)
            for name, layer in layers.items()
            if isinstance(emulated.get_submodule(name), EmulatedConvolution)
        }
        worst = min(layers_db, key=lambda name: layers_db[name], default="")
        pairs = [
            (exact.numpy(), result.numpy())
            for exact, result in zip(self.outputs, outputs, strict=True)
        ]
        return Measured(
            psnr_db=float(np.mean([psnr_db(exact, result) for exact, result in pairs])),
            sqnr_db=float(np.mean([sqnr_db(exact, result) for exact, result in pairs])),
            loss_db=self._loss(outputs),
            right=self._right(outputs),
            right_float=self._right(self.outputs),
            labelled=None if self.labels is None else len(self.labels),
            worst=worst,
            worst_db=layers_db.get(worst, float("inf")),
            layers_db=layers_db,
        )

    def layer_db(self, name: str, planned: Scheme | LayerPlan) -> float:
        """SQNR in dB of one layer alone, given what the float network gives it."""
        layer, x = self.convolutions[name], self.features[name]
        weight = layer.weight.detach()
        padding, stride = int(layer.padding[0]), int(layer.stride[0])
        emulated = emulated_convolution(weight.double().numpy(), planned, padding, stride=stride)
        exact = nn.functional.conv2d(x, weight, None, stride, padding)
        return sqnr_db(exact.numpy(), emulated(x).numpy())

    def _loss(self, outputs: list[Tensor]) -> float | None:
        if self.truth is None:
            return None
        peak = self.known.peak
        clip = (lambda x: x) if peak is None else (lambda x: x.clamp(0, peak))
        losses = [
            psnr_db(true.numpy(), clip(exact).numpy(), peak)
            - psnr_db(true.numpy(), clip(result).numpy(), peak)
            for true, exact, result in zip(self.truth, self.outputs, outputs, strict=True)
        ]
        return float(np.mean(losses))

    def _right(self, outputs: list[Tensor]) -> int | None:
        if self.labels is None:
            return None
        return int((torch.cat(outputs).argmax(1) == self.labels).sum())


def folded(model: nn.Module) -> nn.Module:
    """The network with batch normalisations folded into the convolutions before them."""
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        fused: nn.Module = fuse(model.eval())
        return fused
    return model


def layer_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], inputs: Inputs
) -> dict[str, Tensor]:
    """What each layer is given, (image, channel, row, column), when the network runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Any]:
        return lambda module, given, result: seen.update({name: given[0].detach()})

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
