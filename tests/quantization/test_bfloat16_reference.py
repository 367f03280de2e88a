"""Rounding to bfloat16, how far the convolution is from the exact one, and what goes with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kernel_layers import direct_convolution
from torch import nn

import wqtvm
from wqtvm.emulation import EmulatedConvolution
from wqtvm.errors import ConfigError
from wqtvm.fastconv import direct, standard_scales, winograd
from wqtvm.quantization import Scheme, direct_reference, quantize_weights, sqnr_db
from wqtvm.quantization.bfloat16_reference import bfloat16_bits, bfloat16_values

SCHEME = Scheme(
    direct(), standard_scales(direct()), "bfloat16", group_size=0, weight_steps="filter"
)


@given(arrays.arrays(np.float32, 8, elements=st.floats(width=32)))
def test_rounding_is_that_of_pytorch(x: np.ndarray) -> None:
    expected = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(bfloat16_values(bfloat16_bits(x)), expected)


def test_the_convolution_is_that_of_rounded_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 7, 19)).astype(np.float32)
    weight = rng.standard_normal((5, 19, 3, 3)).astype(np.float32)
    rounded = [torch.from_numpy(each).bfloat16().float().numpy() for each in (x, weight)]
    actual = direct_reference(x, quantize_weights(weight, SCHEME), SCHEME, 1).output
    expected = direct_convolution(*rounded, 1)
    np.testing.assert_allclose(actual, expected, rtol=2.0**-24, atol=0)  # rounded once
    # Both operands lose what 8 bits of mantissa do: 57 dB each, 54 dB of both.
    assert 52 < sqnr_db(direct_convolution(x, weight, 1), actual) < 56
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    emulated = EmulatedConvolution(weight, SCHEME, 1)(image).permute(0, 2, 3, 1).numpy()
    assert sqnr_db(actual, emulated) > 110


@pytest.mark.parametrize(
    "changes",
    [{"group_size": 32}, {"weight_steps": "tap"},
     {"algorithm": winograd(4), "scales": standard_scales(winograd(4))}],
)  # fmt: skip
def test_nothing_has_a_step(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="nothing has a step: give a direct convolution"):
        replace(SCHEME, **changes)  # type: ignore[arg-type]


def test_it_is_for_direct_convolutions_and_targets_that_have_it() -> None:
    with pytest.raises(ConfigError, match="precision is 'bfloat16', but algorithm is 'winograd'"):
        wqtvm.WinogradConfig(precision="bfloat16")
    config = wqtvm.WinogradConfig(algorithm="direct", precision="bfloat16")
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), torch.zeros(1, 3, 9, 9)
    message = "layer 0: precision is 'bfloat16', of which wq/x86-vnni has no products"
    with pytest.raises(ConfigError, match=message):
        wqtvm.compile(model, (x,), target="wq/x86-vnni", config=config)


def test_a_network_compiles_for_amx() -> None:
    """Strided and 1x1 layers, too; cross-compiled, where this machine has no AMX."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 33, 3, 2, 1), nn.ReLU(), nn.Conv2d(33, 17, 1), nn.Conv2d(17, 8, 5, 1, 2)
    ).eval()
    x = torch.zeros(1, 3, 20, 22)
    config = wqtvm.WinogradConfig(algorithm="direct", precision="bfloat16", images="bfloat16")
    compiled = wqtvm.compile(model, (x,), target="wq/x86-amx", config=config)
    assert [layer.label for layer in compiled.plan.layers] == ["direct bfloat16"] * 3
    assert wqtvm.quantization.Plan.from_json(compiled.plan.to_json()) == compiled.plan
    assert {value.dtype.name for value in compiled.params.values()} == {"uint16", "float32"}
