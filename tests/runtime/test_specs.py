from __future__ import annotations

import numpy as np
import pytest

from wqtvm.runtime.specs import CORRELATION, from_json, random_inputs, to_json
from wqtvm.tensor_spec import TensorSpec

IMAGE = TensorSpec("image", (1, 3, 64, 48), "float32")
TOKENS = TensorSpec("tokens", (2, 7), "int64")
SCALAR = TensorSpec("scalar", (), "bool")


def test_random_inputs_are_those_of_the_seed():
    first, again, other = (random_inputs([IMAGE, TOKENS, SCALAR], seed) for seed in (0, 0, 1))
    for spec, a, b in zip((IMAGE, TOKENS, SCALAR), first, again, strict=True):
        assert a.shape == spec.shape
        assert a.dtype == spec.dtype
        assert np.array_equal(a, b)
    assert not np.array_equal(first[0], other[0])
    assert set(first[1].ravel()) <= {0, 1}


def test_random_images_are_smooth_and_of_unit_variance():
    (image,) = random_inputs([TensorSpec("x", (16, 8, 64, 64), "float32")])
    # 128 images of about 64 * 64 / 19^2 independent pixels: 1500 samples, errors below 0.1.
    assert image.std() == pytest.approx(1, abs=0.1)
    for axis in (2, 3):
        left = np.take(image, range(63), axis)
        right = np.take(image, range(1, 64), axis)
        correlation = np.corrcoef(left.ravel(), right.ravel())[0, 1]
        assert correlation == pytest.approx(CORRELATION, abs=0.02)


@pytest.mark.parametrize("spec", [IMAGE, TOKENS, SCALAR])
def test_json_round_trip(spec):
    assert from_json(to_json(spec)) == spec


def test_text():
    assert str(IMAGE) == "image: float32[1, 3, 64, 48]"
    assert str(SCALAR) == "scalar: bool[]"
