"""Attention becomes one operator, whose result is PyTorch's; what only looks like it is left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tvm import ir

import wqtvm
from wqtvm.errors import ConfigError
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings, operator_name
from wqtvm.quantization.plan import Plan
from wqtvm.topi.attention import OPERATOR
from wqtvm.transform import pipeline
from wqtvm.transform.fuse_attention import fuse_attention


class Calls(nn.Module):
    """A function of tensors as a network."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


def prepared(model: nn.Module, *inputs: Tensor) -> ir.IRModule:
    return pipeline.prepare(from_torch(model.eval(), inputs).module)


def operators(module: ir.IRModule) -> list[str]:
    """The operators of @main, attention by its own name, without reshapes, which cost nothing."""
    found = []
    for binding in bindings(module["main"]):
        name = operator_name(binding.value)
        if name == "relax.call_tir":
            assert "attention" in binding.value.args[0].name_hint
            name = OPERATOR
        if name not in (None, "relax.reshape", "relax.expand_dims"):
            found.append(str(name).removeprefix("relax."))
    return found


def qkv(
    heads: int = 4, queries: int = 64, keys: int = 80, channels: int = 16
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = (queries, keys, keys)
    return tuple(torch.randn(2, heads, n, channels, generator=generator) for n in sizes)


def assert_equal(model: nn.Module, *inputs: Tensor, target: str = "wq") -> None:
    """What is compiled gives PyTorch's result: roundings of float32 of values around 1."""
    compiled = wqtvm.compile(model, inputs, target=target)
    with torch.no_grad():
        expected = model(*inputs)
    np.testing.assert_allclose(compiled(*inputs), expected, rtol=1e-4, atol=1e-5)


def manual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(2, 3) * 0.2, dim=-1) @ v


def scaled_before(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax((q * 0.5) @ (k / 2).transpose(2, 3), dim=3) @ v


def heads_behind(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def transposed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=2)
    return torch.bmm(v.transpose(1, 2), weights.transpose(1, 2))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (F.scaled_dot_product_attention, [OPERATOR]),
        (manual, [OPERATOR]),
        (scaled_before, [OPERATOR]),
        (heads_behind, [OPERATOR]),
        (transposed, [OPERATOR, "permute_dims"]),
        (lambda q, k, v: manual(q, k, v) + manual(v[:, :, :64], k, v), None),
    ],
)
def test_is_one_operator(function: Callable[..., Tensor], expected: list[str] | None) -> None:
    model = Calls(function)
    found = operators(fuse_attention(prepared(model, *qkv()), "float32"))
    if expected is None:
        assert found.count(OPERATOR) == 2
        assert "matmul" not in found
    else:
        assert found == expected
    assert_equal(model, *qkv())


@pytest.mark.parametrize("batch", [1, 3])
def test_of_a_transformer_takes_no_permutation_of_heads(batch: int) -> None:
    model = nn.MultiheadAttention(64, 4, batch_first=True)
    wrapped = Calls(lambda x: model(x, x, x, need_weights=False)[0])
    x = torch.randn(batch, 90, 64)
    found = operators(fuse_attention(prepared(wrapped, x), "float32"))
    assert found.count(OPERATOR) == 1
    # Of queries, keys and values together, and of images before and behind.
    assert found.count("permute_dims") <= (1 if batch == 1 else 3)
    assert_equal(wrapped, x)


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(64, 80).tril() > 0)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def weights_used(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax(q @ k.transpose(2, 3), dim=3)
    return weights @ v + weights.sum(3, keepdim=True)


def scores_used(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(2, 3)
    return torch.softmax(scores, dim=3) @ v + scores.sum(3, keepdim=True)


def over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(2, 3), dim=2) @ v


def scaled_by_channel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(2, 3) * torch.arange(80.0), dim=3) @ v


def broadcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k[:, :1].transpose(2, 3), dim=3) @ v[:, :1]


def not_turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k[:, :, :16, :], dim=3) @ v[:, :, :16]


@pytest.mark.parametrize(
    "function",
    [
        masked, causal, weights_used, scores_used, over_queries, scaled_by_channel, broadcast,
        not_turned,
    ],
)  # fmt: skip
def test_is_left_alone(function: Callable[..., Tensor]) -> None:
    model = Calls(function)
    module = prepared(model, *qkv())
    fused = fuse_attention(module, "float32")
    assert fused is module
    assert_equal(model, *qkv())


def test_few_scores_are_left_alone() -> None:
    for sizes in ({"queries": 4, "keys": 4096}, {"queries": 16, "keys": 16}):
        module = prepared(Calls(F.scaled_dot_product_attention), *qkv(**sizes))
        assert fuse_attention(module, "float32") is module


def test_equal_attentions_are_one_function() -> None:
    q, k, v = qkv(keys=64)
    module = prepared(Calls(lambda q, k, v: manual(q, k, v) + manual(k, q, v)), q, k, v)
    fused = fuse_attention(module, "float32")
    assert operators(fused).count(OPERATOR) == 2
    assert len(fused.functions) == 2


@pytest.mark.parametrize("images", ["float16", "bfloat16"])
def test_images_in_16_bits_pass_through(images: str) -> None:
    model = nn.Sequential(nn.Linear(32, 96), Calls(lambda x: heads(x)), nn.Linear(32, 32))

    def heads(x: Tensor) -> Tensor:
        q, k, v = x.unflatten(2, (3, 2, 16)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    x = torch.randn(1, 200, 32)
    config = wqtvm.WinogradConfig(algorithm="float", images=images)
    compiled = wqtvm.compile(model, (x,), config=config)
    with torch.no_grad():
        expected = model(x)
    np.testing.assert_allclose(compiled(x), expected, rtol=0, atol=2**-7)


@pytest.mark.isa("amx_bf16")
def test_in_bfloat16() -> None:
    config = wqtvm.WinogradConfig(attention="bfloat16")
    model, inputs = Calls(heads_behind), qkv()
    compiled = wqtvm.compile(model, inputs, target="wq/x86-amx", config=config)
    assert compiled.plan.attention == "bfloat16"
    assert "products of attention: bfloat16" in str(compiled.plan)
    result, expected = compiled(*inputs), model(*inputs)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2**-6)
    assert not np.allclose(result, expected, rtol=0, atol=1e-5)


def test_bfloat16_is_refused_where_the_target_has_none() -> None:
    config = wqtvm.WinogradConfig(attention="bfloat16")
    with pytest.raises(ConfigError, match="attention is 'bfloat16', for which wq/x86-avx2 has no"):
        wqtvm.compile(Calls(manual), qkv(), target="wq/x86-avx2", config=config)
    with pytest.raises(ConfigError, match="attention is 'int8'"):
        wqtvm.WinogradConfig(attention="int8")  # type: ignore[arg-type]


def test_a_plan_keeps_it() -> None:
    plan = Plan((), attention="bfloat16")
    assert Plan.from_json(plan.to_json()) == plan
    # Plans of before knew none.
    text = plan.to_json().replace('  "attention": "bfloat16",\n', "")
    assert "attention" not in text
    assert Plan.from_json(text) == Plan(())
