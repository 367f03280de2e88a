from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import wqtvm
from wqtvm.errors import ConfigError, InputMismatchError, TargetNotRunnableError
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings
from wqtvm.quantization import convolution_reference, sqnr_db
from wqtvm.quantization.plan import Plan
from wqtvm.quantization.weights import quantize_weights
from wqtvm.report import (
    AccuracyReport,
    LayerAccuracy,
    OutputAccuracy,
    accuracy_report,
    decibel,
)
from wqtvm.runtime.made_up import random_inputs
from wqtvm.target import TABLE, best_of_host
from wqtvm.tensor_spec import TensorSpec
from wqtvm.transform.observe_layers import isolate_layers, observe_layers

SHAPE = (1, 4, 12, 10)


class Network(nn.Module):
    """Two Winograd layers with a residual, and a 1x1 convolution; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1)])
        self.tail = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.norm(self.head(x)))
        x = x + torch.relu(self.body[0](x))
        return self.tail(x), x.mean((2, 3))


@pytest.fixture(scope="module")
def imported():
    return from_torch(Network().eval(), torch.zeros(SHAPE))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    (array,) = random_inputs([TensorSpec("x", SHAPE, "float32")], seed=5)
    return array


@pytest.fixture(scope="module")
def report(imported, image):
    return accuracy_report(imported, [torch.from_numpy(image)])


@pytest.fixture(scope="module")
def compiled():
    return wqtvm.compile(Network().eval(), torch.zeros(SHAPE))


def test_rows_are_the_convolutions_in_order(report):
    assert [layer.name for layer in report.layers] == ["head", "body.0", "tail"]
    assert [layer.algorithm for layer in report.layers] == ["winograd", "winograd", "float"]
    assert [output.name for output in report.outputs] == ["output0", "output1"]
    assert report.inputs == "given"


def test_local_is_the_reference_on_exact_inputs(compiled, report, image):
    """The first layer's input is the image itself, so its row can be computed by hand."""
    model = Network().eval()
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(model.head, model.norm)
    weight = fused.weight.detach()
    scheme = compiled.plan.layer("head").scheme()
    quantized = quantize_weights(weight.numpy(), scheme, "head")
    result = convolution_reference(image.transpose(0, 2, 3, 1), quantized, scheme, 1).output
    exact = torch.conv2d(torch.from_numpy(image).double(), weight.double(), padding=1)
    wanted = sqnr_db(exact.numpy().transpose(0, 2, 3, 1), result)
    # Float32 noise is 100 dB below the quantization noise; the folded weights differ by a rounding.
    assert report.layers[0].local_db == pytest.approx(wanted, abs=0.02)


def test_first_layer_has_accumulated_nothing(report):
    first, second, _ = report.layers
    assert first.accumulated_db == pytest.approx(first.local_db, abs=1e-6)
    assert second.accumulated_db < second.local_db


def test_end_to_end_is_the_compiled_networks(compiled, report, image):
    exact = Network().eval()(torch.from_numpy(image))
    for reference, result, row in zip(
        exact, compiled(torch.from_numpy(image)), report.outputs, strict=True
    ):
        # The references differ by float32's noise, far below the quantization's.
        assert row.sqnr_db == pytest.approx(
            sqnr_db(reference.detach().numpy(), result.numpy()), abs=0.05
        )
    assert compiled.report([image]) == report


def test_float_layers_lose_nothing_of_their_own(report):
    assert report.layers[2].local_db is None
    assert math.isfinite(report.layers[2].accumulated_db)


def test_without_inputs_noise_is_made_up(imported):
    (noise,) = random_inputs(imported.input_specs, seed=3)
    made_up = accuracy_report(imported, seed=3)
    assert made_up.inputs == "made up, seed 3"
    assert made_up.layers == accuracy_report(imported, [noise]).layers


