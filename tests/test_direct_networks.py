"""Networks of 1x1, strided and 5x5 convolutions, through ``wqtvm.compile``, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_layers import X86
from numpy.typing import NDArray
from torch import nn

import wqtvm
from wqtvm.quantization import direct_reference, quantize_weights, sqnr_db
from wqtvm.quantization.plan import LayerPlan

TARGETS = [*X86, pytest.param("wq/x86-avx-vnni", marks=pytest.mark.isa("avx_vnni"))]
DIRECT = wqtvm.WinogradConfig(algorithm="direct")
Shape = tuple[int, int, int, int]


def reference(layer: LayerPlan, convolution: nn.Conv2d, x: NDArray[np.float32]) -> NDArray:
    """The numpy reference of a planned layer with its bias, (image, channel, row, column)."""
    scheme = layer.scheme()
    weights = quantize_weights(convolution.weight.detach().numpy(), scheme)
    image = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    (padding, _), (stride, _) = layer.padding, layer.stride
    output = direct_reference(image, weights, scheme, padding, stride=stride).output
    assert convolution.bias is not None
    return (output + convolution.bias.detach().numpy()).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "stride", "padding", "options"),
    [
        ((1, 100, 9, 14), 33, 1, 1, 0, {}),
        ((3, 33, 7, 5), 17, 1, 2, 0, {"weight_steps": "filter"}),
        ((1, 17, 8, 11), 3, 1, 2, 1, {}),
        ((1, 3, 13, 10), 100, 3, 2, 1, {}),
        ((3, 17, 9, 12), 33, 3, 2, 0, {"group_size": 0, "weight_steps": "filter"}),
        ((1, 1, 11, 8), 1, 5, 1, 2, {}),
        ((1, 33, 13, 15), 17, 5, 2, 2, {"weight_steps": "filter"}),
        ((3, 3, 12, 9), 17, 5, 2, 1, {}),
        ((1, 100, 9, 9), 3, 2, 2, 0, {}),
        ((1, 17, 14, 17), 33, 4, 3, 1, {"group_size": 12}),
        ((2, 17, 14, 17), 33, 3, 1, 1, {"activation_steps": "image"}),
        ((1, 100, 9, 14), 17, 1, 2, 0, {"activation_steps": "image"}),
    ],
)
def test_a_layer_is_the_reference_to_the_bit(
    target: str,
    shape: Shape,
    filters: int,
    kernel: int,
    stride: int,
    padding: int,
    options: dict[str, object],
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(shape[1], filters, kernel, stride, padding)
    model = nn.Sequential(convolution, nn.ReLU()).eval()
    x = torch.randn(shape)
    config = wqtvm.WinogradConfig(algorithm="direct", **options)  # type: ignore[arg-type]
    compiled = wqtvm.compile(model, (x,), target=target, config=config)
    (layer,) = compiled.plan.layers
    assert (layer.algorithm, layer.stride) == ("direct", (stride, stride))
    expected = np.maximum(reference(layer, convolution, x.numpy()), np.float32(0))
    np.testing.assert_array_equal(compiled(x.numpy()), expected)


class Bottleneck(nn.Module):
    """A block of a ResNet whose shortcut is a strided 1x1, behind a strided 5x5, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 33, 5, 2, 2)
        self.reduce = nn.Conv2d(33, 17, 1)
        self.middle = nn.Conv2d(17, 17, 3, 2, 1)
        self.expand = nn.Conv2d(17, 48, 1)
        self.shortcut = nn.Conv2d(33, 48, 1, 2)
        self.plain = nn.Conv2d(48, 48, 3, padding=1)
        self.head = nn.Conv2d(48, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        h = torch.relu(self.middle(torch.relu(self.reduce(x))))
        x = torch.relu(self.expand(h) + self.shortcut(x))
        result: torch.Tensor = self.head(torch.relu(self.plain(x)))
        return result


X = torch.randn(3, 3, 35, 29, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_of_them_is_the_reference_to_the_bit(target: str) -> None:
    model = Bottleneck().eval()
    compiled = wqtvm.compile(model, (X,), target=target, config=DIRECT)
    assert {layer.algorithm for layer in compiled.plan.layers} == {"direct"}

    def layer(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return reference(compiled.plan.layer(name), model.get_submodule(name), x)

    def relu(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.maximum(x, np.float32(0))

    x = relu(layer("stem", X.numpy()))
    h = relu(layer("middle", relu(layer("reduce", x))))
    x = relu(layer("expand", h) + layer("shortcut", x))
    np.testing.assert_array_equal(compiled(X.numpy()), layer("head", relu(layer("plain", x))))


def test_others_beside_winograd_go_through_an_artefact(tmp_path: Path) -> None:
    model = Bottleneck().eval()
    with torch.no_grad():
        exact = model(X).numpy()
    config = wqtvm.WinogradConfig(tile=4, others="direct")
    compiled = wqtvm.compile(model, (X,), config=config)
    assert [layer.label for layer in compiled.plan.layers] == [*["direct"] * 5, "F(4,3)", "direct"]
    result = compiled(X.numpy())
    assert sqnr_db(exact, result) > 28
    compiled.export(tmp_path / "net.wq")
    loaded = wqtvm.load(tmp_path / "net.wq")
    np.testing.assert_array_equal(loaded(X.numpy()), result)
    assert loaded.plan == compiled.plan
    assert loaded.plan.layer("shortcut").stride == (2, 2)
    assert loaded.config.others == "direct"


def test_the_report_and_calibration_know_them() -> None:
    model = Bottleneck().eval()
    with torch.no_grad():
        exact = model(X).numpy()
    plain = wqtvm.compile(model, (X,), config=DIRECT)
    calibrated = wqtvm.compile(
        model,
        (X,),
        config=wqtvm.WinogradConfig(algorithm="direct", calibrate=True),
        calibration=(X,),
    )
    planned = {layer.name: layer for layer in calibrated.plan.layers}
    assert all(layer.correction is not None for layer in planned.values())
    # What both "reduce" and "shortcut" take has two users.
    assert {name for name, layer in planned.items() if layer.balance is not None} == {
        "stem", "middle", "expand", "plain", "head"
    }  # fmt: skip
    both = [sqnr_db(exact, each(X.numpy())) for each in (plain, calibrated)]
    assert both[1] > both[0] > 30
    report = plain.report([X])
    assert all(layer.local_db is not None and layer.local_db > 35 for layer in report.layers)


class Diffusion(nn.Module):
    """A layer to one channel, behind which stands what is computed of other inputs alone."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(8, 1, kernel, padding=kernel // 2)

    def forward(self, x: torch.Tensor, noise: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        mixed = noise * torch.cos(angle) - (self.convolution(x) + 1) * torch.sin(angle)
        return torch.clamp(mixed, -2, 2)


@pytest.mark.parametrize(("kernel", "algorithm"), [(1, "direct"), (3, "direct"), (3, "winograd")])
def test_what_stands_behind_a_layer_may_be_computed_of_other_inputs(
    kernel: int, algorithm: str
) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = (1, 8, 12, 10), (1, 1, 12, 10), (1, 1, 1, 1)
    inputs = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    model = Diffusion(kernel).eval()
    with torch.no_grad():
        exact = model(*inputs).numpy()
    compiled = wqtvm.compile(model, inputs, config=wqtvm.WinogradConfig(algorithm=algorithm))
    assert compiled.plan.layers[0].algorithm == algorithm
    assert sqnr_db(exact, compiled(*inputs).numpy()) > 25
