"""Calibration in the graph: balancing, correcting means, and folding factors into weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

from wqtvm import WinogradConfig
from wqtvm.errors import NotEligibleError
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings, operator_name
from wqtvm.quantization.plan import Plan
from wqtvm.transform import pipeline
from wqtvm.transform.balance_channels import balance_channels, balanceable
from wqtvm.transform.correct_means import correct_means
from wqtvm.transform.fold_channel_scales import fold_channel_scales
from wqtvm.transform.observe_layers import observe_layers
from wqtvm.transform.plan_convolutions import plan_convolutions

SIZE = 12


def _convolution(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def _prepared(network, channels=3):
    torch.manual_seed(0)
    x = torch.rand(2, channels, SIZE, SIZE)
    return pipeline.prepare(from_torch(network.eval(), (x,)).module)


def _planned(module, name, **fields):
    """The plan of a module, with the named layer's balance or correction."""
    plan = plan_convolutions(module, WinogradConfig())
    return Plan(
        tuple(replace(layer, **fields) if layer.name == name else layer for layer in plan.layers)
    )


def _factors(count, seed=1):
    return tuple(float(x) for x in np.random.default_rng(seed).uniform(0.3, 3.0, count))


def _run(module, x):
    import tvm
    from tvm.relax.transform import LegalizeOps

    executable = relax.build(LegalizeOps()(module), "llvm", relax_pipeline="default_build")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def _operators(module):
    return [operator_name(binding.value) for binding in bindings(module["main"])]


CHAINS = {
    "relu": lambda: [nn.ReLU()],
    "nothing": list,
    "leaky and pooled": lambda: [nn.LeakyReLU(0.2), nn.MaxPool2d(2)],
    "prelu and mean": lambda: [nn.PReLU(17), nn.AvgPool2d(2)],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chain", CHAINS)
def test_factors_go_into_the_convolution_before(chain, bias):
    """Of equal results, with no operator more."""
    network = nn.Sequential(
        _convolution(3, 17, bias=bias), *CHAINS[chain](), _convolution(17, 5, bias=bias)
    )
    before = _prepared(network)
    last = str(len(network) - 1)
    balanced = balance_channels(before, _planned(before, last, balance=_factors(17)))
    folded = fold_channel_scales(balanced)
    assert _operators(balanced).count("relax.multiply") == 1
    assert _operators(folded) == _operators(before)
    x = np.random.default_rng(2).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    expected = _run(before, x)
    # Weights are rounded twice more to float32: some units of 6e-8 of the terms of sums, some of
    # which cancel.
    for module in (balanced, folded):
        np.testing.assert_allclose(_run(module, x), expected, rtol=1e-4, atol=3e-6)


def test_both_of_a_chain_are_balanced():
    """A layer's outputs take the next layer's factors, its inputs its own."""
    network = nn.Sequential(
        _convolution(3, 17), nn.ReLU(), _convolution(17, 33), nn.ReLU(), _convolution(33, 4)
    )
    before = _prepared(network)
    plan = _planned(before, "2", balance=_factors(17))
    plan = Plan(
        tuple(
            replace(layer, balance=_factors(33)) if layer.name == "4" else layer
            for layer in plan.layers
        )
    )
    folded = fold_channel_scales(balance_channels(before, plan))
    assert _operators(folded) == _operators(before)
    x = np.random.default_rng(2).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_allclose(_run(folded, x), _run(before, x), rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("between", [nn.SiLU, nn.ReLU6, nn.Tanh])
def test_a_multiplication_stays_behind_what_does_not_scale(between):
    network = nn.Sequential(_convolution(3, 17), between(), _convolution(17, 5))
    before = _prepared(network)
    balanced = balance_channels(before, _planned(before, "2", balance=_factors(17)))
    folded = fold_channel_scales(balanced)
    assert _operators(folded).count("relax.multiply") == _operators(balanced).count(
        "relax.multiply"
    )
    x = np.random.default_rng(2).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_allclose(_run(folded, x), _run(before, x), rtol=1e-4, atol=3e-6)


def test_a_multiplication_by_what_may_be_negative_stays():
    """ReLU of -x is not -ReLU of x."""

    class Negative(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = _convolution(3, 4)
            self.register_buffer("factor", torch.tensor([1.0, -1.0, 2.0, 0.5])[:, None, None])

        def forward(self, x):
            return torch.relu(self.convolution(x)) * self.factor

    before = _prepared(Negative())
    assert _operators(fold_channel_scales(before)) == _operators(before)


def test_only_what_a_convolution_alone_takes_is_balanced():
    """Not the input of the network, nor a value with another user."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (_convolution(8, 8) for _ in range(3))

        def forward(self, x):
            x = torch.relu(self.first(x))
            return x + self.third(torch.relu(self.second(x)))

    prepared = _prepared(Residual(), channels=8)
    assert {"third"} <= balanceable(prepared["main"])
    assert "second" not in balanceable(prepared["main"])


def test_other_channels_are_refused():
    module = _prepared(nn.Sequential(_convolution(3, 17), _convolution(17, 5)))
    plan = _planned(module, "1", balance=_factors(17))
    other = _prepared(nn.Sequential(_convolution(3, 16), _convolution(16, 5)))
    with pytest.raises(NotEligibleError, match="layer 1: weights have 16 input channels"):
        balance_channels(other, plan)


@pytest.mark.parametrize("bias", [True, False])
def test_correction_is_in_the_bias(bias):
    """Or is one, where there is none; then factors of the next layer scale it, too."""
    network = nn.Sequential(_convolution(3, 17, bias=bias), nn.ReLU(), _convolution(17, 5))
    before = _prepared(network)
    correction = _factors(17)
    corrected = correct_means(before, _planned(before, "0", correction=correction))
    additions = _operators(before).count("relax.add") + (not bias)
    assert _operators(corrected).count("relax.add") == additions
    x = np.random.default_rng(2).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    with torch.no_grad():
        shifted = network[0](torch.from_numpy(x)) + torch.tensor(correction)[:, None, None]
        expected = network[1:](shifted).numpy()
    np.testing.assert_allclose(_run(corrected, x), expected, rtol=1e-4, atol=3e-6)
    balanced = balance_channels(corrected, _planned(before, "2", balance=_factors(17)))
    folded = fold_channel_scales(balanced)
    assert _operators(folded) == _operators(corrected)
    np.testing.assert_allclose(_run(folded, x), expected, rtol=1e-4, atol=3e-6)


def test_observed_layers_are_corrected():
    """What a layer gives is then an output as well, of which the correction must be a part."""
    network = nn.Sequential(_convolution(3, 17), nn.ReLU(), _convolution(17, 5, bias=False))
    before = _prepared(network)
    plan = _planned(before, "0", correction=_factors(17))
    corrected = correct_means(observe_layers(before, ["0", "2"]), plan)
    x = np.random.default_rng(2).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    executable = relax.build(relax.transform.LegalizeOps()(corrected), "llvm")
    _, _, (first, _) = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x))
    with torch.no_grad():
        own = nn.functional.conv2d(torch.from_numpy(x), network[0].weight, padding=1)
        expected = (own + torch.tensor(_factors(17))[:, None, None]).permute(0, 2, 3, 1)
    np.testing.assert_allclose(first.numpy(), expected.numpy(), rtol=1e-4, atol=3e-6)
