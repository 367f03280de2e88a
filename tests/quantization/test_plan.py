"""The plan as a value: checked, printed, saved and read back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from wqtvm.errors import (
    ArtefactCorruptError,
    ArtefactVersionError,
    ConfigError,
    NotEligibleError,
)
from wqtvm.fastconv import ScaleSet, correlated_scales, direct, sfc, winograd
from wqtvm.quantization import LayerPlan, Plan, Reason, Scheme

WINOGRAD = LayerPlan(
    name="body.0",
    input_shape=(1, 64, 56, 55),
    weight_shape=(128, 64, 3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    groups=1,
    algorithm="winograd",
    tile=4,
    points=winograd(4).points,
    precision="full",
    group_size=32,
    scales="correlated",
    steps="axis",
    weight_steps="tap",
    reason=Reason.ELIGIBLE,
)
DIRECT = replace(
    WINOGRAD, name="body.1", algorithm="direct", tile=None, points=None, precision="hadamard",
    group_size=0,
)  # fmt: skip
RECTANGLE = replace(
    WINOGRAD, name="body.3", tile=(4, 2), weight_shape=(128, 64, 5, 5),
    points=winograd(4, r=5).points, column_points=winograd(2, r=5).points,
)  # fmt: skip
SFC = replace(WINOGRAD, name="body.2", algorithm="sfc", tile=6, points=None)
STRIDED = replace(DIRECT, name="body.4", stride=(2, 2))
FLOAT = replace(
    WINOGRAD, name="down", stride=(2, 2), algorithm="float", tile=None, points=None,
    precision=None, group_size=None, scales=None, steps=None, weight_steps=None,
    reason=Reason.STRIDE, detail="stride is 2 x 2",
)  # fmt: skip
LEARNED = replace(
    WINOGRAD, name="body.2", scales="mine.safetensors", s_b=(0.1, 1.0, 1.0, 2.0, 1.0, 1.0),
    s_g=(1 / 3, 1.0, 1.0, 2.0, 1.0, 1.0),
)  # fmt: skip
BFLOAT16 = replace(STRIDED, name="body.5", precision="bfloat16", weight_steps="filter")
PLAN = Plan((WINOGRAD, DIRECT, FLOAT, SFC, STRIDED, BFLOAT16), "float16")


def test_json_round_trip() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert Plan.from_json(Plan(()).to_json()) == Plan(())
    layer = json.loads(PLAN.to_json())["layers"][2]
    assert layer["reason"] == "stride"
    assert layer["points"] is None


def test_rectangles_travel_and_have_two_algorithms() -> None:
    plan = Plan((RECTANGLE,))
    (layer,) = Plan.from_json(plan.to_json()).layers
    assert layer == RECTANGLE
    rows, columns = winograd(4, r=5), winograd(2, r=5)
    assert layer.bilinear_algorithms() == (rows, columns)
    scales = correlated_scales(rows), correlated_scales(columns)
    assert layer.scheme() == Scheme(rows, scales[0], "full", 32, "axis", "tap", columns, scales[1])
    assert plan.rows()[0][3:5] == (
        "F(4x2,5)", "0 1 -1 2 -2 1/2 -1/2 inf x 0 2/3 -2/3 3/2 -3/2 inf"
    )  # fmt: skip


def test_learned_scales_travel_in_the_plan() -> None:
    plan = Plan((LEARNED,))
    (layer,) = Plan.from_json(plan.to_json()).layers
    assert layer == LEARNED
    # Without the file that they were read from.
    assert layer.scheme().scales == ScaleSet("mine.safetensors", LEARNED.s_b, LEARNED.s_g)


def test_layers_by_name() -> None:
    assert PLAN.layer("down") is FLOAT
    with pytest.raises(ConfigError, match=r"layer up is not .*: body\.0, body\.1, down, body\.2"):
        PLAN.layer("up")
    with pytest.raises(ConfigError, match=r"layer down is in the plan twice"):
        Plan((FLOAT, WINOGRAD, FLOAT))


def test_table() -> None:
    first, second, third, fourth, fifth, _ = PLAN.rows()
    assert len(first) == len(Plan.COLUMNS)
    assert first == (
        "body.0", "1x64x56x55", "128x64x3x3", "F(4,3)", "0 2/3 -2/3 3/2 -3/2 inf", "full", "32",
        "correlated", "axis", "", "eligible",
    )  # fmt: skip
    assert second[3:7] == ("direct", "", "hadamard", "whole")
    assert third[2] == "128x64x3x3/2"
    assert third[3:] == ("float", "", "", "", "", "", "", "stride: stride is 2 x 2")
    timed = Plan((replace(FLOAT, predicted_ms=0.123456),))
    assert timed.rows()[0][-2] == "0.123"
    assert Plan.from_json(timed.to_json()) == timed
    assert fifth[2:4] == ("128x64x3x3/2", "direct")
    assert fourth[3:5] == ("SFC-6(6,3)", "")
    lines = str(PLAN).splitlines()
    assert lines[0].split() == list(Plan.COLUMNS)
    assert len(lines) == 8
    assert {line.index("1x64x56x55") for line in lines[1:-1]} == {lines[0].index("input")}
    assert lines[-1] == "images between layers: float16"
    assert str(replace(PLAN, images="float32")).splitlines() == lines[:-1]


def test_output_shape() -> None:
    assert WINOGRAD.output_shape == (1, 128, 56, 55)
    assert FLOAT.output_shape == (1, 128, 28, 28)
    dilated = replace(FLOAT, stride=(1, 1), dilation=(2, 3), padding=(0, 0))
    assert dilated.output_shape == (1, 128, 52, 49)


def test_scheme_of_a_layer() -> None:
    algorithm = winograd(4)
    expected = Scheme(algorithm, correlated_scales(algorithm), "full", 32, "axis")
    assert WINOGRAD.scheme() == expected
    assert DIRECT.scheme().algorithm == direct(3)
    assert DIRECT.scheme().group_size == 0
    assert SFC.scheme().algorithm == SFC.bilinear_algorithms()[0] == sfc(6)
    for method in (FLOAT.scheme, FLOAT.bilinear_algorithms):
        with pytest.raises(NotEligibleError, match=r"layer down: .* float \(stride: stride is 2"):
            method()


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (WINOGRAD, {"algorithm": "fft"}, "algorithm is 'fft'; give one of winograd, sfc, direct"),
        (WINOGRAD, {"tile": None}, "tile is None; give an integer of at least 1"),
        (WINOGRAD, {"tile": (4, 4)}, r"tile is \(4, 4\); give an integer .* or two that differ"),
        (WINOGRAD, {"tile": (4, 2, 3)}, r"tile is \(4, 2, 3\); give an integer"),
        (WINOGRAD, {"tile": (4, 2)}, "column_points is None; give the interpolation points of the"),
        (WINOGRAD, {"column_points": ("0",)}, "column_points is .*; give None for a square tile"),
        (RECTANGLE, {"scales": "mine", "s_b": (1.0,), "s_g": (1.0,)}, "scales is 'mine'; give one"),
        (WINOGRAD, {"points": ()}, r"points is \(\); give the interpolation points"),
        (WINOGRAD, {"input_shape": (1, 64, 56)}, "input_shape is .*; give 4 integers"),
        (WINOGRAD, {"stride": (2, 2)}, r"stride is \(2, 2\); give \(1, 1\) for algorithm 'winog"),
        (
            DIRECT,
            {"stride": (2, 1)},
            r"stride is \(2, 1\); give two equal numbers, or algorithm 'f",
        ),
        (DIRECT, {"stride": (2, 2), "precision": "full"}, "precision is 'full'; give 'had"),
        (WINOGRAD, {"stride": (0, 1)}, r"stride is \(0, 1\); give 2 integers of at least 1"),
        (WINOGRAD, {"padding": (1, True)}, "padding is"),
        (WINOGRAD, {"groups": 0}, "groups is 0"),
        (WINOGRAD, {"precision": "half"}, "precision is 'half'"),
        (WINOGRAD, {"group_size": None}, "group_size is None"),
        (WINOGRAD, {"steps": None}, "steps is None"),
        (WINOGRAD, {"scales": None}, "scales is None"),
        (WINOGRAD, {"reason": "stride"}, "reason is 'stride'; give a Reason"),
        (DIRECT, {"tile": 4}, "tile is 4; give None for algorithm 'direct'"),
        (SFC, {"tile": (4, 6)}, r"tile is \(4, 6\); give one of 4, 6"),
        (SFC, {"tile": 5}, "tile is 5; give one of 4, 6"),
        (SFC, {"tile": 4.0}, r"tile is 4\.0; give one of 4, 6"),
        (SFC, {"tile": None}, "tile is None; give one of 4, 6"),
        (SFC, {"points": ("0", "1")}, "points is .*; give None for algorithm 'sfc'"),
        (FLOAT, {"precision": "full"}, "precision is 'full'; give None for algorithm 'float'"),
        (FLOAT, {"s_b": (1.0,) * 6}, "s_b is .*; give None for algorithm 'float'"),
        (WINOGRAD, {"s_b": (1.0,) * 6}, "s_b is .*; give None for scales 'correlated'"),
        (LEARNED, {"s_b": None}, "s_b is None; give positive numbers, or scales one of standard, "),
        (LEARNED, {"s_g": (1.0, 0.0)}, r"s_g is \(1\.0, 0\.0\); give positive numbers"),
    ],
)
def test_wrong_layers_are_refused(
    base: LayerPlan, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"layer {base.name}: {message}"):
        replace(base, **changes)


def edited(**changes: object) -> str:
    document = json.loads(PLAN.to_json())
    document["layers"][0].update(changes)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "schema_version is None"),
        ('{"schema_version": "1", "layers": []}', "schema_version is '1'"),
        ('{"schema_version": 1}', "layers are None"),
        ('{"schema_version": 1, "layers": [3]}', "layer 0 lacks"),
        ('{"schema_version": 1, "layers": [{}]}', r"layer 0 lacks \['algorithm', "),
        (edited(colour="red"), r"has unknown \['colour'\]"),
        (edited(reason="mood"), r"layer body\.0: reason is 'mood'; give one of eligible, "),
        (edited(tile="4"), r"layer body\.0: tile is '4'"),
        (edited(points=[1, 2]), r"layer body\.0: points is \(1, 2\)"),
        (edited(name=7), "name is 7; give text"),
        (edited(name="down"), "layer down is in the plan twice"),
    ],
)
def test_corrupt_plans_are_refused(text: str, message: str) -> None:
    with pytest.raises(ArtefactCorruptError, match=rf"plan: .*{message}"):
        Plan.from_json(text)


def test_newer_plans_are_refused() -> None:
    with pytest.raises(ArtefactVersionError, match=r"schema_version is 2, .* up to 1; upgrade"):
        Plan.from_json('{"schema_version": 2, "layers": "in another form"}')
