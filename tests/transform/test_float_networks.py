"""Whole networks through import, folding, NHWC and external weights, compared with PyTorch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn
from tvm import relax

from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings, operator_name
from wqtvm.transform.channels_last import channels_last
from wqtvm.transform.externalize_constants import externalize_constants
from wqtvm.transform.fold_batch_norm import fold_batch_norm
from wqtvm.transform.fold_layout_constants import fold_layout_constants


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class Classifier(nn.Module):
    """Convolutions with BatchNorm, residuals, pooling, and a linear layer."""

    shapes = ((1, 3, 16, 16),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(Residual(8), nn.MaxPool2d(2), Residual(8))
        self.late = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.late(self.body(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class TimedResidual(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(16, out_channels)
        self.norm2 = nn.GroupNorm(4, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x, time):
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """Self-attention over pixels with a gated feed-forward part, as in diffusion models."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.inner = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.gate = nn.Linear(channels, 4 * channels)
        self.down = nn.Linear(2 * channels, channels)

    def forward(self, x):
        batch, channels, height, width = x.shape
        y = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        heads = self.qkv(self.inner(y)).view(batch, -1, 3, 2, channels // 2).unbind(2)
        z = F.scaled_dot_product_attention(*[head.transpose(1, 2) for head in heads])
        y = y + self.out(z.transpose(1, 2).reshape(batch, -1, channels))
        value, gate = self.gate(y).chunk(2, dim=-1)
        y = y + self.down(value * F.gelu(gate))
        return y.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous() + x


class UNet(nn.Module):
    """One level of a diffusion U-Net: time embedding, attention, interpolation, concatenation."""

    shapes = ((1, 4, 8, 8), (1, 16))

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, 8, 3, padding=1)
        self.down1 = TimedResidual(8, 8)
        self.shrink = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.middle1 = TimedResidual(8, 16)
        self.attention = Attention(16)
        self.middle2 = TimedResidual(16, 16)
        self.grow = nn.Conv2d(16, 16, 3, padding=1)
        self.up1 = TimedResidual(24, 8)
        self.norm = nn.GroupNorm(4, 8)
        self.leave = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x, time):
        skip = self.down1(self.enter(x), time)
        y = self.middle2(self.attention(self.middle1(self.shrink(skip), time)), time)
        y = self.grow(F.interpolate(y, scale_factor=2.0, mode="nearest"))
        y = self.up1(torch.cat([y, skip], 1), time)
        return self.leave(F.silu(self.norm(y)))


class Denoiser(nn.Module):
    """As FFDNet: a noise map joins the image at half size; the result is shuffled back."""

    shapes = ((1, 3, 12, 16), (1, 1, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(13, 16, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(16, 12, 3, padding=1))

    def forward(self, x, sigma):
        x = F.pixel_unshuffle(x, 2)
        sigma = sigma.expand(x.shape[0], 1, x.shape[2], x.shape[3])
        return F.pixel_shuffle(self.body(torch.cat([x, sigma], 1)), 2)


class SuperResolution(nn.Module):
    """PReLU, leaky ReLU, reflection and replication padding, and a transposed convolution."""

    shapes = ((1, 3, 8, 8),)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.active = nn.PReLU(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, padding_mode="replicate")
        self.active2 = nn.PReLU()
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        y = self.active2(self.second(self.active(self.first(x))))
        y = self.last(F.leaky_relu(self.up(y), 0.2)).clamp(0, 1)
        return y + F.interpolate(x, scale_factor=2, mode="bilinear")


# What is left: input and output (a classifier's output is no image), attention's three operands
# and its result, the shuffles themselves, and either side of a transposed convolution.
PERMUTATIONS = {Classifier: 1, UNet: 2 + 4, Denoiser: 2 + 2, SuperResolution: 2 + 2}


def prepared(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tvm.IRModule:
    steps = (
        fold_layout_constants,
        relax.transform.FoldConstant(),
        fold_batch_norm,
        channels_last,
    )
    return tvm.transform.Sequential(steps)(from_torch(model, inputs).module)


def example(network: type[nn.Module]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    model = network().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model, tuple(torch.randn(shape) for shape in network.shapes)


@pytest.mark.parametrize("network", PERMUTATIONS)
def test_same_as_torch(network):
    model, inputs = example(network)
    module, weights = externalize_constants(prepared(model, inputs))
    executable = tvm.compile(module, tvm.target.Target("llvm"))
    arguments = [*[value.numpy() for value in inputs], *weights.values()]
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](
        *[tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arguments]
    )
    with torch.no_grad():
        expected = model(*inputs).numpy()
    # Up to 12 layers of sums of up to 216 products, in another order and with BatchNorm folded
    # into the weights: some 1e-6 of a layer's largest value, which is about 1 to 5.
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("network", PERMUTATIONS)
def test_layouts_and_names(network):
    model, inputs = example(network)
    module = prepared(model, inputs)
    calls = [(b.var.name, b.value) for b in bindings(module["main"])]
    counts = Counter(operator_name(call) for _, call in calls)
    assert counts["relax.nn.batch_norm"] == 0
    assert counts["relax.permute_dims"] == PERMUTATIONS[network]
    names = [name for name, call in calls if operator_name(call) == "relax.nn.conv2d"]
    wanted = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]
    assert sorted(names) == sorted(wanted)


def test_names_of_the_weights():
    model, inputs = example(Classifier)
    _, weights = externalize_constants(prepared(model, inputs))
    first = ["stem.0.weight", "stem.0.bias", "body.0.conv1.weight", "body.0.conv1.bias"]
    assert list(weights)[:4] == first
    assert weights["stem.0.weight"].shape == (3, 3, 3, 8)
    assert "head.weight" in weights
