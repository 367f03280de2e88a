"""Direct convolutions with one step an image equal the numpy reference to the bit."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from kernel_assembly import assembly_of
from kernel_layers import X86, Layer, make_layer, output_between_guards
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir.instrument import pass_instrument

from wqtvm.errors import ConfigError
from wqtvm.quantization.image_reference import ImageStages
from wqtvm.runtime.threads import get_num_threads, set_num_threads
from wqtvm.schedules.kernels import kernels_of
from wqtvm.schedules.prefetch import realized
from wqtvm.topi.direct_workload import DirectWorkload

EACH = [*X86, pytest.param("wq/x86-avx-vnni", marks=pytest.mark.isa("avx_vnni"))]
each_target = pytest.mark.parametrize("target", EACH)
Shape = tuple[int, int, int, int]


def image_layer(target: str, shape: Shape, out_channels: int, **options: object) -> Layer:
    return make_layer(
        target, shape, out_channels, tile=1, activation_steps="image", **options  # type: ignore[arg-type]
    )  # fmt: skip


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))


@each_target
@pytest.mark.parametrize(
    ("shape", "out_channels", "options"),
    [
        ((1, 5, 9, 1), 3, {}),
        ((3, 7, 10, 3), 17, {"padding": 0}),
        ((1, 10, 7, 17), 33, {"taps": 5, "padding": 2}),
        ((3, 6, 6, 33), 100, {"padding": 0}),
        ((1, 11, 13, 100), 1, {"stride": 2}),  # two parts of 52 channels
        ((2, 7, 10, 64), 48, {"taps": 1, "stride": 2, "padding": 0}),
        ((1, 8, 5, 130), 33, {"taps": 1, "stride": 3}),
        ((1, 13, 9, 300), 65, {}),
        ((2, 7, 7, 100), 33, {}),
        ((1, 8, 8, 130), 48, {}),
    ],
)
def test_odd_shapes(
    target: str, shape: Shape, out_channels: int, options: dict[str, object]
) -> None:
    layer = image_layer(target, shape, out_channels, **options)
    assert_same_bits(layer.run()["output"], layer.reference().output)


@each_target
@pytest.mark.parametrize("values", ["both signs", "none below zero", "none above zero", "zero"])
def test_levels(target: str, values: str) -> None:
    layer = image_layer(target, (2, 9, 7, 40), 20)
    if values == "none below zero":
        np.maximum(layer.x, 0, out=layer.x)
    elif values == "none above zero":
        np.minimum(layer.x, 0, out=layer.x)
    elif values == "zero":
        layer.x[1] = 0
    stages, expected = layer.run(["V", "V_step", "V_zero"]), layer.reference()
    assert isinstance(expected, ImageStages)
    assert_same_bits(stages["V_step"], expected.v_step)
    np.testing.assert_array_equal(stages["V_zero"], expected.v_zero)
    _, rows, columns, _ = expected.v.shape  # further ones fill the last register block
    v = np.moveaxis(stages["V"], 1, -2)
    v = v.reshape(*v.shape[:-2], -1)[..., :40]
    if v.ndim == 4:
        np.testing.assert_array_equal(v[:, :rows, :columns], expected.v)
    else:  # flat: by columns of taps
        width = v.shape[3]
        for tap in range(3):
            np.testing.assert_array_equal(v[:, tap, :rows], expected.v[:, :, tap : tap + width])
    assert_same_bits(stages["output"], expected.output)


@each_target
def test_images_have_steps_of_their_own(target: str) -> None:
    layer = image_layer(target, (2, 8, 8, 32), 16)
    layer.x[0] *= 1000
    both = layer.run()["output"]
    alone = replace(layer, x=layer.x[1:], work=replace(layer.work, batch=1))
    assert_same_bits(both[1:], alone.run()["output"])


@each_target
def test_random_points_and_threads_give_the_same_bits(target: str) -> None:
    layer = image_layer(target, (2, 12, 10, 40), 36)
    assert isinstance(layer.work, DirectWorkload)
    undivided = replace(layer.work, block=(1, 1), pixels=1, vectors=1, choices=())
    kernels = kernels_of(layer.record)
    points = kernels.space(undivided, 2).points
    assert len(points) > 100
    expected, before = layer.reference().output, get_num_threads()
    chosen = np.random.default_rng(0).choice(len(points), 5, replace=False)
    try:
        for threads, index in zip((1, 2, 1, 2, 2), chosen, strict=True):
            set_num_threads(threads)
            work = kernels.divided(undivided, 2, points[index])
            assert_same_bits(replace(layer, work=work).run()["output"], expected)
    finally:
        set_num_threads(before)


@each_target
@pytest.mark.parametrize("stride", [1, 2])
def test_tasks_quantize_their_own_pixels(target: str, stride: int) -> None:
    """Those of the rows around them, too: tasks share no pixel, and give the same bits."""
    layer = image_layer(target, (2, 13, 9, 70), 36, stride=stride)
    assert isinstance(layer.work, DirectWorkload)
    undivided = replace(layer.work, block=(1, 1), pixels=1, vectors=1, flat=False, choices=())
    kernels = kernels_of(layer.record)
    points = [p for p in kernels.space(undivided, 2).points if p["own_pixels"]]
    expected = layer.reference().output
    for point in points[:: len(points) // 4]:
        own = replace(layer, work=kernels.divided(undivided, 2, point))
        assert_same_bits(own.run()["output"], expected)
        parallel = parallel_blocks(own.scheduled())
        assert {"V", "output"} in parallel
        assert {"V"} not in parallel


def parallel_blocks(function: tirx.PrimFunc) -> list[set[str]]:
    """The names of the stages in each parallel loop."""
    loops: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.For, loops.append))
    stages = [
        {each.block.name_hint for each in realized(loop)}
        for loop in loops
        if loop.kind == tirx.ForKind.PARALLEL
    ]
    return [names & {"V", "output"} for names in stages]


@each_target
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_nan_and_infinity_spoil_their_image_alone(target: str, value: float) -> None:
    layer = image_layer(target, (2, 6, 8, 64), 33)
    layer.x[0, 1, 1, 5] = value
    output, reference = layer.run()["output"], layer.reference().output
    assert np.isnan(output[0]).all()
    assert np.isnan(reference[0]).all()
    assert_same_bits(output[1], reference[1])


@each_target
def test_nothing_is_written_outside_the_output(target: str) -> None:
    layer = image_layer(target, (1, 7, 5, 17), 19)
    assert_same_bits(output_between_guards(layer), layer.reference().output)


@pytest.mark.parametrize(
    ("target", "dot", "register"),
    [("wq/x86-vnni", "vpdpbusd", "zmm"), ("wq/x86-avx-vnni", "vpdpbusd", "ymm")],
)
def test_products_stay_in_registers(target: str, dot: str, register: str) -> None:
    layer = image_layer(target, (1, 12, 16, 64), 64)
    assert isinstance(layer.work, DirectWorkload)
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    loops = [loop for loop in assembly_of(library).innermost_loops if loop.matching(dot)]
    assert loops
    for loop in loops:
        assert len(loop.matching(dot, register)) == len(loop.matching(dot))
        assert len(loop.matching(dot)) % (layer.work.pixels * layer.work.vectors) == 0
        assert not loop.matching("vmov.*", r"\(%rsp\)")
        assert not loop.matching("call.*")


@pytest.mark.parametrize(("channels", "in_vain"), [(64, 0), (320, 1)])
def test_tile_registers_start_from_memory_and_nothing_is_called_between(
    channels: int, in_vain: int
) -> None:
    layer = image_layer("wq/x86-amx", (1, 16, 32, channels), 64)
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    code = str(library.mod.inspect_source("asm"))
    first, last = code.index("tdpbusd"), code.rindex("tilestored")
    products, stores = code.count("tdpbusd"), code.count("tilestored")
    assert stores == 4 + in_vain  # a store for each 64 channels keeps the next one short
    assert products % 4 == 0
    assert not re.search(r"\bcallq?\b", code[first:last])
    # Four loads feed four products; four more begin, and bring what takes off the level of zero.
    assert code.count("tileloadd") == products + 4


@pytest.mark.parametrize("out_channels", [1, 3, 15])
def test_sums_keep_their_memory_where_a_tile_register_has_more_channels(out_channels: int) -> None:
    layer = image_layer("wq/x86-amx", (1, 16, 32, 64), out_channels)
    assert isinstance(layer.work, DirectWorkload)
    bytes_of: dict[str, int] = {}

    @pass_instrument
    class Allocated:
        def run_after_pass(self, module: tvm.IRModule, info: object) -> None:
            for function in module.functions.values():
                if isinstance(function, tvm.tirx.PrimFunc) and function.body is not None:
                    visits = (
                        tvm.tirx.AllocBuffer,
                        lambda node: bytes_of.update(
                            {node.buffer.name: 4 * math.prod(map(int, node.buffer.shape))}
                        ),
                    )
                    tvm_ffi.structural_walk(function.body, visits)

    with tvm.transform.PassContext(instruments=[Allocated()]):
        tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    assert bytes_of["products"] == 4 * layer.work.pixels * layer.work.vectors * 16


def test_levels_are_narrowed_with_saturation() -> None:
    layer = image_layer("wq/x86-vnni", (1, 8, 8, 64), 32)
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    assert "vpmovusdb" in str(library.mod.inspect_source("asm"))


def test_sums_that_may_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"8000 channels .* 72000 products may not fit int32"):
        image_layer("wq/x86-vnni", (1, 3, 3, 8000), 1)
