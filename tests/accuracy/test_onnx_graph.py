"""The reader of ONNX networks, on networks made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.accuracy.networks.base import eligible_layers
from benchmarks.accuracy.networks.onnx_graph import read
from torch.nn import functional

from wqtvm.errors import ArtefactCorruptError

onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")


def write(path: Path, kind: str) -> np.ndarray:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    helper = onnx.helper
    nodes = [
        helper.make_node("Conv", ["x", "layer.weight"], ["c"], name="n", pads=[1, 1, 1, 1]),
        helper.make_node(kind, ["c"], ["y"], name="activation"),
    ]
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 8, 8])],
        [onnx.numpy_helper.from_array(weight, "layer.weight")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), str(path))
    return weight


def test_a_convolution_has_the_name_of_its_weight(tmp_path: Path) -> None:
    weight = write(tmp_path / "net.onnx", "Relu")
    network = read(tmp_path / "net.onnx")
    assert list(eligible_layers(network)) == ["layer"]
    x = torch.randn(1, 3, 8, 8)
    wanted = functional.relu(functional.conv2d(x, torch.from_numpy(weight), padding=1))
    torch.testing.assert_close(network(x), wanted)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    write(tmp_path / "net.onnx", "Erf")
    with pytest.raises(ArtefactCorruptError, match="node activation is a Erf; known are Add"):
        read(tmp_path / "net.onnx")
