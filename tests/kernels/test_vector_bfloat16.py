"""The direct convolution in bfloat16 where its products are of vectors, AVX-512 BF16."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from kernel_assembly import assembly_of
from kernel_layers import Layer, assert_close_sums, make_layer, output_between_guards
from torch import nn

import wqtvm
from wqtvm.errors import ConfigError
from wqtvm.quantization import sqnr_db
from wqtvm.schedules.kernels import kernels_of
from wqtvm.target import lookup
from wqtvm.topi.direct_workload import DirectWorkload

TARGET = "wq/x86-bf16"

on_this_cpu = pytest.mark.isa("avx512_bf16")


def make(shape: tuple[int, int, int, int], out_channels: int, **options: Any) -> Layer:
    return make_layer(TARGET, shape, out_channels, tile=1, precision="bfloat16", **options)


@on_this_cpu
@pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((1, 8, 32, 64), 32, {}),
        ((1, 5, 9, 1), 3, {}),
        ((1, 20, 21, 32), 1, {}),
        ((2, 7, 7, 100), 33, {}),
        ((1, 10, 10, 70), 48, {"padding": 0}),
        ((1, 9, 4, 64), 20, {"taps": 5, "padding": 2}),
        ((3, 7, 10, 3), 17, {"padding": 0}),
        ((2, 11, 13, 100), 48, {"stride": 2}),
        ((2, 7, 40, 64), 48, {"taps": 1, "stride": 2, "padding": 0}),
        ((1, 48, 48, 256), 33, {}),  # tasks round their own pixels
    ],
)
def test_equals_the_reference(
    shape: tuple[int, int, int, int], out_channels: int, options: dict[str, Any]
) -> None:
    layer = make(shape, out_channels, **options)
    assert_close_sums(layer.run()["output"], layer)


@on_this_cpu
def test_results_do_not_depend_on_threads() -> None:
    alone, two = (make((1, 20, 21, 100), 48, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(alone.run()["output"], two.run()["output"])


@on_this_cpu
def test_points_of_the_space_add_in_the_same_order() -> None:
    default = make((1, 14, 19, 70), 100)
    expected = default.run()["output"]
    points = kernels_of(lookup(TARGET)).space(default.work, 2).points
    own = [point for point in points if point["own_pixels"]]
    for point in [*random.Random(0).sample(points, 4), *random.Random(0).sample(own, 2)]:
        found = make((1, 14, 19, 70), 100, point=point).run()["output"]
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32), str(point))


@on_this_cpu
def test_nothing_is_written_outside_the_output() -> None:
    layer = make((1, 7, 5, 17), 19)
    assert_close_sums(output_between_guards(layer), layer)


def test_products_stay_in_registers() -> None:
    layer = make((1, 12, 16, 64), 64)
    assert isinstance(layer.work, DirectWorkload)
    library = tvm.compile(layer.scheduled(), target=lookup(TARGET).tvm_target())
    loops = [loop for loop in assembly_of(library).innermost_loops if loop.matching("vdpbf16ps")]
    assert loops
    for loop in loops:
        products = loop.matching("vdpbf16ps")
        assert len(loop.matching("vdpbf16ps", "zmm")) == len(products)
        assert len(products) % (layer.work.pixels * layer.work.vectors) == 0
        assert not loop.matching("vmov.*", r"\(%rsp\)")
        assert not loop.matching("call.*")


@on_this_cpu
def test_a_network_keeps_what_bfloat16_keeps() -> None:
    """Strided and 1x1 layers, too: more than 45 dB against float32."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 33, 3, 2, 1), nn.ReLU(), nn.Conv2d(33, 17, 1), nn.Conv2d(17, 8, 5, 1, 2)
    ).eval()
    x = torch.randn(1, 3, 20, 22)
    config = wqtvm.WinogradConfig(algorithm="direct", precision="bfloat16")
    compiled = wqtvm.compile(model, (x,), target=TARGET, config=config)
    assert [layer.label for layer in compiled.plan.layers] == ["direct bfloat16"] * 3
    assert sqnr_db(model(x).detach().numpy(), compiled(x.numpy())) > 45


def test_attention_in_bfloat16_wants_tile_registers() -> None:
    config = wqtvm.WinogradConfig(algorithm="direct", attention="bfloat16")
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), torch.zeros(1, 3, 9, 9)
    with pytest.raises(ConfigError, match="for which wq/x86-bf16 has no tile registers"):
        wqtvm.compile(model, (x,), target=TARGET, config=config)
