"""The differentiable emulation: the reference's integers, and gradients that mean something."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wqtvm.fastconv import BilinearAlgorithm, ScaleSet, correlated_scales, direct, sfc, winograd
from wqtvm.learning.emulation import Layer, quantize
from wqtvm.quantization import Scheme, full_reference, quantize_weights, sqnr_db
from wqtvm.quantization import quantize as reference_quantize
from wqtvm.quantization.scheme import STEPS

ALGORITHMS = (winograd(2), winograd(4), winograd(4, "lavin"), winograd(6), sfc(4), direct())


def tensors(scales: ScaleSet) -> tuple[torch.Tensor, torch.Tensor]:
    s_b, s_g = torch.tensor([scales.s_b, scales.s_g], dtype=torch.float64)
    return s_b, s_g


def layer(algorithm: BilinearAlgorithm, seed: int = 0) -> tuple[NDArray[np.float32], ...]:
    """An image whose outputs fill 3 x 2 tiles, and weights; neither count of channels is even."""
    rng = np.random.default_rng(seed)
    edges = (3 * algorithm.m + algorithm.r - 1, 2 * algorithm.m + algorithm.r - 1)
    x = rng.standard_normal((1, *edges, 41)).astype(np.float32)
    return x, rng.standard_normal((35, 41, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: f"{a.name} {' '.join(a.points)}")
@pytest.mark.parametrize("steps", STEPS)
def test_stages_are_those_of_the_reference(algorithm: BilinearAlgorithm, steps: str) -> None:
    x, weight = layer(algorithm)
    for group_size, weight_steps in ((32, "tap"), (0, "filter")):
        scales = correlated_scales(algorithm)
        scheme = Scheme(algorithm, scales, "full", group_size, steps, weight_steps)
        quantized = quantize_weights(weight, scheme)
        expected = full_reference(x, quantized, scheme, padding=0)
        emulate = Layer(weight, scheme, quantized)
        emulated = emulate(torch.from_numpy(expected.d), *tensors(scales))
        # Up to V the arithmetic is the same to the bit. The sums of M are added in another order,
        # so that a value next to a rounding tie may differ by one, and all that is summed from it.
        np.testing.assert_array_equal(emulated.v.numpy(), expected.v)
        for name, differing in (("m_q", 1e-3), ("a_m_q", 1e-2)):
            ours, theirs = getattr(emulated, name).numpy(), getattr(expected, name)
            assert np.mean(ours != theirs) < differing, name
        assert sqnr_db(expected.y, emulated.y.numpy()) > 50


def test_sqnr_is_the_references() -> None:
    algorithm = winograd(4)
    x, weight = layer(algorithm, seed=1)
    scales = correlated_scales(algorithm)
    scheme = Scheme(algorithm, scales, "full")
    quantized = quantize_weights(weight, scheme)
    stages = full_reference(x, quantized, scheme, padding=0)
    emulated = Layer(weight, scheme, quantized)
    d = torch.from_numpy(stages.d)
    exact = emulated.exact(d).numpy()
    # The integers differ by a few at most: far below a hundredth of a dB.
    expected = sqnr_db(exact, stages.y)
    assert emulated.sqnr_db(d, *tensors(scales)).item() == pytest.approx(expected, abs=0.01)


def test_with_steps_along_an_axis_only_the_product_of_scales_counts() -> None:
    algorithm = winograd(4)
    x, weight = layer(algorithm, seed=3)
    scales = correlated_scales(algorithm)
    # Powers of two change no rounding.
    factors = (1.0, 4.0, 0.5, 2.0, 0.25, 1.0)
    moved = ScaleSet(
        "moved",
        tuple(s * f for s, f in zip(scales.s_b, factors, strict=True)),
        tuple(s / f for s, f in zip(scales.s_g, factors, strict=True)),
    )
    for steps, counts in (("channel", False), ("axis", False), ("tile", True)):
        first, second = (
            full_reference(x, quantize_weights(weight, scheme), scheme, padding=0).y
            for scheme in (Scheme(algorithm, s, "full", steps=steps) for s in (scales, moved))
        )
        assert np.array_equal(first, second) != counts


def test_quantize_is_the_references() -> None:
    values = np.random.default_rng(0).standard_normal((7, 3, 33)).astype(np.float32)
    values[2] = 0
    values[3] = 1e-40  # below what counts as zero
    expected = reference_quantize(values, shared=(1, 2))
    q, step = quantize(torch.from_numpy(values), (1, 2))
    np.testing.assert_array_equal(q.numpy(), expected.q)
    np.testing.assert_array_equal(step.numpy(), expected.step)


def test_gradient_of_a_step_is_that_of_its_largest_value() -> None:
    # What is quantized to q * step changes with the largest value by the rounding error over 127,
    # and with every other value by one: learned step sizes, Esser et al., arXiv 1902.08153.
    values = torch.tensor([127.0, 10.3, -4.6], requires_grad=True)
    q, step = quantize(values, (0,))
    (q * step).sum().backward()
    errors = (10 - 10.3) + (-5 + 4.6)
    # Float32 sums of terms about 10.
    torch.testing.assert_close(
        values.grad, torch.tensor([1 + errors / 127, 1, 1]), rtol=0, atol=1e-5
    )


def test_the_gradient_points_to_better_scales() -> None:
    # Standard scales of F(4,3) are 25 dB from good: a tenth along the gradient gains some dB.
    algorithm = winograd(4, "lavin")
    x, weight = layer(algorithm, seed=2)
    ones = ScaleSet("standard", (1.0,) * 6, (1.0,) * 6)
    scheme = Scheme(algorithm, ones, "full", steps="tile")
    emulated = Layer(weight, scheme)
    d = torch.from_numpy(full_reference(x, quantize_weights(weight, scheme), scheme, 0).d)
    logarithms = torch.zeros((2, 6), dtype=torch.float64, requires_grad=True)
    before = emulated.sqnr_db(d, *logarithms.exp())
    before.backward()
    assert logarithms.grad is not None
    better = logarithms.detach() + 0.1 * logarithms.grad / logarithms.grad.norm()
    gain = emulated.sqnr_db(d, *better.exp()).item() - before.item()
    assert gain > 1
