"""Products are timed alone: they are all that is repeated, and results stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from benchmarks.products import products_rate, repeated
from kernel_layers import make_layer
from tvm import tirx

from wqtvm.schedules.prefetch import realized


@pytest.mark.isa("avx512_vnni")
def test_rates_are_of_this_world() -> None:
    assert 1e9 < products_rate("wq/x86-vnni", 64, (64, 64, 8), rounds=1) < 1e14


@pytest.mark.parametrize("target", ["wq/x86-avx2", "wq/x86-vnni"])
def test_only_the_products_are_repeated(target: str) -> None:
    scheduled = make_layer(target, (1, 12, 12, 64), 64).scheduled()
    again: list[tirx.For] = []

    def on_loop(loop: tirx.For) -> None:
        if loop.loop_var.name == "again":
            again.append(loop)

    tvm_ffi.structural_walk(repeated(scheduled, 3).body, (tirx.For, on_loop))
    assert again
    names = {each.block.name_hint for loop in again for each in realized(loop)}
    assert all(name.startswith(("M", "products")) for name in names)
    assert {int(loop.extent) for loop in again} == {3}


@pytest.mark.isa("avx2")
def test_results_stay_the_same() -> None:
    layer = make_layer("wq/x86-avx2", (1, 9, 12, 40), 24)
    scheduled = layer.scheduled()
    results = []
    for function in (scheduled, repeated(scheduled, 3)):
        out = tvm.runtime.tensor(np.zeros(layer.reference().output.shape, np.float32))
        tvm.compile(function, target=layer.record.tvm_target())["main"](*layer.arguments(), out)
        results.append(out.numpy())
    np.testing.assert_array_equal(*results)
