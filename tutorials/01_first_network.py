"""A first network: compile it, see what was done with it and what it costs, take it elsewhere.

    python tutorials/01_first_network.py

It takes some seconds and needs nothing but wqtvm. A test runs it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import wqtvm

# %% 1. A network, as PyTorch has it
#
# Two 3x3 convolutions with a residual, which Winograd fits, and three which it does not: a strided
# one and a 1x1, which may be direct convolutions in int8 instead, and a depthwise one.


class Network(nn.Module):
    """Five convolutions, of five kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.first = nn.Conv2d(32, 64, 3, padding=1)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.head = nn.Conv2d(64, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image (N, 3, H, W) to features (N, 8, H/2, W/2)."""
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.first(x))
        x = x + torch.relu(self.second(x))
        return self.head(self.depthwise(x))


torch.manual_seed(0)
network = Network().eval()
image = torch.rand(1, 3, 96, 96)

# %% 2. Compile it
#
# The example's shape is compiled in. "wq" is this machine; `wqtvm.target.target_names()` lists the
# others. Weights are transformed and quantized here, once; no data is needed for it.

compiled = wqtvm.compile(network, (image,), target="wq")
print(compiled)

# %% 3. The plan: what is done with each convolution, and why
#
# Nothing falls back silently: what stays float says why. With `WinogradConfig(others="direct")` the
# strided one and the 1x1 would be in int8, too.

print(f"\n{compiled.plan}\n")
assert compiled.plan.layer("first").algorithm == "winograd"
assert compiled.plan.layer("stem").reason.value == "stride"

# %% 4. Run it
#
# Torch tensors in, torch tensors out; numpy arrays in, numpy arrays out.

with torch.inference_mode():
    exact = network(image)
result = compiled(image)
assert np.array_equal(compiled(image.numpy()), result.numpy())
error = (result - exact).norm() / exact.norm()
print(f"relative error against float: {error:.4f}\n")
assert error < 0.02

# %% 5. The report: how much accuracy each layer costs
#
# In dB of signal to quantization noise; 6 dB are a factor of two. "local" is a layer by itself,
# given exact inputs; "accumulated" is the network up to it. Give it real inputs if you have some.

print(f"{compiled.report([image])}\n")

# %% 6. Choose otherwise
#
# F(4,3) takes 36 products for 16 outputs, 2.25 a piece, where a direct convolution takes 9, and
# F(2,3) takes 4; F(6,3) takes 1.78 and is the least accurate. Precision "full" has not only the
# products in 8 bits, but every stage of the transforms. Patterns choose layers by name.

choices = {
    "F(2,3)": wqtvm.WinogradConfig(tile=2),
    "F(4,3), every stage in int8": wqtvm.WinogradConfig(tile=4, precision="full"),
    "F(6,3), the second layer only": wqtvm.WinogradConfig(tile=6, include=("second",)),
    "F(4,3), others direct": wqtvm.WinogradConfig(others="direct"),
    "int8 without a transform": wqtvm.WinogradConfig(algorithm="direct"),
}
for name, config in choices.items():
    approximation = wqtvm.compile(network, (image,), config=config)(image)
    error = (approximation - exact).norm() / exact.norm()
    print(f"{name:<30} {-20 * torch.log10(error):5.1f} dB")

# %% 7. Take it elsewhere
#
# An artefact is a folder: the library, the weights, and a manifest with the hash of both. Loading
# it needs neither this file nor PyTorch. The command line runs it, too: `wqtvm run first.wq`.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "first.wq"
    compiled.export(path)
    print(f"\n{path.name}: {', '.join(sorted(file.name for file in path.iterdir()))}")
    loaded = wqtvm.load(path)
assert torch.equal(loaded(image), result)
print("the loaded network gives the same bits")
