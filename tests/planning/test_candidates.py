"""What a layer may become: tiles that suit its size and kernel, and what they cost."""

from __future__ import annotations

from fractions import Fraction

import pytest

from wqtvm import WinogradConfig
from wqtvm.fastconv import noise_gain_db
from wqtvm.planning.candidates import candidates, multiplications
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


def offered(planned: LayerPlan, config: WinogradConfig = AUTO) -> dict[str, LayerPlan]:
    return {candidate.layer.label: candidate.layer for candidate in candidates(planned, config)}


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


def test_five_taps_have_no_sfc() -> None:
    assert not [label for label in offered(layer(48, 48, 5)) if label.startswith("SFC")]


def test_rectangles_in_full_take_closed_forms_of_scales() -> None:
    config = WinogradConfig(algorithm="auto", precision="full", scales="learned")
    found = candidates(layer(6, 10), config)
    full = {c.layer.label: c.layer for c in found if c.layer.precision == "full"}
    assert full["F(6x5,3)"].scales == "correlated"
    assert full["F(6,3)"].scales == "learned"


def test_costs_rise_and_float_is_dearest() -> None:
    for taps in (3, 5):
        found = candidates(layer(48, 48, taps), AUTO)
        costs = [candidate.cost for candidate in found]
        assert costs == sorted(costs)
        assert found[-1].layer.algorithm == "float"