def test_plan_is_what_is_measured(compiled, imported, report, image):
    layers = list(compiled.plan.layers)
    layers[1] = replace(
        layers[1], algorithm="float", tile=None, points=None, precision=None, group_size=None,
        scales=None, steps=None, weight_steps=None,
    )  # fmt: skip
    edited = accuracy_report(imported, [image], plan=Plan(tuple(layers)))
    assert edited.layers[0].local_db == report.layers[0].local_db
    assert edited.layers[1].local_db is None
    assert edited.outputs[0].sqnr_db != report.outputs[0].sqnr_db


def test_all_in_float_is_exact(imported, image):
    exact = accuracy_report(imported, [image], config=wqtvm.WinogradConfig(algorithm="float"))
    assert exact.worst is None
    assert {layer.accumulated_db for layer in exact.layers} == {math.inf}
    assert {output.sqnr_db for output in exact.outputs} == {math.inf}


def test_network_without_convolutions():
    report = accuracy_report(from_torch(nn.ReLU(), torch.zeros(3, 4)))
    assert report.layers == ()
    assert report.outputs == (OutputAccuracy("output", math.inf),)


def test_layer_that_is_called_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    report = accuracy_report(from_torch(Twice(), torch.zeros(SHAPE)))
    assert [layer.name for layer in report.layers] == ["conv", "conv#2"]


def test_wrong_arguments(imported, image):
    with pytest.raises(InputMismatchError, match="0 inputs are given"):
        accuracy_report(imported, [])
    with pytest.raises(ConfigError, match="matches no convolution"):
        accuracy_report(imported, [image], config=wqtvm.WinogradConfig(include=("nothing",)))
    native = best_of_host().architecture
    foreign = next(r for r in TABLE if r.architecture not in (native, "cuda"))
    with pytest.raises(TargetNotRunnableError, match=f"{foreign.name} is for"):
        accuracy_report(imported, [image], target=foreign)


@pytest.fixture
def invented() -> AccuracyReport:
    layers = (
        LayerAccuracy("a", "winograd", "F(4,3)", 40.0, 40.0),
        LayerAccuracy("b.0", "direct", "direct", math.nan, 31.25),
        LayerAccuracy("c", "float", "float", None, math.inf),
    )
    return AccuracyReport("wq/x86-vnni", "given", layers, (OutputAccuracy("output", 30.0),))


def test_text_marks_the_worst(invented):
    assert str(invented).splitlines() == [
        "layer   algorithm     local dB  accumulated dB",
        "a       F(4,3)            40.0            40.0",
        "b.0     direct             nan            31.2  <- worst",
        "c       float                -             inf",
        "output                                    30.0",
    ]
    assert decibel(None) == "-"


def test_text_has_predicted_times_where_there_are_any(invented):
    first, *others = invented.layers
    timed = replace(invented, layers=(replace(first, predicted_ms=1.2345), *others))
    assert str(timed).splitlines()[:3] == [
        "layer   algorithm     local dB  accumulated dB  predicted ms",
        "a       F(4,3)            40.0            40.0          1.23",
        "b.0     direct             nan            31.2             -  <- worst",
    ]


def test_json_has_no_numbers_that_json_lacks(invented):
    text = json.dumps(invented.to_dict(), allow_nan=False)
    document = json.loads(text)
    assert document["worst"] == "b.0"
    assert document["layers"][1]["local_db"] == "nan"
    assert document["layers"][2]["accumulated_db"] == "inf"
    assert document["layers"][0]["local_db"] == 40.0


def test_observed_layers_keep_their_names(imported):
    names = ["head", "tail"]
    observed = observe_layers(imported.module, names)
    variables = [binding.var.name for binding in bindings(observed["main"])]
    assert {"head", "body.0", "tail"} <= set(variables)
    shapes = [tuple(map(int, x.shape)) for x in observed["main"].ret_ty.fields[2].fields]
    assert shapes == [(1, 8, 12, 10), (1, 2, 12, 10)]
    alone = isolate_layers(imported.module, names)
    assert [binding.var.name for binding in bindings(alone["main"])] == names
    shapes = [tuple(map(int, x.ty.shape)) for x in alone["main"].params]
    assert shapes == [SHAPE, (1, 8, 12, 10)]
