"""A new machine is a record and a module of schedules: nothing else has to know of it."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from kernel_layers import make_layer
from tvm import tirx

import wqtvm
from wqtvm.quantization import convolution_reference, quantize_weights
from wqtvm.schedules.space import Point, Space
from wqtvm.target import DotProduct, TargetRecord, lookup

NEW = TargetRecord(
    name="wq/test-scalar",
    summary="this machine's architecture without any extension",
    architecture=platform.machine(),  # type: ignore[arg-type]
    mtriple=f"{platform.machine()}-linux-gnu",
    mcpu="",
    mattr=(),
    features=(),
    vector_lanes=4,
    dot=DotProduct(2, 2, "int8", "int8", zero_point=0),
    schedule="test_scalar",
    machine=lookup("wq/x86-avx2").machine,
)


class ScalarKernels:
    """Blocks of two tiles, and a loop nest for each stage, as it is defined."""

    def space(self, work: Any, threads: int) -> Space:
        return Space({"block": ((2, 1),)}, {"block": (2, 1)}, lambda point: True)

    def divided(self, work: Any, threads: int, point: Point | None = None) -> Any:
        return replace(work, block=(2, 1))

    def schedule(self, function: tirx.PrimFunc) -> tirx.PrimFunc:
        return function


@pytest.fixture(autouse=True)
def schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("wqtvm.schedules.test_scalar")
    module.KERNELS = ScalarKernels()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("precision", ["hadamard", "full"])
@pytest.mark.parametrize(
    ("shape", "out_channels", "padding"), [((2, 7, 9, 17), 5, 1), ((1, 10, 5, 40), 33, 0)]
)
def test_kernels_are_exact(
    precision: str, shape: tuple[int, int, int, int], out_channels: int, padding: int
) -> None:
    layer = make_layer(NEW, shape, out_channels, precision=precision, padding=padding)
    assert layer.work.packed_shape[-2:] == (2, 2)
    output, expected = layer.run()["output"], layer.reference().output
    np.testing.assert_array_equal(output.view(np.int32), expected.view(np.int32))


def test_a_model_compiles_for_it() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(20, 12, 3, padding=1, bias=False)).eval()
    x = torch.randn(1, 20, 9, 11)
    compiled = wqtvm.compile(model, x, target=NEW)
    (layer,) = compiled.plan.layers
    scheme = layer.scheme()
    weights = quantize_weights(model[0].weight.detach().numpy(), scheme)
    image = np.ascontiguousarray(x.numpy().transpose(0, 2, 3, 1))
    expected = convolution_reference(image, weights, scheme, 1).output.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(compiled(x).numpy(), expected)
    assert compiled.target is NEW
