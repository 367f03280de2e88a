from __future__ import annotations

import pytest
import torch

from wqtvm.runtime.specs import PlainTensors, from_json, to_json
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


def plain() -> torch.Tensor:
    return torch.zeros(IMAGE.shape)


def test_plain_tensors_match():
    tokens = torch.zeros(TOKENS.shape, dtype=torch.int64)
    assert PlainTensors([IMAGE, TOKENS], 64).match([plain(), tokens])
    assert PlainTensors([IMAGE], 64).match([plain().requires_grad_()])


@pytest.mark.parametrize(
    "values",
    [
        [],
        [plain(), plain()],
        [plain().numpy()],
        [plain().double()],
        [torch.nn.Parameter(plain())],
        [plain()[..., :-1]],
        [plain().transpose(2, 3).contiguous().transpose(2, 3)],
        [plain().to_sparse()],
        [plain().to("meta")],
        [torch.zeros(plain().numel() + 1)[1:].view(IMAGE.shape)],
        [torch.complex(plain(), plain()).contiguous().conj().imag],
        [torch._neg_view(plain())],
        [None],
    ],
)
def test_other_values_do_not_match(values):
    assert not PlainTensors([IMAGE], 64).match(values)
