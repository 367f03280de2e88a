"""Operators whose import is ours, or which TVM's importer got wrong once: compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wqtvm.errors import UnsupportedOperatorError
from wqtvm.frontend import from_torch

IMAGE = (1, 4, 8, 6)
TOKENS = (1, 5, 16)


class Functions(nn.Module):
    """Several functions of one input, so that they are compiled at once."""

    def __init__(self, *functions: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(f for f in functions if isinstance(f, nn.Module))
        self.functions = functions

    def forward(self, x):
        return tuple(function(x) for function in self.functions)


def resize(**options):
    return lambda x: F.interpolate(x, **options)


def pad(mode, *widths):
    return lambda x: F.pad(x, widths, mode=mode)


def attend(**options):
    return lambda x: F.scaled_dot_product_attention(x, 2 * x, x + 1, **options)


def masked_row(mask):
    mask[2] = False
    return mask


INFINITE = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)

CASES = {
    "parts of axes": (
        IMAGE,
        lambda x: x[:, 2] + x.select(1, -1),
        lambda x: x[0, :, -2],
        lambda x: x[:, :1].squeeze(1) + x[:, 1:2].squeeze(-3),
        lambda x: x[:, :1].squeeze(),
        lambda x: x[:, :1].squeeze((0, 1)),
        # A convolution, so that layouts are converted.
        lambda x: F.conv2d(x, torch.ones(3, 4, 1, 1))[:, :1].unsqueeze(0).squeeze(-3),
    ),
    "scaled sums": (
        IMAGE,
        lambda x: torch.add(x, x.flip(3), alpha=2.5),
        lambda x: torch.sub(x, x.flip(3), alpha=-0.5),
        lambda x: torch.add(x, 3, alpha=2),
        lambda x: x + torch.arange(x.shape[3]) * 0.3 + torch.arange(x.shape[3]) / 7,
        lambda x: torch.add(x, torch.arange(x.shape[3]), alpha=0.5) - 2.5 * torch.arange(1),
        lambda x: torch.rsub(x, 2, alpha=3),
        lambda x: torch.rsub(x, x[:, :1], alpha=3),
        lambda x: torch.add((3 * x).int(), (5 * x).int(), alpha=2),
    ),
    "exponential units": (IMAGE, nn.ELU(0.7), nn.SELU(), nn.CELU(0.5)),
    "pixel shuffle": (IMAGE, lambda x: F.pixel_shuffle(x, 2), lambda x: F.pixel_unshuffle(x, 2)),
    "padding": (
        IMAGE,
        pad("reflect", 1, 2, 3, 0),
        pad("replicate", 1, 2, 3, 0),
        pad("circular", 1, 2, 3, 0),
        pad("constant", 1, 2, 3, 0),
        pad("constant", -1, 2, -3, 0),
        lambda x: F.pad(x[0], (1, 2, 3, 0), mode="reflect"),
    ),
    "nearest": (
        IMAGE,
        resize(scale_factor=2),
        resize(scale_factor=(1.5, 0.5)),
        resize(size=(13, 5)),
        resize(size=(13, 5), mode="nearest-exact"),
        resize(scale_factor=2, mode="nearest-exact"),
    ),
    "bilinear": (
        IMAGE,
        resize(scale_factor=2, mode="bilinear"),
        resize(size=(13, 5), mode="bilinear"),
        resize(size=(13, 5), mode="bilinear", align_corners=True),
    ),
    "bicubic": (
        IMAGE,
        resize(scale_factor=2, mode="bicubic"),
        resize(size=(13, 5), mode="bicubic", align_corners=True),
    ),
    "pooling": (
        IMAGE,
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 2, ceil_mode=True),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
        lambda x: F.adaptive_max_pool2d(x, (4, 1)),
        lambda x: F.max_pool1d(x[0], 2),
        lambda x: x.amax((2, 3)),
        lambda x: x.amin(-1, keepdim=True),
    ),
    "activations": (
        IMAGE,
        nn.PReLU(4, 0.2),
        nn.PReLU(),
        F.silu,
        F.gelu,
        lambda x: F.leaky_relu(x, 0.1),
        lambda x: F.mish(20 * x),
        lambda x: F.softplus(20 * x),
        F.hardswish,
        lambda x: F.silu(x + 0, inplace=True),
    ),
    "attention": (
        TOKENS,
        attend(),
        attend(scale=0.5),
        attend(is_causal=True),
        attend(attn_mask=masked_row(torch.ones(5, 5).tril().bool())),
        attend(attn_mask=INFINITE),
        lambda x: x @ x.transpose(1, 2),
    ),
    "linear": (TOKENS, nn.Linear(16, 3), nn.Linear(16, 3, bias=False)),
    "transposed convolution": (
        IMAGE,
        nn.ConvTranspose2d(4, 6, 4, 2, 1),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
        nn.ConvTranspose2d(4, 6, 3, 1, dilation=2, bias=False),
    ),
    "convolution": (
        IMAGE,
        nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2)),
        nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"),
        nn.Conv2d(4, 6, 4, padding="same"),
        nn.Conv2d(4, 8, 3, dilation=2, groups=4),
    ),
    "normalisation": (
        IMAGE,
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.InstanceNorm2d(4),
        nn.LayerNorm(6),
        nn.BatchNorm2d(4),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_same_as_torch(case, same_as_torch):
    torch.manual_seed(0)
    shape, *functions = CASES[case]
    same_as_torch(Functions(*functions), (torch.randn(shape),))


def test_integer_input(same_as_torch):
    torch.manual_seed(0)
    table = torch.randn(7, 3)
    same_as_torch(Functions(lambda index: F.embedding(index, table)), (torch.tensor([4, 0]),))


REFUSED = {
    "antialias": (resize(scale_factor=0.5, mode="bilinear", antialias=True), "_bilinear2d_aa"),
    "fraction of a pixel": (resize(scale_factor=1.3), r"scale factors \[1.3, 1.3\]"),
    "divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), "divisor_override"),
    "indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1], "with_indices"),
    "uneven pooling": (lambda x: F.adaptive_max_pool2d(x, 5), "does not divide"),
    "random": (lambda x: x + torch.randn_like(x), "draws random numbers"),
    "dropout": (lambda x: F.dropout(x, 0.5), "training mode"),
    "transform": (lambda x: torch.fft.rfft2(x).abs(), "_fft_r2c"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_computed_wrongly_is_refused(case):
    function, message = REFUSED[case]
    with pytest.raises(UnsupportedOperatorError, match=message):
        from_torch(Functions(function), (torch.ones(IMAGE),))
