"""Linear layers are convolutions of 1x1 in plans, and products of matrices in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tvm import ir

import wqtvm
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings, layer_name, operator_name
from wqtvm.transform import pipeline
from wqtvm.transform.balance_channels import balanceable
from wqtvm.transform.constants import shape_of
from wqtvm.transform.convolutions_as_products import convolutions_as_products
from wqtvm.transform.linear_as_convolutions import image_of


class Block(nn.Module):
    """Two branches of linear layers, as in a transformer."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = nn.Linear(channels, 2 * channels)
        self.second = nn.Linear(2 * channels, channels, bias=False)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.second(F.gelu(self.first(y)))
        return x * torch.sigmoid(self.gate(y))


class Pointwise(nn.Module):
    """1x1 convolutions among others."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(16, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.spatial = nn.Conv2d(8, 8, 3, padding=1)
        self.expand = nn.Conv2d(8, 16, 1)
        self.strided = nn.Conv2d(16, 4, 1, stride=2)
        self.padded = nn.Conv2d(4, 4, 1, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(torch.relu(self.norm(self.reduce(x))))
        x = torch.relu(self.expand(y) + x)
        return self.head(self.padded(self.strided(x)).mean((2, 3)))


def prepared(model: nn.Module, *inputs: Tensor) -> ir.IRModule:
    return pipeline.prepare(from_torch(model.eval(), inputs).module)


def layers(module: ir.IRModule) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Operator and shape of the result of each product and convolution, by name."""
    return {
        layer_name(binding.var): (str(operator_name(binding.value)), shape_of(binding.var))
        for binding in bindings(module["main"])
        if operator_name(binding.value) in ("relax.matmul", "relax.nn.conv2d")
    }


def operators(module: ir.IRModule) -> list[str]:
    names = (operator_name(binding.value) for binding in bindings(module["main"]))
    return [name.removeprefix("relax.") for name in names if name is not None]


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((1, 4096, 320), (1, 64, 64, 320)),
        ((3, 50, 8), (3, 5, 10, 8)),
        ((1, 197, 8), (1, 1, 197, 8)),  # a prime
        ((2, 3, 8, 5), (2, 4, 6, 5)),
        ((6, 9), (1, 2, 3, 9)),
        ((5, 1, 9), (1, 1, 5, 9)),  # one token an image: all images are one
        ((1, 9), (1, 1, 1, 9)),
    ],
)
def test_tokens_are_pixels(shape: tuple[int, ...], image: tuple[int, ...]) -> None:
    assert image_of(shape) == image


@pytest.mark.parametrize("shape", [(1, 60, 24), (3, 60, 24), (7, 24), (2, 3, 10, 24)])
def test_linear_layers_are_convolutions_under_their_names(shape: tuple[int, ...]) -> None:
    module = prepared(Block(), torch.randn(*shape))
    image = image_of(shape)[:3]
    assert layers(module) == {
        "first": ("relax.nn.conv2d", (*image, 48)),
        "second": ("relax.nn.conv2d", (*image, 24)),
        "gate": ("relax.nn.conv2d", (*image, 24)),
    }
    # x and what was normalised, once for both that take it; and the result.
    assert operators(module).count("reshape") <= 3


def test_operators_behind_a_layer_are_on_its_image() -> None:
    module = prepared(Block(), torch.randn(1, 60, 24))
    for binding in bindings(module["main"]):
        if operator_name(binding.value) in ("relax.add", "relax.nn.gelu", "relax.multiply"):
            assert shape_of(binding.var)[:3] == (1, 6, 10)


def test_inputs_that_layers_share_are_not_balanced() -> None:
    module = prepared(Block(), torch.randn(1, 60, 24))
    assert balanceable(module["main"]) == {"second"}


class Products(nn.Module):
    """What is no linear layer: both operands computed, a vector, batches of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 24, 5))
        self.vector = nn.Parameter(torch.randn(24))

    def forward(self, x: Tensor) -> Any:
        return x @ x.transpose(1, 2), x @ self.weights, x @ self.vector


def test_other_products_are_left_alone() -> None:
    x = torch.randn(3, 20, 24)
    assert {operator for operator, _ in layers(prepared(Products(), x)).values()} == {
        "relax.matmul"
    }


def test_float_convolutions_of_1x1_are_products() -> None:
    module = convolutions_as_products(prepared(Pointwise(), torch.randn(2, 16, 9, 7)))
    assert layers(module) == {
        "reduce": ("relax.matmul", (2 * 9 * 7, 8)),
        "spatial": ("relax.nn.conv2d", (2, 9, 7, 8)),
        "expand": ("relax.matmul", (2 * 9 * 7, 16)),
        "strided": ("relax.nn.conv2d", (2, 5, 4, 4)),
        "padded": ("relax.nn.conv2d", (2, 7, 6, 4)),
        "head": ("relax.matmul", (2, 5)),
    }


CONFIGS = {
    "float": {"algorithm": "float"},
    "int8": {"algorithm": "direct"},
    "an image": {"algorithm": "direct", "activation_steps": "image"},
    "float16": {"algorithm": "direct", "images": "float16"},
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("shape", [(1, 60, 24), (3, 37, 24), (7, 24), (1, 24)])
def test_gives_what_pytorch_gives(config: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = Block(), torch.randn(*shape)
    options: Any = CONFIGS[config]
    compiled = wqtvm.compile(model, (x,), config=wqtvm.WinogradConfig(**options))
    with torch.no_grad():
        expected = model(x).numpy()
    is_float = options["algorithm"] == "float"
    assert {layer.algorithm for layer in compiled.plan.layers} == {options["algorithm"]}
    # Of int8 the errors of two layers of 24 and 48 channels, 35 to 40 dB each.
    noise = np.mean((compiled(x).numpy() - expected) ** 2) / np.mean(expected**2)
    assert -10 * np.log10(noise + 1e-20) > (110 if is_float else 30)


@pytest.mark.isa("amx_bf16")
@pytest.mark.parametrize("shape", [(1, 60, 24), (7, 24)])
def test_in_bfloat16(shape: tuple[int, ...]) -> None:
    model, x = Block(), torch.randn(*shape)
    config = wqtvm.WinogradConfig(algorithm="direct", precision="bfloat16")
    compiled = wqtvm.compile(model, (x,), target="wq/x86-amx", config=config)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(compiled(x), expected, rtol=0, atol=2**-5)


@pytest.mark.parametrize("algorithm", ["float", "direct"])
def test_among_convolutions(algorithm: Any) -> None:
    torch.manual_seed(0)
    model, x = Pointwise().eval(), torch.randn(2, 16, 9, 7)
    config = wqtvm.WinogradConfig(algorithm=algorithm)
    compiled = wqtvm.compile(model, (x,), config=config)
    with torch.no_grad():
        expected = model(x).numpy()
    noise = np.mean((compiled(x).numpy() - expected) ** 2) / np.mean(expected**2)
    assert -10 * np.log10(noise + 1e-20) > (110 if algorithm == "float" else 25)
