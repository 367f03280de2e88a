"""The sizes that the CPU schedule chooses: they divide, they fit, they feed every thread."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_layers import cpu_kernels

from wqtvm.fastconv import direct, standard_scales, winograd
from wqtvm.quantization import Scheme
from wqtvm.quantization.scheme import STEPS
from wqtvm.schedules.direct_tile_kernel import pixels_of_a_register
from wqtvm.schedules.kernels import kernels_of
from wqtvm.schedules.winograd_blocking import CpuBlocking
from wqtvm.target import TABLE, TargetRecord, lookup
from wqtvm.topi.direct_workload import DirectWorkload
from wqtvm.topi.workload import WinogradWorkload

ALGORITHMS = {tile: direct() if tile == 1 else winograd(tile) for tile in (1, 2, 4, 6)}
CPUS = [record for record in TABLE if record.architecture != "cuda"]

each_cpu = pytest.mark.parametrize("record", CPUS, ids=lambda record: record.name)


def blocking_of(record: TargetRecord) -> CpuBlocking:
    return cpu_kernels(record).winograd


@st.composite
def workloads(draw: st.DrawFn, record: TargetRecord) -> WinogradWorkload:
    algorithms = st.sampled_from(list(ALGORITHMS.values()))
    rows, columns = draw(algorithms), draw(algorithms)
    precision = draw(st.sampled_from(["hadamard", "full"]))
    group_size = draw(st.sampled_from([0, 4, 12, 32, 64]))
    steps = draw(st.sampled_from(STEPS))
    scheme = Scheme(
        rows, standard_scales(rows), precision, group_size, steps, "tap",
        columns, standard_scales(columns),
    )  # fmt: skip
    channels = st.integers(1, 600)
    edge = st.integers(3, 130)
    batch = draw(st.integers(1, 4))
    return WinogradWorkload(
        scheme, batch, draw(edge), draw(edge), draw(channels), draw(channels), 1, record.dot
    )


def panel_of(blocking: CpuBlocking, work: WinogradWorkload) -> int:
    return blocking.panel(work.scheme.precision, work.packed_channels, work.out_group_size)


def bytes_of(blocking: CpuBlocking, work: WinogradWorkload, tiles: int) -> int:
    """What V and M of a block of tiles take."""
    panel = panel_of(blocking, work)
    v = work.groups * work.group_size * np.dtype(work.dot.activation_dtype).itemsize
    return tiles * math.prod(work.scheme.products) * (v + 4 * panel)


@each_cpu
def test_it_is_the_targets_dot_product(record: TargetRecord) -> None:
    blocking = blocking_of(record)
    assert (blocking.dot_lanes, blocking.dot_reduce) == (record.dot.lanes, record.dot.reduce)
    assert blocking.lanes == record.vector_lanes


@each_cpu
@given(data=st.data())
def test_a_panel_divides_the_channels(record: TargetRecord, data: st.DataObject) -> None:
    blocking, work = blocking_of(record), data.draw(workloads(record))
    channels = work.packed_channels
    panel = blocking.panel(work.scheme.precision, channels, work.out_group_size)
    assert channels % panel == 0
    assert panel % blocking.dot_lanes == 0
    if work.scheme.precision == "full":
        # The channels of a group are quantized together.
        assert panel % work.out_group_size == 0 or panel == channels
    vectors = blocking.vectors(panel)
    assert 1 <= vectors <= blocking.register_vectors
    assert panel // blocking.dot_lanes % vectors == 0


@each_cpu
@given(rows=st.integers(1, 24), columns=st.integers(1, 24))
def test_accumulators_divide_a_block(record: TargetRecord, rows: int, columns: int) -> None:
    blocking = blocking_of(record)
    height, width = blocking.rows((rows, columns))
    assert rows % height == 0
    assert columns % width == 0
    assert height * width <= blocking.register_tiles
    if columns % blocking.register_tiles == 0:
        assert height * width == blocking.register_tiles


@each_cpu
@given(data=st.data(), threads=st.integers(1, 64))
def test_a_block_fits_the_cache(record: TargetRecord, data: st.DataObject, threads: int) -> None:
    blocking, work = blocking_of(record), data.draw(workloads(record))
    divided = kernels_of(record).divided(work, threads)
    rows, columns = divided.block
    assert 1 <= rows <= work.tile_rows
    assert 1 <= columns <= work.tile_columns
    # Where not even the tiles of one accumulator block fit, no more than those are taken.
    tiles = rows * columns
    shared = dict(divided.choices).get("by_panels", 0)
    fits = bytes_of(blocking, work, tiles) <= blocking.l2_bytes * (6 if shared else 1.5)
    assert fits or tiles <= blocking.register_tiles


@each_cpu
@given(data=st.data(), threads=st.integers(1, 64))
def test_no_thread_is_without_a_task(
    record: TargetRecord, data: st.DataObject, threads: int
) -> None:
    """The longest thread computes at most twice its share, and a few tiles."""
    work = data.draw(workloads(record))
    divided = kernels_of(record).divided(work, threads)
    rows, columns = divided.block
    tasks = math.ceil(work.tile_rows / rows) * math.ceil(work.tile_columns / columns) * work.batch
    blocking, choices = blocking_of(record), dict(divided.choices)
    if choices.get("by_panels", 0):
        vectors = choices.pop("register_vectors", blocking.register_vectors)
        blocking = replace(blocking, register_vectors=vectors)
        panels = work.packed_channels // panel_of(blocking, work) // choices["panel_blocks"]
        longest = math.ceil(math.ceil(panels / threads) / panels * tasks * rows * columns)
    else:
        longest = math.ceil(tasks / threads) * rows * columns
    share = work.batch * work.tile_rows * work.tile_columns / threads
    assert longest <= 2 * share + 2 * blocking.register_tiles


@each_cpu
@given(data=st.data(), threads=st.integers(1, 64))
def test_blocks_are_shared_where_weights_are_far(
    record: TargetRecord, data: st.DataObject, threads: int
) -> None:
    work = data.draw(workloads(record))
    choices = dict(kernels_of(record).divided(work, threads).choices)
    if choices.get("by_panels", 0):
        assert math.prod(work.packed_shape) > blocking_of(record).l2_bytes
    if choices.get("panel_blocks", 1) > 1:
        assert work.scheme.precision == "hadamard"


@each_cpu
@given(data=st.data(), threads=st.integers(1, 64))
def test_few_tiles_have_more_vectors_and_no_fetches(
    record: TargetRecord, data: st.DataObject, threads: int
) -> None:
    work = data.draw(workloads(record))
    divided = kernels_of(record).divided(work, threads)
    choices, blocking = dict(divided.choices), blocking_of(record)
    if "register_vectors" not in choices:
        return
    assert math.prod(divided.block) >= choices["register_tiles"] <= 4
    assert choices["register_vectors"] > blocking.vectors(work.packed_channels)
    assert choices["fetch_weights"] == 0
    accumulators = choices["register_tiles"] * choices["register_vectors"]
    # With U of as many vectors and a broadcast of V, or its spilled neighbours, in the registers.
    assert accumulators <= {16: 24, 8: 12, 4: 24}[blocking.lanes]


def test_wide_layers_read_weights_less_often() -> None:
    """960 to 320 channels by 32 tiles and more at once, by one thread and by two."""
    record = next(each for each in CPUS if each.name == "wq/x86-vnni")
    scheme = Scheme(ALGORITHMS[4], standard_scales(ALGORITHMS[4]), "hadamard", 64, "axis")
    work = WinogradWorkload(scheme, 1, 64, 64, 960, 320, 1, record.dot)
    for threads in (1, 2):
        divided = kernels_of(record).divided(work, threads)
        assert dict(divided.choices)["by_panels"]
        assert math.prod(divided.block) >= 32


@each_cpu
def test_more_threads_make_no_larger_blocks(record: TargetRecord) -> None:
    scheme = Scheme(ALGORITHMS[4], standard_scales(ALGORITHMS[4]), "hadamard", 32, "axis")
    work = WinogradWorkload(scheme, 1, 128, 128, 64, 64, 1, record.dot)
    sizes = [math.prod(kernels_of(record).divided(work, t).block) for t in (1, 4, 16, 64)]
    assert sizes == sorted(sizes, reverse=True)


@each_cpu
@given(data=st.data(), threads=st.integers(1, 64))
def test_a_direct_task_is_of_whole_accumulator_blocks(
    record: TargetRecord, data: st.DataObject, threads: int
) -> None:
    algorithm, edge = ALGORITHMS[1], st.integers(3, 130)
    scheme = Scheme(algorithm, standard_scales(algorithm))
    channels = st.integers(1, 600)
    numbers = [data.draw(draw) for draw in (st.integers(1, 4), edge, edge, channels, channels)]
    schedules = cpu_kernels(record)
    work = schedules.divided(DirectWorkload(scheme, *numbers, 1, record.dot), threads)
    blocking = schedules.direct
    assert (blocking.dot_lanes, blocking.dot_reduce) == (record.dot.lanes, record.dot.reduce)
    if blocking.tiles is None:
        registers = blocking.register_pixels_alone or blocking.register_pixels
        assert work.pixels <= registers[work.vectors - 1]
    else:  # registers hold pixels of one row
        assert work.vectors <= 2
        assert work.pixels in (n := pixels_of_a_register(work.block[1]), 2 * n)
    assert work.block[0] == 1 or work.block_pixels <= blocking.task_pixels
    assert work.block[0] <= work.out_height
    assert work.block[1] <= work.out_width


IMAGE = Scheme(
    ALGORITHMS[1], standard_scales(ALGORITHMS[1]), group_size=0, weight_steps="filter",
    activation_steps="image",
)  # fmt: skip


@pytest.mark.parametrize(
    ("size", "channels", "own"),
    [
        ((64, 64), (320, 320), True),
        ((64, 64), (960, 320), True),
        ((256, 256), (256, 256), True),  # parts of rows
        ((32, 32), (640, 640), False),  # L2 holds the levels of the image
        ((512, 512), (128, 128), False),
        ((8, 8), (1280, 1280), False),
    ],
)
def test_tasks_quantize_their_own_pixels_where_l2_does_not_hold_all(
    size: tuple[int, int], channels: tuple[int, int], own: bool
) -> None:
    record = lookup("wq/x86-amx")
    work = DirectWorkload(IMAGE, 1, *size, *channels, 1, record.dot)
    for threads in (1, 2):
        chosen = kernels_of(record).divided(work, threads)
        assert dict(chosen.choices)["own_pixels"] == own


@each_cpu
@given(data=st.data(), threads=st.integers(1, 16))
def test_own_tasks_feed_all_threads_and_fit(
    record: TargetRecord, data: st.DataObject, threads: int
) -> None:
    edge, channels = st.integers(3, 300), st.integers(1, 1000)
    numbers = [data.draw(draw) for draw in (st.integers(1, 4), edge, edge, channels, channels)]
    work = kernels_of(record).divided(DirectWorkload(IMAGE, *numbers, 1, record.dot), threads)
    choices = dict(work.choices)
    task = choices["task_rows"], choices["task_columns"]
    assert all(n % edge == 0 for n, edge in zip(work.blocks, task, strict=True))
    if not choices["own_pixels"]:
        return
    assert not choices["panels_first"]
    assert not work.flat
    tasks = work.batch * math.prod(work.blocks) // math.prod(task)
    assert tasks % threads == 0 or tasks >= 4 * threads
    height, width = (n * edge + 2 for n, edge in zip(task, work.block, strict=True))
    levels = height * width * work.groups * work.group_size * work.activation_bytes
    assert levels <= 9 << 17
