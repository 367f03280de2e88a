"""The emulation in PyTorch against the numpy reference, and networks of emulated convolutions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from wqtvm.emulation import EmulatedConvolution, emulate_network
from wqtvm.errors import NotEligibleError
from wqtvm.fastconv import BilinearAlgorithm, correlated_scales, direct, sfc, winograd
from wqtvm.quantization import direct_reference, quantize_weights, sqnr_db
from wqtvm.quantization.reference import convolution_reference
from wqtvm.quantization.scheme import Scheme

# Sums of floats are added in another order: a few values next to a rounding tie differ by a step,
# so that the two agree far better (60 dB and up) than either agrees with float (25 to 42 dB).
LEAST_DB = 55


@pytest.mark.parametrize("precision", ["hadamard", "full"])
@pytest.mark.parametrize(
    "algorithms",
    [
        (direct(),), (winograd(2),), (winograd(4),), (sfc(6),), (direct(5),), (winograd(4, r=5),),
        (winograd(4), winograd(2)), (winograd(2, r=5), winograd(4, r=5)),
    ],
    ids=lambda algorithms: " x ".join(a.name for a in algorithms),
)  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 3, 17, 9, 11, 1), (3, 100, 33, 7, 13, 0)])
def test_emulation_is_the_reference(
    shape: tuple[int, ...], algorithms: tuple[BilinearAlgorithm, ...], precision: str
) -> None:
    batch, channels, outputs, height, width, padding = shape
    rng = np.random.default_rng(0)
    taps = algorithms[0].r
    weight = rng.standard_normal((outputs, channels, taps, taps)).astype(np.float32)
    x = rng.standard_normal((batch, height, width, channels)).astype(np.float32)
    rows, *columns = ((a, correlated_scales(a)) for a in algorithms)
    scheme = Scheme(*rows, precision, 32, "axis", "tap", *(columns[0] if columns else ()))
    reference = convolution_reference(x, quantize_weights(weight, scheme), scheme, padding).output
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    emulated = EmulatedConvolution(weight, scheme, padding)(image).permute(0, 2, 3, 1).numpy()
    assert emulated.shape == reference.shape
    assert sqnr_db(reference, emulated) > LEAST_DB


@pytest.mark.parametrize(
    ("taps", "stride", "padding"),
    [(1, 1, 0), (1, 2, 0), (2, 2, 0), (3, 2, 1), (5, 2, 1), (4, 3, 2)],
)
@pytest.mark.parametrize("shape", [(1, 3, 17, 9, 11), (3, 100, 33, 8, 13)])
@pytest.mark.parametrize("steps", ["pixel", "image"])
def test_strides_and_other_kernels_are_the_reference(
    shape: tuple[int, ...], taps: int, stride: int, padding: int, steps: str
) -> None:
    batch, channels, outputs, height, width = shape
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, channels, taps, taps)).astype(np.float32)
    x = rng.standard_normal((batch, height, width, channels)).astype(np.float32)
    scheme = Scheme(direct(taps), correlated_scales(direct(taps)))
    if steps == "image":
        scheme = replace(scheme, group_size=0, weight_steps="filter", activation_steps=steps)
    quantized = quantize_weights(weight, scheme)
    reference = direct_reference(x, quantized, scheme, padding, stride=stride).output
    network = nn.Sequential(nn.Conv2d(channels, outputs, taps, stride, padding, bias=False))
    network[0].weight.data = torch.from_numpy(weight)
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    emulated = emulate_network(network, {"0": scheme})(image).permute(0, 2, 3, 1).numpy()
    assert emulated.shape == reference.shape
    assert sqnr_db(reference, emulated) > LEAST_DB


def test_a_tile_has_no_stride() -> None:
    scheme = Scheme(winograd(4), correlated_scales(winograd(4)))
    with pytest.raises(NotEligibleError, match=r"stride is 2; F\(4,3\) is for stride 1"):
        EmulatedConvolution(np.ones((4, 4, 3, 3), np.float32), scheme, stride=2)


def test_a_network_with_some_layers_emulated() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 17, 3, padding=1), nn.ReLU(), nn.Conv2d(17, 8, 3)).eval()
    x = torch.randn(1, 3, 10, 10)
    scheme = Scheme(winograd(4), correlated_scales(winograd(4)))
    emulated = emulate_network(network, {"0": scheme, "2": None})
    assert isinstance(emulated[0], EmulatedConvolution)
    assert isinstance(emulated[2], nn.Conv2d)
    assert isinstance(network[0], nn.Conv2d)  # the given network stays as it was
    with torch.no_grad():
        assert 20 < sqnr_db(network(x).numpy(), emulated(x).numpy()) < 60


@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_a_network_goes_to_another_device(precision: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3)).eval()
    scheme = Scheme(winograd(4), correlated_scales(winograd(4)), precision)
    emulated = emulate_network(network, {"0": scheme, "1": scheme})
    # The device "meta" has shapes only; most operations refuse to mix it with the CPU, not all.
    assert emulated.to("meta")(torch.zeros(2, 3, 12, 12, device="meta")).shape == (2, 3, 10, 10)
    assert {buffer.device.type for buffer in emulated.buffers()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_a_network_on_a_gpu_is_emulated_there(precision: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 33, 3, padding=1), nn.Conv2d(33, 3, 3)).eval()
    x = torch.randn(2, 3, 17, 12, generator=torch.Generator().manual_seed(0))
    scheme = Scheme(winograd(4), correlated_scales(winograd(4)), precision)
    schemes = {"0": scheme, "1": scheme}
    expected = emulate_network(network, schemes)(x)
    y = emulate_network(network.cuda(), schemes)(x.cuda())
    assert y.is_cuda
    assert sqnr_db(expected.numpy(), y.cpu().numpy()) > LEAST_DB
