"""Tables of the command line."""

from __future__ import annotations

from wqtvm.console import plan_table
from wqtvm.quantization import LayerPlan, Plan, Reason


def planned(
    name: str, algorithm: str, tile: int | None, points: tuple[str, ...] | None
) -> LayerPlan:
    return LayerPlan(
        name=name, input_shape=(1, 8, 9, 9), weight_shape=(4, 8, 3, 3), stride=(1, 1),
        padding=(1, 1), dilation=(1, 1), groups=1, algorithm=algorithm, tile=tile, points=points,
        precision="hadamard", group_size=32, scales="correlated", steps="axis", weight_steps="tap",
        reason=Reason.ELIGIBLE,
    )  # fmt: skip


def test_a_plan_names_its_algorithms() -> None:
    layers = (
        planned("a", "winograd", 2, ("0", "1", "-1", "inf")),
        planned("b", "sfc", 4, None),
        planned("c", "direct", None, None),
    )
    result = plan_table(Plan(layers))
    (column,) = (column for column in result.columns if column.header == "algorithm")
    assert list(column.cells) == ["F(2,3)", "SFC-4(4,3)", "direct"]
    assert result.caption is None
    narrow = plan_table(Plan(layers, images="float16"))
    assert narrow.caption == "images between layers: float16"
