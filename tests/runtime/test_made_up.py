"""Inputs that are made up: pictures, noise and numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wqtvm.runtime.made_up import CORRELATION, NUMBER, completed, random_inputs
from wqtvm.tensor_spec import TensorSpec

IMAGE = TensorSpec("image", (1, 3, 64, 48), "float32")
TOKENS = TensorSpec("tokens", (2, 7), "int64")
SCALAR = TensorSpec("scalar", (), "bool")
LEVEL = TensorSpec("level", (1, 1, 1, 1), "float32")


def test_random_inputs_are_those_of_the_seed() -> None:
    first, again, other = (random_inputs([IMAGE, TOKENS, SCALAR], seed) for seed in (0, 0, 1))
    for spec, a, b in zip((IMAGE, TOKENS, SCALAR), first, again, strict=True):
        assert a.shape == spec.shape
        assert a.dtype == spec.dtype
        assert np.array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert set(first[1].ravel()) <= {0, 1}


def test_other_images_are_smooth_noise_of_unit_variance() -> None:
    (image,) = random_inputs([TensorSpec("x", (16, 8, 64, 64), "float32")])
    # 128 images of about 64 * 64 / 19^2 independent pixels: 1500 samples, errors below 0.1.
    assert image.std() == pytest.approx(1, abs=0.1)
    for axis in (2, 3):
        left = np.take(image, range(63), axis)
        right = np.take(image, range(1, 64), axis)
        correlation = np.corrcoef(left.ravel(), right.ravel())[0, 1]
        assert correlation == pytest.approx(CORRELATION, abs=0.02)


@pytest.mark.parametrize(
    "shape", [(1, 3, 96, 64), (1, 64, 96, 3), (2, 1, 96, 96), (1, 3, 1, 1), (1, 3, 5, 2)]
)
def test_pictures_are_in_0_to_1(shape: tuple[int, ...]) -> None:
    (picture,) = random_inputs([TensorSpec("x", shape, "float32")])
    assert picture.shape == shape
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_pictures_have_the_statistics_of_photographs() -> None:
    """Correlated neighbours, and edges: steps between pixels are far from normally distributed."""
    (picture,) = random_inputs([TensorSpec("x", (4, 3, 128, 128), "float32")])
    steps = np.diff(picture, axis=3).ravel()
    assert 1 - np.mean(steps**2) / (2 * picture.var()) > 0.9
    assert np.mean(steps**4) / np.mean(steps**2) ** 2 > 10  # 3 if normal, 6 to 53 of photographs
    assert picture.std() > 0.15
    red, green = picture[:, 0].ravel(), picture[:, 1].ravel()
    assert np.corrcoef(red, green)[0, 1] > 0.5


def test_pictures_may_have_another_black_and_white() -> None:
    (unit,), (bytes_,) = (random_inputs([IMAGE], span=span) for span in ((0, 1), (0, 255)))
    np.testing.assert_allclose(bytes_, 255 * unit, rtol=1e-5)


def test_a_single_number_is_the_examples() -> None:
    made_up = completed([IMAGE, LEVEL], None)
    assert made_up[1] == np.float32(NUMBER)
    for given, wanted in ((0.4, 0.4), (0.0, NUMBER)):
        examples = (torch.zeros(1, 3, 64, 48), torch.full((1, 1, 1, 1), given))
        inputs = completed([IMAGE, LEVEL], examples)
        assert inputs[1] == np.float32(wanted)
        np.testing.assert_array_equal(inputs[0], made_up[0])


def test_an_example_that_varies_counts_but_for_white_noise_in_three_channels() -> None:
    rng = np.random.default_rng(0)
    grey = TensorSpec("x", (1, 1, 64, 48), "float32")
    noise = rng.standard_normal(grey.shape, dtype=np.float32)
    assert completed([grey], [noise])[0] is noise
    dummy = torch.randn(IMAGE.shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(completed([IMAGE], [dummy])[0], random_inputs([IMAGE])[0])
    photograph = random_inputs([IMAGE], seed=9)[0]
    assert completed([IMAGE], [photograph])[0] is photograph
