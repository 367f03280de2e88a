from __future__ import annotations

import pytest

from wqtvm.runtime.specs import from_json, to_json
from wqtvm.tensor_spec import TensorSpec

IMAGE = TensorSpec("image", (1, 3, 64, 48), "float32")
TOKENS = TensorSpec("tokens", (2, 7), "int64")
SCALAR = TensorSpec("scalar", (), "bool")


@pytest.mark.parametrize("spec", [IMAGE, TOKENS, SCALAR])
def test_json_round_trip(spec):
    assert from_json(to_json(spec)) == spec


def test_text():
    assert str(IMAGE) == "image: float32[1, 3, 64, 48]"
    assert str(SCALAR) == "scalar: bool[]"
