"""The race: its arithmetic, its file of results, and every library that is installed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_peaks import PEAKS
from benchmarks.layers import layers, peers, tables
from benchmarks.layers.layers import Layer
from benchmarks.layers.peers import COMPETITORS, Competitor, Setting
from benchmarks.layers.peers.base import Problem
from benchmarks.layers.race import (
    Contest,
    Race,
    Row,
    WorkerError,
    WorkerProcess,
    missing,
    summarize,
    unrestricted,
)
from benchmarks.layers.results import Record, Results
from benchmarks.layers.worker import Worker

UNET = Layer("U-Net", 640, 320, 64, 64)
TINY = Layer("test", 17, 9, 9, 11, batch=2)
STRIDED = replace(TINY, kernel=5, stride=2)
ONE = Setting(1)

# What 8 bits at least keep of the tiny layer, the result rounded to 8 bits, too.
LEAST_DB = {"int8": 30.0, "bfloat16": 40.0, "float32": 60.0}


def row(name: str, ms: float, sqnr_db: float = 40.0, workspace: int | None = None) -> Row:
    return Row(name, ms, ms, [ms], {"sqnr_db": sqnr_db}, workspace, "1")


def record(layer: Layer, *rows: Row, absent: dict[str, str] | None = None) -> Record:
    return Record(layer, ONE, PEAKS, Contest(list(rows), absent or {}, 0.5), "cpu", "code")


def test_layers_have_the_sizes_that_they_are_named_by() -> None:
    assert UNET.name == "U-Net 640->320@64"
    assert TINY.name == "test 17->9@9x11 x2"
    assert UNET.macs == 64 * 64 * 640 * 320 * 9
    assert TINY.im2col_bytes == 9 * 2 * 9 * 11 * 17
    assert len({layer.name for layer in layers.LAYERS}) == len(layers.LAYERS) == 28
    assert STRIDED.name == "test 17->9@9x11 5x5/2 x2"
    assert (STRIDED.pixels, STRIDED.macs) == (2 * 5 * 6, 2 * 5 * 6 * 9 * 17 * 25)
    assert STRIDED.output_size == 2 * 5 * 6 * 9
    assert layers.Layer("test", 8, 8, 4, 4, kernel=1).name == "test 8@4 1x1"


def test_layers_are_chosen_by_parts_and_patterns() -> None:
    found = layers.chosen(["ResNet", "*->1280*"], [1, 2])
    assert [each.name for each in found[:2]] == ["ResNet 64@56", "ResNet 128@28"]
    assert found[-1].name == "U-Net 2560->1280@16 x2"
    assert len(found) == 10
    with pytest.raises(ValueError, match="no layer is like 'LeNet'; there are: ResNet 64@56"):
        layers.chosen(["LeNet"], [1])


def test_competitors_are_chosen_by_name_and_by_rows() -> None:
    found = peers.chosen(["litert", "wqtvm F(4"])
    assert [(each.name, len(rows)) for each, rows in found] == [("litert", 1), ("wqtvm", 11)]
    with pytest.raises(ValueError, match="nobody is called 'caffe'"):
        peers.chosen(["caffe"])


def test_inputs_are_smooth_and_the_same_each_time() -> None:
    layer = Layer("test", 8, 8, 64, 64)
    x = layers.smooth(np.random.default_rng(0), layer)
    assert np.array_equal(x, layers.smooth(np.random.default_rng(0), layer))
    assert x.min() == 0
    for a, b in ((x[:, 1:], x[:, :-1]), (x[:, :, 1:], x[:, :, :-1])):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.8


def test_the_floor_is_the_longer_of_products_and_bytes() -> None:
    variants = peers.variants()
    direct, f4 = variants["PyTorch int8"], variants["wqtvm F(4,3)"]
    assert tables.floor_seconds(UNET, direct, PEAKS, "best") == 2 * UNET.macs / 800e9
    # F(4,3) has a quarter of the products, and 36/9 of the weights; here the products count. To
    # them come transforms: 12 operations a column and a row, 6 + 6 of the input, 6 + 4 of outputs.
    transforms = 2 * 16 * 16 * (640 * 144 + 320 * 120) / PEAKS.float32
    found = tables.floor_seconds(UNET, f4, PEAKS, "best")
    assert found == pytest.approx(2 * UNET.macs / 4 / 800e9 + transforms)
    # ... and there the bytes: float32 in and out, int8 weights.
    small = Layer("U-Net", 1280, 1280, 8, 8)
    moved = 4 * (64 * 1280 + 64 * 1280) + 1280 * 1280 * 36
    transforms = 2 * 2 * 2 * 1280 * (144 + 120) / PEAKS.float32
    found = tables.floor_seconds(small, f4, PEAKS, "best")
    assert found == pytest.approx(moved / 50e9 + transforms)


def test_ratios_and_their_mean() -> None:
    large = record(UNET, row("PyTorch int8", 8), row("LiteRT XNNPACK int8", 6),
                   row("wqtvm direct", 5), row("wqtvm F(4,3)", 3))  # fmt: skip
    other = record(replace(UNET, batch=2), row("PyTorch int8", 8), row("wqtvm F(4,3)", 1))
    small = record(Layer("ResNet", 9, 9, 7, 7), row("PyTorch int8", 1), row("wqtvm direct", 2))
    alone = record(UNET, row("wqtvm direct", 2))
    assert [tables.ratio(each) for each in (large, other, small, alone)] == [2, 8, 0.5, None]
    assert tables.geometric_mean([2, 8]) == pytest.approx(4)
    assert math.isnan(tables.geometric_mean([]))
    lines = tables.summary_table([large, other, small], list(peers.variants()))
    assert lines[2].endswith("| LiteRT XNNPACK int8 | wqtvm F(4,3) | 2.00 |")
    assert lines[-1] == "Geometric mean over the 2 maps of 32 and larger: 4.00 times the best peer."


def test_the_table_of_a_contest() -> None:
    contest = record(
        UNET, row("PyTorch int8", 80.0, 39.25), row("wqtvm F(4,3)", 40.0, 41.6, 1 << 20),
        absent={"MNN int8": "MNN is not installed"},
    )  # fmt: skip
    text = "\n".join(tables.contest_table(contest))
    assert "### U-Net 640->320@64, 1 thread, no AMX" in text
    assert "| wqtvm F(4,3) | f32 to f32 | 40.0 | 377 | 2.00 | 5.05 | 13% | 41.6 | 1024 |" in text
    assert text.endswith("\n\nNot measured: MNN int8: MNN is not installed")


def test_the_fastest_round_counts_where_it_is_asked_for() -> None:
    slow = Row("wqtvm direct", 5.0, 1.5, [5.0, 2.0, 6.0], {"sqnr_db": 40.0}, None, "1")
    contest = record(UNET, slow, row("PyTorch int8", 4.0))
    assert tables.ratio(contest) == 0.8
    assert tables.ratio(tables.fastest(contest)) == 2.0
    assert contest.contest.rows[0].ms == 5.0


def test_bad_int8_is_marked() -> None:
    contest = record(UNET, row("PyTorch int8", 8, 12.0), row("LiteRT XNNPACK int8", 9, math.nan))
    (line,) = tables.summary_table([contest], list(peers.variants()))[2:3]
    assert "8.00 (12 dB)*" in line
    assert "9.00 (nan dB)*" in line


def test_a_row_has_the_median_of_rounds_and_the_worst_result() -> None:
    turns = [
        {"seconds": seconds, "quality": {"sqnr_db": db}}
        for seconds, db in (([1, 2, 9], 40), ([4], 30), ([3, 3], 35))
    ]
    summary = summarize("PyTorch int8", turns, None, "1")
    assert (summary.ms, summary.best_ms, summary.quality) == (3000, 1000, {"sqnr_db": 30})
    turns.append({"seconds": [1], "quality": {"sqnr_db": math.nan}})
    assert math.isnan(summarize("PyTorch int8", turns, None, "1").quality["sqnr_db"])


def test_results_are_kept_and_found_for_the_same_sources_only(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results = Results(path, machine="cpu", code="1")
    contest = Contest([row("PyTorch int8", 2.0, math.inf)], {"MNN int8": "crashed"}, 0.25)
    held = results.add(UNET, ONE, PEAKS, contest)
    path.write_text(path.read_text() + '{"layer": {"netw')
    again = Results(path, machine="cpu", code="1")
    assert again.find(UNET, ONE, ["PyTorch int8", "MNN int8"]) == held
    assert again.find(UNET, ONE, ["PyTorch int8", "ncnn int8"]) is None
    assert again.find(UNET, Setting(2), ["PyTorch int8"]) is None
    assert Results(path, machine="cpu", code="2").find(UNET, ONE, ["PyTorch int8"]) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 1, "isa": "sse"}, "isa is 'sse'; give one of best, bf16, vnni"),
        ({"threads": 1, "clock": "sun"}, "clock is 'sun'; give one of wall, cpu"),
        ({"threads": 2, "clock": "cpu"}, "give clock 'wall', or 1 thread"),
    ],
)
def test_settings_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting(**arguments)


def test_who_cannot_take_part_says_why() -> None:
    absent = Competitor("nobody", "nothing", ("no-such-package",), ())
    assert missing(absent) == (
        "no-such-package is not installed; pip install -r benchmarks/layers/requirements.txt"
    )
    vnni = Setting(1, "vnni")
    barred = [c.name for c in COMPETITORS if unrestricted(c, vnni, has_amx=True)]
    assert barred == ["onnxruntime", "litert"]
    assert not any(unrestricted(c, vnni, has_amx=False) for c in COMPETITORS)


def test_a_worker_that_dies_says_how(tmp_path: Path) -> None:
    worker = WorkerProcess(peers.competitor("wqtvm"), ONE, tmp_path / "log")
    try:
        assert worker.ask(do="drop") == {}
        worker.process.kill()
        with pytest.raises(WorkerError, match="its process ended with signal 9"):
            worker.ask(do="drop")
    finally:
        worker.end()


def test_a_worker_started_anew_has_nothing_ready() -> None:
    assert Worker("wqtvm", ONE).turn("wqtvm direct", 0.0) == {
        "cannot": "the process that had made it ready ended"
    }


def test_static_int8_uses_all_levels(tmp_path: Path) -> None:
    layers.write_data(TINY, tmp_path)
    q = Problem(tmp_path).quantized
    assert (q.x.min(), q.x.max()) == (0, 255)
    assert np.abs(q.weight).max(axis=(1, 2, 3)).tolist() == [127] * 9
    y = Problem(tmp_path).reference
    levels = np.rint(y / q.y_step).astype(int) + q.y_zero
    assert (levels.min(), levels.max()) == (0, 255)
    assert np.abs(q.dequantize(levels.astype(np.uint8)) - y).max() <= q.y_step * 0.51


@pytest.mark.parametrize("layer", [TINY, STRIDED, replace(TINY, kernel=1)], ids=lambda x: x.name)
@pytest.mark.parametrize("name", [each.name for each in COMPETITORS])
def test_every_library_computes_tiny_layers(name: str, layer: Layer) -> None:
    competitor = peers.competitor(name)
    if why := missing(competitor):
        pytest.skip(why)
    # One of ours is enough here: the others differ in nothing that the race does.
    ours = "wqtvm F(4,3)" if layer.plain else "wqtvm direct filter"
    variants = [v for v in competitor.variants if not v.ours or v.name == ours]
    with Race([(competitor, variants)], ONE, has_amx=False, say=lambda _: None) as race:
        contest = race.run(layer, rounds=1, seconds=0.0)
    if (name, layer.stride) == ("litert", 2):
        assert "pads right and bottom alone" in contest.absent["LiteRT XNNPACK int8"]
        return
    assert contest.absent == {}
    for variant, measured in zip(variants, contest.rows, strict=True):
        assert measured.name == variant.name
        assert measured.quality["sqnr_db"] > LEAST_DB[variant.kind], measured
        assert 0 < measured.best_ms <= measured.ms
        assert (measured.workspace is not None) == variant.ours
