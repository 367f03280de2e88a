"""The end-to-end race on a stand-in network: what is read, written and measured of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.layers.peers.base import CannotRunError, Competitor, Setting, choose
from benchmarks.layers.race import Contest, Race, Row, missing
from benchmarks.networks import cases, tables
from benchmarks.networks.cases import Case
from benchmarks.networks.graph import read
from benchmarks.networks.peers import COMPETITORS, Problem
from torch import Tensor, nn
from torch.nn import functional


class Doubling(nn.Module):
    """A picture at twice its size, by a node of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Conv2d(13, 17, 3, padding=1), nn.Conv2d(17, 33, 3, padding=1)
        self.slopes, self.tail = nn.PReLU(33), nn.Conv2d(33, 48, 3, padding=1)
        self.register_buffer("sigma", torch.full((1, 1, 1, 1), 0.1))

    def forward(self, image: Tensor) -> Tensor:
        x = functional.pixel_unshuffle(image, 2)
        x = torch.cat((x, self.sigma.expand(1, 1, *x.shape[2:])), 1)
        x = self.tail(self.slopes(self.body(functional.relu(self.head(x)))))
        return functional.pixel_shuffle(x, 4) + functional.interpolate(image, scale_factor=2)


def doubling() -> nn.Module:
    torch.manual_seed(0)
    return Doubling()


def smoothing() -> nn.Module:
    """One layer, quick to compile."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 3, padding=1)


def picture() -> tuple[Tensor, Tensor]:
    x = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    return x, functional.interpolate(x, scale_factor=2)


STAND_IN = Case("stand-in", doubling, picture)
PEERS = [each for each in COMPETITORS if each.name != "wqtvm"]
ONE_LAYER = Case("one layer", smoothing, lambda: (picture()[0], picture()[0]))


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    STAND_IN.write(tmp_path)
    return Problem(tmp_path)


def test_nodes_compute_what_the_network_does(problem: Problem) -> None:
    graph = problem.graph
    kinds = ["unshuffle", "constant", "concat", "conv", "relu", "conv", "prelu", "conv"]
    assert [node.kind for node in graph.nodes] == [*kinds, "shuffle", "upsample", "add"]
    result = graph.values(problem.x)[graph.nodes[-1].name].numpy()
    assert np.abs(result - problem.reference).max() < 1e-6


def test_the_onnx_model_computes_what_the_network_does(problem: Problem) -> None:
    pytest.importorskip("onnxruntime")
    from benchmarks.layers.peers.onnxruntime_int8 import session
    from benchmarks.networks.onnx_model import float_model

    (y,) = session(float_model(problem.graph), 1).run(None, {"x": problem.x.numpy()})
    assert np.abs(y - problem.reference).max() < 1e-6


def test_what_cannot_be_written_is_named() -> None:
    strided = torch.export.export(nn.Conv2d(3, 4, 3, stride=2), (torch.zeros(1, 3, 8, 8),))
    with pytest.raises(CannotRunError, match=r"'stride': \[2, 2\]"):
        read(strided)
    plain = torch.export.export(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), (torch.zeros(1, 3, 8, 8),)
    )
    with pytest.raises(CannotRunError, match="'bias': False"):
        read(plain)
    other = torch.export.export(nn.Sigmoid(), (torch.zeros(1, 3, 8, 8),))
    with pytest.raises(CannotRunError, match=r"aten\.sigmoid\.default"):
        read(other)
    with pytest.raises(ValueError, match="no network is like 'LeNet'; there are: FFDNet, Real"):
        cases.chosen(["LeNet"])


def test_the_race_of_pytorch_and_wqtvm() -> None:
    names = ["PyTorch float32", "wqtvm F(4,3) g64"]
    entries = [
        (competitor, [variant for variant in variants if variant.name in names])
        for competitor, variants in choose(COMPETITORS, names)
    ]
    with Race(entries, Setting(1), has_amx=False, say=lambda _: None) as race:
        contest = race.run(ONE_LAYER, rounds=1, seconds=0.0)
    assert contest.absent == {}
    pytorch, ours = contest.rows
    assert pytorch.quality["psnr_db"] == np.inf
    assert pytorch.quality["true_change_db"] == 0
    assert 30 < ours.quality["psnr_db"] < 90


def test_the_table_has_ratios_to_the_fastest_peers() -> None:
    quality = {"psnr_db": 40.0, "true_psnr_db": 33.0, "true_change_db": -0.25}
    times = {"PyTorch float32": 8.0, "OpenVINO int8": 2.0, "wqtvm F(4,3)": 1.0}
    rows = [Row(name, ms, ms, [ms], quality, None, "1") for name, ms in times.items()]
    lines = tables.table(Contest(rows, {"ncnn int8": "crashed"}), COMPETITORS)
    assert "| wqtvm F(4,3) | 1.00 | 2.00 | 8.00 | 40.0 | 33.00 | 0.25 |" in lines
    assert lines[-1] == "Not measured: ncnn int8: crashed"


@pytest.mark.slow
@pytest.mark.parametrize("competitor", PEERS, ids=lambda each: each.name)
def test_every_peer_computes_the_stand_in(competitor: Competitor) -> None:
    if why := missing(competitor):
        pytest.skip(why)
    with Race(
        [(competitor, competitor.variants)], Setting(1), has_amx=False, say=lambda _: None
    ) as race:
        contest = race.run(STAND_IN, rounds=1, seconds=0.0)
    assert contest.absent == {}
    least = {"int8": 25.0, "float32": 80.0}
    for variant, row in zip(competitor.variants, contest.rows, strict=True):
        assert row.quality["psnr_db"] > least[variant.kind], row
