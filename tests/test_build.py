"""From PyTorch to a callable: the same bits as the reference, and networks near float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_layers import X86
from torch import nn

import wqtvm
from wqtvm.errors import (
    ConfigError,
    DynamicShapeError,
    NonFiniteError,
    UnknownTargetError,
    UnsupportedOperatorError,
)
from wqtvm.quantization import convolution_reference, quantize_weights, sqnr_db


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("precision", ["hadamard", "full"])
@pytest.mark.parametrize(
    ("batch", "channels", "filters", "height", "width", "padding"),
    [(1, 3, 17, 9, 14, 1), (3, 33, 5, 8, 7, 0)],
)
def test_a_network_of_one_layer_is_the_reference_to_the_bit(
    target: str,
    precision: str,
    batch: int,
    channels: int,
    filters: int,
    height: int,
    width: int,
    padding: int,
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(channels, filters, 3, padding=padding)
    model = nn.Sequential(convolution, nn.ReLU()).eval()
    x = torch.randn(batch, channels, height, width)
    config = wqtvm.WinogradConfig(precision=precision)
    compiled = wqtvm.compile(model, (x,), target=target, config=config)
    result = compiled(x.numpy())

    scheme = compiled.plan.layers[0].scheme()
    weights = quantize_weights(convolution.weight.detach().numpy(), scheme)
    image = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))
    reference = convolution_reference(image, weights, scheme, padding).output
    expected = np.maximum(reference + convolution.bias.detach().numpy(), np.float32(0))
    np.testing.assert_array_equal(result, expected.transpose(0, 3, 1, 2))


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.down = nn.Conv2d(32, 48, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        x = x + self.body(x)
        x = torch.relu(self.down(x))
        return self.classify(self.pool(x).flatten(1))


@pytest.mark.parametrize("target", X86)
@pytest.mark.parametrize("algorithm", ["winograd", "sfc", "direct", "float"])
def test_a_small_network_is_near_float(target: str, algorithm: str) -> None:
    torch.manual_seed(0)
    model = SmallNet()
    x = torch.randn(2, 3, 30, 26)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    model.train()
    config = wqtvm.WinogradConfig(algorithm=algorithm)
    compiled = wqtvm.compile(model, (x,), target=target, config=config)
    assert model.training
    result = compiled(x)
    assert isinstance(result, torch.Tensor)
    # Float differs by the order of sums only; a Gaussian layer has 28.8 dB with F(4,3), 37 dB
    # with SFC-4, and pooling averages.
    least = {"winograd": 28, "sfc": 33, "direct": 35, "float": 110}[algorithm]
    assert sqnr_db(expected, result.numpy()) > least
    np.testing.assert_array_equal(compiled(x.numpy()), result.numpy())


def test_the_same_build_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    model = SmallNet().eval()
    x = torch.randn(1, 3, 18, 18)
    first, second = (wqtvm.compile(model, (x,))(x) for _ in range(2))
    assert torch.equal(first, second)


def test_stages_are_reported_in_order() -> None:
    seen: list[str] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    wqtvm.compile(model, (torch.zeros(1, 3, 8, 8),), progress=lambda stage, *_: seen.append(stage))
    assert list(dict.fromkeys(seen)) == ["import", "plan", "quantize", "build"]


def test_parameters_are_named_after_their_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 24, 3))
    compiled = wqtvm.compile(model, (torch.zeros(1, 3, 12, 12),), target="wq/x86-vnni")
    assert set(compiled.params) == {
        f"{layer}.{role}" for layer in "02" for role in ("U", "U_step", "U_correction", "bias")
    }


class TwoKernels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.five = nn.Conv2d(3, 17, 5, padding=2)
        self.three = nn.Conv2d(17, 5, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.three(torch.relu(self.five(x))))


@pytest.mark.parametrize(
    ("config", "labels", "least_db"),
    [
        (wqtvm.WinogradConfig(), ["F(2,5)", "F(4,3)"], 23),
        (wqtvm.WinogradConfig(tile=4, precision="full"), ["F(4,5)", "F(4,3)"], 10),
        (wqtvm.WinogradConfig(tile=(2, 4)), ["F(2x4,5)", "F(2x4,3)"], 18),
        (wqtvm.WinogradConfig(algorithm="direct"), ["direct", "direct"], 36),
        # No int8 is so accurate.
        (wqtvm.WinogradConfig(algorithm="auto", min_sqnr_db=70), ["float", "float"], 100),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_kernels_of_five_and_rectangles(
    config: wqtvm.WinogradConfig, labels: list[str], least_db: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = TwoKernels().eval()
    x = torch.randn(1, 3, 11, 14)
    with torch.no_grad():
        exact = model(x).numpy()
    compiled = wqtvm.compile(model, (x,), config=config, calibration=_calibration(config, x))
    assert [layer.label for layer in compiled.plan.layers] == labels
    result = compiled(x.numpy())
    assert sqnr_db(exact, result) > least_db
    compiled.export(tmp_path / "net.wq")
    loaded = wqtvm.load(tmp_path / "net.wq")
    np.testing.assert_array_equal(loaded(x.numpy()), result)
    assert loaded.plan == compiled.plan


def _calibration(config: wqtvm.WinogradConfig, x: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
    return (x,) if config.algorithm == "auto" else None


class Slice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x)


def test_bad_input_is_refused_by_name() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(UnknownTargetError, match=r"target is 'wq/x86-vnnni'.*Did you mean"):
        wqtvm.compile(convolution, (x,), target="wq/x86-vnnni")
    with pytest.raises(ConfigError, match="tile is 7; give one of 2, 3, 4, 5, 6"):
        wqtvm.WinogradConfig(tile=7)
    with pytest.raises(ConfigError, match="exclude pattern 'tail' matches no convolution"):
        wqtvm.compile(convolution, (x,), config=wqtvm.WinogradConfig(exclude=("tail",)))
    with pytest.raises(UnsupportedOperatorError, match="linalg"):
        wqtvm.compile(Slice(), (x,))
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        convolution.eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},)
    )
    with pytest.raises(DynamicShapeError):
        wqtvm.compile(program)
    with torch.no_grad():
        convolution.weight[1, 2, 0, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="weight"):
        wqtvm.compile(convolution, (x,))
