"""What a layer may become: tiles that suit its size and kernel, and what can be left out."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from wqtvm import WinogradConfig
from wqtvm.config import Precision
from wqtvm.errors import ConfigError
from wqtvm.fastconv import noise_gain_db
from wqtvm.planning.candidates import Candidate, as_float, candidates, multiplications, undominated
from wqtvm.quantization.plan import LayerPlan, Reason

AUTO = WinogradConfig(algorithm="auto")
USUAL = {3: ["F(6,3)", "F(4,3)", "F(2,3)"], 5: ["F(4,5)", "F(3,5)", "F(2,5)"]}
COMPLEX = {3: ["F(6,3) +-i", "F(5,3) +-i", "F(3,3) +-i"], 5: []}


def layer(rows: int, columns: int, taps: int = 3) -> LayerPlan:
    return LayerPlan(
        name="body", input_shape=(1, 32, rows, columns), weight_shape=(32, 32, taps, taps),
        stride=(1, 1), padding=(taps // 2,) * 2, dilation=(1, 1), groups=1, algorithm="direct",
        tile=None, points=None, precision="hadamard", group_size=32, scales="correlated",
        steps="axis", weight_steps="tap", reason=Reason.ELIGIBLE,
    )  # fmt: skip


def clock(planned: LayerPlan) -> float:
    """Milliseconds by which nothing is left out: larger groups and fewer steps take less."""
    if planned.algorithm == "float":
        return 100.0
    full = 0.5 * (planned.precision == "hadamard")
    steps = 0.001 * (planned.weight_steps == "tap")
    return multiplications(planned) + full + steps + 1 / (planned.group_size or 10_000)


def offered(planned: LayerPlan, config: WinogradConfig = AUTO) -> dict[str, LayerPlan]:
    return {c.layer.label: c.layer for c in candidates(planned, config, clock)}


def test_bfloat16_is_offered_where_the_target_has_it_and_compares_with_nothing() -> None:
    planned = layer(14, 14)
    assert "direct bfloat16" not in offered(planned)
    found = {c.layer.label: c for c in candidates(planned, AUTO, clock, has_bfloat16=True)}
    bfloat16 = found.pop("direct bfloat16")
    assert (bfloat16.layer.group_size, bfloat16.layer.weight_steps) == (0, "filter")
    assert bfloat16.label == "direct bfloat16"
    for other in found.values():
        assert not bfloat16.surpasses(other)
        assert other.surpasses(bfloat16) == (other.layer.algorithm == "float")


@pytest.mark.parametrize(
    ("rows", "columns", "taps", "more"),
    [
        (48, 48, 3, []),
        (135, 240, 3, []),
        (14, 14, 3, ["F(5,3)"]),  # three tiles an edge, as F(6,3), of 49 products, not 64
        (16, 16, 3, []),
        (6, 10, 3, ["F(6x5,3)", "F(3x4,3)"]),
        (10, 6, 3, ["F(5x6,3)", "F(4x3,3)"]),
        (1, 100, 3, ["F(2x3,3)", "F(2x4,3)", "F(2x5,3)", "F(2x6,3)"]),
        (48, 48, 5, []),
        (9, 16, 5, ["F(3x4,5)"]),
    ],
)
def test_tiles_that_suit_the_size_are_offered(
    rows: int, columns: int, taps: int, more: list[str]
) -> None:
    found = {label for label in offered(layer(rows, columns, taps)) if label.startswith("F(")}
    assert found == {*USUAL[taps], *COMPLEX[taps], *more}


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("size", [(6, 10), (14, 14), (9, 16), (13, 7), (33, 20), (5, 5)])
def test_every_tile_that_is_offered_besides_beats_a_usual_one(
    size: tuple[int, int], taps: int
) -> None:
    def gain(planned: LayerPlan) -> float:
        return sum(map(noise_gain_db, planned.bilinear_algorithms())) / 2

    found = offered(layer(*size, taps))
    for label, planned in found.items():
        if not label.startswith("F(") or label in USUAL[taps] + COMPLEX[taps]:
            continue
        usual = [found[name] for name in USUAL[taps]]
        assert any(
            multiplications(planned) < multiplications(other) and gain(planned) <= gain(other)
            for other in usual
        )


def test_multiplications_count_tiles_that_stand_over_the_edge() -> None:
    found = offered(layer(6, 10))
    assert multiplications(found["F(6,3)"]) == pytest.approx(8 * 16 / 60)
    assert multiplications(found["F(6x5,3)"]) == pytest.approx(8 * 14 / 60)
    assert multiplications(found["F(3x4,3)"]) == pytest.approx(10 * 18 / 60)
    assert multiplications(found["direct"]) == multiplications(found["float"]) == 9
    five = offered(layer(8, 8, 5))
    assert multiplications(five["F(4,5)"]) == Fraction(64, 16)
    assert multiplications(five["direct"]) == 25


@pytest.mark.parametrize(("taps", "stride"), [(1, 1), (1, 2), (2, 2), (3, 2), (5, 2)])
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_strided_and_other_kernels_are_direct_or_float(
    taps: int, stride: int, precision: Precision
) -> None:
    planned = replace(layer(15, 12, taps), stride=(stride, stride))
    config = replace(AUTO, precision=precision)
    found = [candidate.layer for candidate in candidates(planned, config, clock)]
    assert {each.algorithm for each in found} == {"direct", "float"}
    assert {each.precision for each in found} == {"hadamard", None}
    assert {each.stride for each in found} == {(stride, stride)}
    assert {multiplications(each) for each in found} == {taps**2}


def test_five_taps_have_no_sfc() -> None:
    assert not [label for label in offered(layer(48, 48, 5)) if label.startswith("SFC")]


def test_rectangles_in_full_take_closed_forms_of_scales() -> None:
    config = WinogradConfig(algorithm="auto", precision="full", scales="learned")
    found = candidates(layer(6, 10), config, clock)
    full = {c.layer.label: c.layer for c in found if c.layer.precision == "full"}
    assert full["F(6x5,3)"].scales == "correlated"
    assert full["F(6,3)"].scales == "learned"


@pytest.mark.parametrize("taps", [3, 5])
def test_the_fastest_comes_first_and_float_last(taps: int) -> None:
    found = candidates(layer(48, 48, taps), AUTO, clock)
    times = [candidate.cost for candidate in found]
    assert times == sorted(times)
    assert [candidate.layer.predicted_ms for candidate in found] == times
    assert found[-1].layer.algorithm == "float"


def test_direct_comes_in_large_groups_with_a_step_a_filter() -> None:
    def directs(channels: int) -> set[tuple[int | None, str | None]]:
        planned = replace(
            layer(8, 8), input_shape=(1, channels, 8, 8), weight_shape=(32, channels, 3, 3)
        )
        found = [c.layer for c in candidates(planned, AUTO, clock)]
        images = [p.label for p in found if p.activation_steps == "image"]
        assert images == (["direct image"] if channels < 7368 else [])  # sums in int32
        return {(p.group_size, p.weight_steps) for p in found if p.label == "direct"}

    fine = {(8, "tap"), (16, "tap"), (32, "tap")}
    assert directs(256) == {*fine, (64, "tap"), (64, "filter"), (128, "filter"), (0, "filter")}
    assert directs(64) == {*fine, (64, "tap"), (0, "filter")}
    assert directs(5000) == {*fine, (64, "tap"), (64, "filter"), (128, "filter")}  # sums in int32
    assert directs(8000) == directs(5000)


def test_what_takes_no_less_time_than_float_is_left_out() -> None:
    (only,) = candidates(layer(8, 8), AUTO, lambda p: 1.0 + (p.algorithm != "float"))
    assert only.layer.algorithm == "float"


def test_what_is_known_to_be_as_accurate_surpasses() -> None:
    whole, large, small = (Candidate(replace(layer(8, 8), group_size=g), 1.0) for g in (0, 48, 16))
    filtered = Candidate(replace(small.layer, weight_steps="filter"), 1.0)
    full = Candidate(replace(small.layer, precision="full"), 1.0)
    exact = Candidate(as_float(small.layer), 1.0)
    other = Candidate(replace(large.layer, group_size=32), 1.0)
    for better, worse in [
        (large, whole), (small, whole), (small, large), (small, filtered), (small, full),
        *((exact, each) for each in (whole, large, small, filtered, full)),
    ]:  # fmt: skip
        assert better.surpasses(worse)
        assert not worse.surpasses(better)
    assert not other.surpasses(large)  # 32 channels are no part of 48
    assert not filtered.surpasses(full)
    tiles = offered(layer(8, 8))
    pair = [Candidate(tiles[label], 1.0) for label in ("F(2,3)", "F(4,3)")]
    assert not any(a.surpasses(b) for a in pair for b in pair if a is not b)


def test_only_candidates_that_something_faster_surpasses_are_left_out() -> None:
    fine, coarse = (replace(layer(8, 8), group_size=group) for group in (8, 32))
    exact = as_float(fine)

    def kept(*times: float) -> list[str]:
        both = [Candidate(p, ms) for p, ms in zip((fine, coarse, exact), times, strict=True)]
        return [candidate.label for candidate in undominated(both)]

    assert kept(2.0, 1.0, 3.0) == ["direct group 32", "direct group 8", "float"]
    assert kept(1.0, 1.0, 3.0) == kept(1.0, 2.0, 3.0) == ["direct group 8", "float"]
    assert kept(2.0, 1.0, 2.0) == ["direct group 32", "float"]
    assert kept(2.0, 1.0, 0.5) == ["float"]


def test_what_is_to_be_least_may_be_multiplications() -> None:
    """Then tiles come by their products, whatever time they take; of equals the fastest."""

    def slow_tiles(planned: LayerPlan) -> float:
        return 100 / multiplications(planned) + 1 / (planned.group_size or 10_000)

    config = replace(AUTO, minimize="multiplications")
    found = candidates(layer(48, 48), config, slow_tiles)
    counts = [multiplications(candidate.layer) for candidate in found]
    assert counts == sorted(counts)
    assert found[0].layer.label == "F(6,3)"
    by_time = candidates(layer(48, 48), AUTO, slow_tiles)
    assert by_time[0].layer.label in ("direct", "float")


def test_an_unknown_aim_is_refused() -> None:
    with pytest.raises(ConfigError, match="minimize is 'energy'; give one of 'time', 'mult"):
        WinogradConfig(algorithm="auto", minimize="energy")  # type: ignore[arg-type]
