"""Predicted times: more work never takes less, and small maps prefer small weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wqtvm.fastconv import bilinear_algorithm
from wqtvm.planning.cost import FITTED, predict, work_of
from wqtvm.quantization.plan import LayerPlan, Reason
from wqtvm.target import TABLE, lookup

VNNI = lookup("wq/x86-vnni")


def layer(
    channels: int,
    edge: int,
    algorithm: str = "direct",
    tile: int | None = None,
    *,
    outputs: int | None = None,
    images: int = 1,
    precision: str = "hadamard",
    group: int = 32,
    weight_steps: str = "tap",
) -> LayerPlan:
    shape = {
        "name": "body", "input_shape": (images, channels, edge, edge),
        "weight_shape": (outputs or channels, channels, 3, 3), "stride": (1, 1), "padding": (1, 1),
        "dilation": (1, 1), "groups": 1, "algorithm": algorithm, "reason": Reason.ELIGIBLE,
    }  # fmt: skip
    if algorithm == "float":
        absent = ("tile", "points", "precision", "group_size", "scales", "steps", "weight_steps")
        return LayerPlan(**shape, **dict.fromkeys(absent))
    points = bilinear_algorithm(algorithm, tile).points or None
    return LayerPlan(
        **shape, tile=tile, points=points, precision=precision, group_size=group,
        scales="correlated", steps="axis", weight_steps=weight_steps,
    )  # fmt: skip


ALGORITHMS = st.sampled_from(
    [("direct", None), ("winograd", 2), ("winograd", 4), ("winograd", 6), ("sfc", 6),
     ("float", None)]
)  # fmt: skip


def ms(planned: LayerPlan, threads: int = 1, target: str = "wq/x86-vnni") -> float:
    return predict(planned, lookup(target), threads).ms


@settings(max_examples=8)
@given(ALGORITHMS, st.integers(1, 70), st.integers(1, 70), st.integers(2, 9))
def test_twice_as_much_of_anything_takes_no_less(
    algorithm: tuple[str, int | None], channels: int, outputs: int, edge: int
) -> None:
    one = ms(layer(channels, edge, *algorithm, outputs=outputs))
    assert one > 0
    assert one <= ms(layer(2 * channels, edge, *algorithm, outputs=outputs))
    assert one <= ms(layer(channels, edge, *algorithm, outputs=2 * outputs))
    assert one <= ms(layer(channels, edge, *algorithm, outputs=outputs, images=2))
    assert one <= ms(layer(channels, 2 * edge, *algorithm, outputs=outputs))


@given(st.floats(0, 1e10), st.floats(0, 1e10))
def test_more_bytes_are_read_in_no_less_time(a: float, b: float) -> None:
    for record in TABLE:
        few, many = sorted((a, b))
        assert record.machine.reading_ms(few) <= record.machine.reading_ms(many)


@pytest.mark.parametrize("name", [record.name for record in TABLE])
def test_every_target_has_predictions_and_slower_machines_longer_ones(name: str) -> None:
    record = lookup(name)
    for algorithm, tile in (("direct", None), ("winograd", 4), ("float", None)):
        work = work_of(layer(40, 9, algorithm, tile), record, 2)
        fast = work.time(record.machine)
        assert 0 < fast.ms < 100
        for rate in ("dot_gops", "float32_gflops", "l2_gbps", "l3_gbps", "memory_gbps"):
            slower = replace(record.machine, **{rate: getattr(record.machine, rate) / 2})
            assert work.time(slower).ms >= fast.ms
        for size in ("l2_bytes", "l3_bytes"):
            smaller = replace(record.machine, **{size: getattr(record.machine, size) // 2})
            assert work.time(smaller).ms >= fast.ms


def test_a_prediction_is_the_sum_of_its_parts() -> None:
    work = work_of(layer(64, 16, "winograd", 4), VNNI, 1)
    found = work.time(VNNI.machine)
    parts = (found.products, found.scaling, found.transforms, found.quantization, found.weights,
             found.traffic, found.layer)  # fmt: skip
    assert min(parts) > 0
    assert found.ms == pytest.approx(sum(parts))
    assert found.layer == FITTED.layer_ms


def test_small_maps_prefer_direct_and_large_ones_fast_algorithms() -> None:
    # Measured with AVX-512 VNNI: 1280 channels at 8x8 direct 5.5 ms and F(4,3) 15, 512 at 7x7 0.5
    # and 1.0; 640 at 32x32 17.5 and 7.
    for channels, edge in ((1280, 8), (512, 7)):
        assert ms(layer(channels, edge)) < ms(layer(channels, edge, "winograd", 4))
    assert ms(layer(640, 32)) > 1.5 * ms(layer(640, 32, "winograd", 4, group=64))


def test_larger_groups_one_step_a_filter_and_float_transforms_take_less() -> None:
    for algorithm, tile in (("direct", None), ("winograd", 4)):
        times = [ms(layer(128, 14, algorithm, tile, group=group)) for group in (0, 64, 32, 16, 8)]
        assert times == sorted(times)
    assert ms(layer(128, 14, weight_steps="filter")) < ms(layer(128, 14))
    hadamard, full = (layer(128, 14, "winograd", 4, precision=p) for p in ("hadamard", "full"))
    assert ms(hadamard) < ms(full)


def test_tiles_that_stand_over_and_channels_that_fill_count() -> None:
    whole = work_of(layer(64, 16, "winograd", 4), VNNI, 1)
    over = work_of(layer(64, 13, "winograd", 4), VNNI, 1)
    assert over.products == whole.products
    odd, even = (work_of(layer(c, 16, "winograd", 4, outputs=32), VNNI, 1) for c in (33, 64))
    assert odd.products == even.products


def test_threads_divide_tasks_as_far_as_there_are_any() -> None:
    for algorithm, tile in (("direct", None), ("winograd", 4), ("float", None)):
        times = [ms(layer(64, 24, algorithm, tile), threads) for threads in (1, 2, 1000)]
        assert times[0] > times[1] > times[2]
    single = layer(16, 4, "winograd", 4)  # one tile
    assert ms(single, 1) == ms(single, 4)


def test_a_stride_and_fewer_taps_take_less() -> None:
    for algorithm in ("direct", "float"):
        plain = layer(64, 24, algorithm)
        strided = replace(plain, stride=(2, 2))
        point = replace(plain, weight_shape=(64, 64, 1, 1), padding=(0, 0))
        skipping = replace(point, stride=(2, 2))
        assert 2.5 < ms(plain) / ms(strided) < 5
        assert 3 < ms(plain) / ms(point) < 10
        assert 2.5 < ms(point) / ms(skipping) < 5


def test_a_machine_with_cores_of_its_own_does_not_ask_for_threads() -> None:
    planned = layer(64, 16, "winograd", 4)
    assert ms(planned, 1, "wq/cuda-sm80") == ms(planned, 8, "wq/cuda-sm80")


def test_two_dimensional_registers_make_products_faster() -> None:
    amx, vnni = (lookup(name) for name in ("wq/x86-amx", "wq/x86-vnni"))
    for algorithm, tile in (("direct", None), ("winograd", 4)):
        planned = layer(64, 16, algorithm, tile)
        assert predict(planned, amx, 1).products < predict(planned, vnni, 1).products


def test_bfloat16_is_between_int8_and_float32_on_amx() -> None:
    amx = lookup("wq/x86-amx")
    whole = {"group": 0, "weight_steps": "filter"}
    bfloat16 = layer(320, 64, precision="bfloat16", **whole)  # type: ignore[arg-type]
    image = replace(layer(320, 64, **whole), activation_steps="image")  # type: ignore[arg-type]
    found = [predict(planned, amx, 1) for planned in (image, bfloat16, layer(320, 64, "float"))]
    assert found[1].products == 2 * found[0].products
    times = [prediction.ms for prediction in found]
    assert times == sorted(times)
    assert times[2] > 5 * times[1]


def test_bfloat16_in_vectors_counts_by_its_own_peak() -> None:
    record = lookup("wq/x86-bf16")
    assert record.machine.bfloat16_gflops == pytest.approx(2 * record.machine.float32_gflops, 0.01)
    planned = layer(320, 64, precision="bfloat16", group=0, weight_steps="filter")
    slow = replace(record.machine, bfloat16_gflops=record.machine.bfloat16_gflops / 4)
    typical, here = predict(planned, record, 1), predict(planned, record, 1, slow)
    assert here.products == pytest.approx(4 * typical.products)
    assert typical.ms < predict(layer(320, 64, "float"), record, 1).ms < here.ms


def test_images_in_16_bits_take_less_of_the_bytes_alone() -> None:
    for planned in (layer(64, 200, "winograd", 4), layer(64, 200)):
        wide, narrow = (predict(planned, VNNI, 1, images=dtype) for dtype in ("float32", "float16"))
        assert narrow.traffic < wide.traffic
        assert replace(narrow, traffic=wide.traffic) == wide
    is_float = layer(64, 200, "float")
    assert predict(is_float, VNNI, 1) == predict(is_float, VNNI, 1, images="float16")


def test_the_same_each_time() -> None:
    planned = layer(33, 11, "winograd", 4)
    assert predict(planned, VNNI, 2) == predict(planned, VNNI, 2)
