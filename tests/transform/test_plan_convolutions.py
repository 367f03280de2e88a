"""Every convolution gets an algorithm and a reason."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wqtvm.config import Precision, WinogradConfig
from wqtvm.errors import AlgorithmError, ArtefactMissingFileError, ConfigError
from wqtvm.fastconv import correlated_scales, winograd
from wqtvm.frontend import from_torch
from wqtvm.learning import shipped_scales
from wqtvm.learning.learn import learn_scales
from wqtvm.learning.noise import Noise
from wqtvm.quantization.plan import LayerPlan, Plan, Reason
from wqtvm.transform.pipeline import prepare
from wqtvm.transform.plan_convolutions import plan_convolutions


def plan(model: nn.Module, config: WinogradConfig, shape: tuple[int, ...]) -> Plan:
    imported = from_torch(model, (torch.zeros(shape),))
    return plan_convolutions(prepare(imported.module), config)


DEFAULT = WinogradConfig()


def only_layer(convolution: nn.Module, config: WinogradConfig = DEFAULT) -> LayerPlan:
    (layer,) = plan(nn.Sequential(convolution), config, (1, 8, 12, 12)).layers
    return layer


@pytest.mark.parametrize(
    ("convolution", "reason", "detail"),
    [
        (nn.Conv2d(8, 4, 1), Reason.KERNEL_SIZE, "1x1"),
        (nn.Conv2d(8, 4, 7), Reason.KERNEL_SIZE, "7x7"),
        (nn.Conv2d(8, 4, 7, stride=2), Reason.KERNEL_SIZE, "7x7"),
        (nn.Conv2d(8, 4, 1, stride=2), Reason.KERNEL_SIZE, "1x1"),
        (nn.Conv2d(8, 4, 2, stride=2), Reason.KERNEL_SIZE, "2x2"),
        (nn.Conv2d(8, 4, (1, 3)), Reason.KERNEL_SIZE, "1x3"),
        (nn.Conv2d(8, 4, (5, 3)), Reason.KERNEL_SIZE, "5x3"),
        (nn.Conv2d(8, 4, 5, stride=2), Reason.STRIDE, "2x2"),
        (nn.Conv2d(8, 4, 5, padding=(2, 0)), Reason.PADDING, "differs between edges"),
        (nn.Conv2d(8, 4, 3, stride=2), Reason.STRIDE, "2x2"),
        (nn.Conv2d(8, 4, 3, stride=(2, 1)), Reason.STRIDE, "2x1"),
        (nn.Conv2d(8, 4, 3, dilation=2), Reason.DILATION, "2x2"),
        (nn.Conv2d(8, 8, 3, groups=8), Reason.GROUPS, "8 groups"),
        (nn.Conv2d(8, 4, 3, padding=(0, 1)), Reason.PADDING, "differs between edges"),
        (nn.ConvTranspose2d(8, 4, 3), Reason.RANK, "conv2d_transpose"),
    ],
    ids=lambda value: value.value if isinstance(value, Reason) else None,
)
def test_what_does_not_fit_stays_float_and_says_why(
    convolution: nn.Module, reason: Reason, detail: str
) -> None:
    layer = only_layer(convolution)
    assert layer.algorithm == "float"
    assert layer.reason is reason
    assert detail in layer.detail
    assert (layer.tile, layer.precision, layer.group_size) == (None, None, None)


DIRECT_ONLY = [
    (nn.Conv2d(8, 4, 1), Reason.KERNEL_SIZE, "1x1"),
    (nn.Conv2d(8, 4, 1, stride=2), Reason.KERNEL_SIZE, "1x1"),
    (nn.Conv2d(8, 4, 2, stride=2), Reason.KERNEL_SIZE, "2x2"),
    (nn.Conv2d(8, 4, 4, stride=3, padding=1), Reason.KERNEL_SIZE, "4x4"),
    (nn.Conv2d(8, 4, 3, stride=2, padding=1), Reason.STRIDE, "2x2"),
    (nn.Conv2d(8, 4, 5, stride=2, padding=2), Reason.STRIDE, "2x2"),
]


@pytest.mark.parametrize(("convolution", "reason", "detail"), DIRECT_ONLY)
@pytest.mark.parametrize("algorithm", ["winograd", "sfc"])
def test_others_are_float_or_direct_and_say_why(
    convolution: nn.Conv2d, reason: Reason, detail: str, algorithm: str
) -> None:
    config = WinogradConfig(
        algorithm, tile=6, precision="full", group_size=64, scales="learned", others="direct"
    )
    layer = only_layer(convolution, config)
    assert (layer.algorithm, layer.reason, layer.detail) == ("direct", reason, detail)
    assert (layer.precision, layer.group_size, layer.scales) == ("hadamard", 64, "correlated")
    assert (layer.tile, layer.points, layer.s_b) == (None, None, None)
    assert layer.stride == convolution.stride
    assert layer.scheme().is_direct
    left = only_layer(convolution, replace(config, others="float"))
    assert (left.algorithm, left.reason, left.detail) == ("float", reason, detail)


@pytest.mark.parametrize("convolution", [convolution for convolution, *_ in DIRECT_ONLY])
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_direct_is_for_all_of_them(convolution: nn.Conv2d, precision: Precision) -> None:
    layer = only_layer(convolution, WinogradConfig("direct", precision=precision))
    assert (layer.algorithm, layer.reason) == ("direct", Reason.ELIGIBLE)
    assert layer.precision == "hadamard"  # there is no stage besides the products


@pytest.mark.parametrize(
    ("convolution", "reason"),
    [
        (nn.Conv2d(8, 4, 7), Reason.KERNEL_SIZE),
        (nn.Conv2d(8, 4, (1, 3)), Reason.KERNEL_SIZE),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8), Reason.GROUPS),
        (nn.Conv2d(8, 8, 1, groups=2), Reason.GROUPS),
        (nn.Conv2d(8, 4, 3, stride=2, dilation=2), Reason.DILATION),
        (nn.Conv2d(8, 4, 3, stride=(1, 2)), Reason.STRIDE),
        (nn.Conv2d(8, 4, 3, stride=2, padding=(1, 0)), Reason.PADDING),
        (nn.ConvTranspose2d(8, 4, 2, stride=2), Reason.RANK),
    ],
)
@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
def test_what_direct_cannot_do_stays_float(
    convolution: nn.Module, reason: Reason, algorithm: str
) -> None:
    layer = only_layer(convolution, WinogradConfig(algorithm, others="direct"))
    assert (layer.algorithm, layer.reason) == ("float", reason)


def test_patterns_hold_for_others() -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1))
    config = WinogradConfig(others="direct", exclude=("2",))
    layers = plan(network, config, (1, 8, 12, 12)).layers
    assert [(layer.algorithm, layer.reason) for layer in layers] == [
        ("direct", Reason.STRIDE), ("direct", Reason.KERNEL_SIZE), ("float", Reason.EXCLUDED),
    ]  # fmt: skip


def test_an_unknown_choice_for_others_is_refused() -> None:
    with pytest.raises(ConfigError, match="others is 'int8'; give one of 'float', 'direct'"):
        WinogradConfig(others="int8")  # type: ignore[arg-type]


def test_an_eligible_convolution_gets_what_is_configured() -> None:
    config = WinogradConfig(tile=6, precision="full", group_size=64, scales="row-norm")
    layer = only_layer(nn.Conv2d(8, 4, 3, padding=1), config)
    assert layer.name == "0"
    assert layer.reason is Reason.ELIGIBLE
    assert (layer.algorithm, layer.tile, layer.precision) == ("winograd", 6, "full")
    assert (layer.group_size, layer.scales, layer.steps) == (64, "row-norm", "channel")
    assert layer.input_shape == (1, 8, 12, 12)
    assert layer.weight_shape == (4, 8, 3, 3)
    assert layer.points is not None
    assert layer.points[-1] == "inf"


@pytest.mark.parametrize(
    ("tile", "planned", "points"), [(None, 2, 4), (2, 2, 4), (3, 3, 5), (4, 4, 6)]
)
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_kernels_of_five_are_eligible(
    tile: int | None, planned: int, points: int, padding: int
) -> None:
    layer = only_layer(nn.Conv2d(8, 4, 5, padding=padding), WinogradConfig(tile=tile))
    assert (layer.algorithm, layer.tile, layer.label) == ("winograd", planned, f"F({planned},5)")
    assert layer.reason is Reason.ELIGIBLE
    assert layer.points == winograd(points).points  # of F(m + 2, 3)
    assert layer.scheme().name == f"F({planned},5)"


class TwoSizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.three, self.five = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.five(self.three(x))


@pytest.mark.parametrize(
    ("config", "detail"),
    [
        (WinogradConfig(tile=6), r"tile is 6; 'best' points of F(m,5) exist for m of 2, 3, 4"),
        (WinogradConfig(tile=(2, 5)), "tile is 5; 'best' points of F(m,5)"),
        (
            WinogradConfig(tile=2, points=("0", "1", "-1")),
            "F(2,5): 3 finite points are given (a pair counts twice); 5",
        ),
        (WinogradConfig(algorithm="sfc"), "SFC is for 3 taps of a kernel, not for 5"),
        (
            WinogradConfig(tile=4, precision="full", scales="learned"),
            "scales are 'learned', but none come with wqtvm for F(4,5)",
        ),
    ],
)
def test_a_kernel_without_an_algorithm_stays_float_where_another_has_one(
    config: WinogradConfig, detail: str
) -> None:
    three, five = plan(TwoSizes(), config, (1, 8, 12, 12)).layers
    assert (three.algorithm, three.reason) == (config.algorithm, Reason.ELIGIBLE)
    assert (five.algorithm, five.reason) == ("float", Reason.NO_ALGORITHM)
    assert detail in five.detail
    three, five = plan(TwoSizes(), replace(config, others="direct"), (1, 8, 12, 12)).layers
    assert (three.algorithm, three.reason) == (config.algorithm, Reason.ELIGIBLE)
    assert (five.algorithm, five.reason) == ("direct", Reason.NO_ALGORITHM)
    assert detail in five.detail
    with pytest.raises((AlgorithmError, ConfigError), match=re.escape(detail)):
        only_layer(nn.Conv2d(8, 4, 5), config)


def test_default_tiles_and_one_for_both() -> None:
    by_default = plan(TwoSizes(), WinogradConfig(), (1, 8, 12, 12)).layers
    assert [layer.label for layer in by_default] == ["F(4,3)", "F(2,5)"]
    four = plan(TwoSizes(), WinogradConfig(tile=4), (1, 8, 12, 12)).layers
    assert [layer.label for layer in four] == ["F(4,3)", "F(4,5)"]
    direct = plan(TwoSizes(), WinogradConfig(algorithm="direct"), (1, 8, 12, 12)).layers
    assert [layer.scheme().name for layer in direct] == ["F(1,3)", "F(1,5)"]


def test_a_tile_may_be_a_rectangle() -> None:
    layer = only_layer(nn.Conv2d(8, 4, 3), WinogradConfig(tile=(4, 2), precision="full"))
    assert (layer.tile, layer.label) == ((4, 2), "F(4x2,3)")
    assert (layer.points, layer.column_points) == (winograd(4).points, winograd(2).points)
    scheme = layer.scheme()
    assert (scheme.output_tile, scheme.products) == ((4, 2), (6, 4))
    assert scheme.row_axis.scales == correlated_scales(winograd(4))
    assert scheme.column_axis.scales == correlated_scales(winograd(2))
    square = only_layer(nn.Conv2d(8, 4, 3), WinogradConfig(tile=(4, 4)))
    assert square == only_layer(nn.Conv2d(8, 4, 3), WinogradConfig(tile=4))
    learned = WinogradConfig(tile=(4, 2), precision="full", scales="learned")
    with pytest.raises(ConfigError, match=r"tile is \(4, 2\); a tile that is no square takes one"):
        only_layer(nn.Conv2d(8, 4, 3), learned)


def test_learned_scales_are_read_from_their_file(tmp_path: Path) -> None:
    learned = learn_scales(
        {"0": np.ones((4, 4, 3, 3), np.float32)}, winograd(2), iterations=1, noise=Noise("uniform")
    )
    path = tmp_path / "mine.safetensors"
    learned.save(path)
    config = WinogradConfig(tile=2, precision="full", scales=str(path))
    layer = only_layer(nn.Conv2d(8, 4, 3), config)
    assert layer.scales == str(path)
    assert (layer.s_b, layer.s_g) == (learned.scales.s_b, learned.scales.s_g)
    assert only_layer(nn.Conv2d(8, 4, 1), config).s_b is None
    with pytest.raises(AlgorithmError, match=r"learned for F\(2,3\) .*, not for F\(4,3\)"):
        only_layer(nn.Conv2d(8, 4, 3), replace(config, tile=4))
    with pytest.raises(AlgorithmError, match=r"not for F\(1,3\), the direct convolution"):
        only_layer(nn.Conv2d(8, 4, 3), replace(config, algorithm="direct"))
    path.unlink()
    with pytest.raises(ArtefactMissingFileError, match=r"mine\.safetensors: there is no such file"):
        only_layer(nn.Conv2d(8, 4, 3), config)


def test_learned_scales_that_come_with_wqtvm() -> None:
    convolution = nn.Conv2d(8, 4, 3)
    layer = only_layer(convolution, WinogradConfig(tile=6, precision="full", scales="learned"))
    assert layer.scales == "learned"
    assert layer.scheme().scales == shipped_scales(winograd(6)).scales
    unknown = WinogradConfig(tile=3, points="complex", precision="full", scales="learned")
    with pytest.raises(ConfigError, match=r"scales are 'learned', but none come .* for F\(3,3\)"):
        only_layer(convolution, unknown)


def test_direct_has_neither_tile_nor_points() -> None:
    layer = only_layer(nn.Conv2d(8, 4, 3), WinogradConfig(algorithm="direct"))
    assert (layer.algorithm, layer.tile, layer.points) == ("direct", None, None)
    assert layer.precision == "hadamard"


def test_sfc_has_a_tile_and_no_points() -> None:
    layer = only_layer(nn.Conv2d(8, 4, 3), WinogradConfig(algorithm="sfc", tile=6))
    assert (layer.algorithm, layer.tile, layer.points) == ("sfc", 6, None)


def test_float_is_float_everywhere() -> None:
    layer = only_layer(nn.Conv2d(8, 4, 3), WinogradConfig(algorithm="float"))
    assert layer.algorithm == "float"
    assert layer.reason is Reason.ELIGIBLE


class TwoBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.decoder = nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


def test_patterns_choose_by_pytorch_name() -> None:
    config = WinogradConfig(include=("encoder.*",), exclude=("*.2",))
    layers = plan(TwoBlocks(), config, (1, 8, 12, 12)).layers
    assert {layer.name: layer.reason for layer in layers} == {
        "encoder.0": Reason.ELIGIBLE,
        "encoder.2": Reason.EXCLUDED,
        "decoder": Reason.NOT_INCLUDED,
    }


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(option: str) -> None:
    config = WinogradConfig(**{option: ("encoder.*", "middle.*")})
    with pytest.raises(ConfigError, match=rf"{option} pattern 'middle\.\*' matches no convolution"):
        plan(TwoBlocks(), config, (1, 8, 12, 12))


def test_layers_get_learned_scales_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    learned = learn_scales(network, winograd(2), iterations=10, per_layer=True)
    path = tmp_path / "layers.safetensors"
    learned.save(path)
    config = WinogradConfig(tile=2, precision="full", scales=str(path))
    layers = plan(network, config, (1, 3, 12, 12)).layers
    assert [layer.name for layer in layers] == list(learned.layers)
    for layer in layers:
        assert (layer.s_b, layer.s_g) == (
            learned.layers[layer.name].s_b,
            learned.layers[layer.name].s_g,
        )
    assert layers[0].s_b != layers[1].s_b
