"""What a user can get wrong, and that the message names the thing, the value and the remedy."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import wqtvm
from wqtvm import errors
from wqtvm.errors import (
    AlgorithmError,
    ConfigError,
    DynamicShapeError,
    ExportError,
    InputMismatchError,
    NonFiniteError,
    UnknownTargetError,
    UnsupportedDtypeError,
    UnsupportedOperatorError,
    WqtvmError,
)

IMAGE = torch.zeros(1, 3, 8, 8)


class Function(nn.Module):
    """A module of one function of its convolution and the input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.conv, x)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())


def with_weight(value: float) -> nn.Module:
    model = network()
    with torch.no_grad():
        model[0].weight[1, 2, 0, 1] = value
    return model


def config(**values: Any) -> Callable[[], object]:
    return lambda: wqtvm.compile(network(), IMAGE, config=wqtvm.WinogradConfig(**values))


def given(*inputs: Any) -> Callable[[], object]:
    return lambda: wqtvm.compile(network(), inputs)


def model(made: Any, *inputs: Any) -> Callable[[], object]:
    return lambda: wqtvm.compile(made, inputs or (IMAGE,))


def target(name: Any) -> Callable[[], object]:
    return lambda: wqtvm.compile(network(), IMAGE, target=name)


CASES: dict[str, tuple[Callable[[], object], type[WqtvmError], str]] = {
    # The configuration.
    "algorithm": (
        config(algorithm="fft"), ConfigError,
        r"algorithm is 'fft'; give one of 'auto', 'winograd', 'sfc', 'direct', 'float'",
    ),
    "tile": (config(tile=7), ConfigError, r"tile is 7; give one of 2, 3, 4, 5, 6"),
    "tile of a type": (config(tile="4"), ConfigError, r"tile is '4'; give one of 2, "),
    "tile that equals": (config(tile=4.0), ConfigError, r"tile is 4\.0; give one of 2, "),
    "tile of three": (config(tile=(4, 2, 2)), ConfigError, r"tile is \(4, 2, 2\); give one of 2, "),
    "tile as a list": (config(tile=[4, 2]), ConfigError, r"tile is \[4, 2\]; give one of 2, "),
    "rectangle of other points": (
        config(tile=(4, 2), points=("0", "1", "-1")), ConfigError, r"own are for square tiles",
    ),
    "rectangle of sfc": (
        config(algorithm="sfc", tile=(4, 6)), ConfigError, r"tile is \(4, 6\); give one of 4, 6",
    ),
    "tile of sfc": (
        config(algorithm="sfc", tile=3), ConfigError,
        r"with algorithm 'sfc', tile is 3; give one of 4, 6",
    ),
    "precision": (config(precision="int8"), ConfigError, r"precision is 'int8'; give one of"),
    "scales": (config(scales="best"), ConfigError, r"scales is 'best'; give one of .* the path of"),
    "steps": (config(steps=""), ConfigError, r"steps is ''; give one of 'channel', 'axis', 'tile'"),
    "weight steps": (config(weight_steps="x"), ConfigError, r"weight_steps is 'x'; give one of"),
    "group of three": (config(group_size=3), ConfigError, r"group_size is 3; give 0 .* of 4"),
    "negative group": (config(group_size=-4), ConfigError, r"group_size is -4; give 0"),
    "huge group": (config(group_size=2**20), ConfigError, r"group_size is 1048576; .* up to 4096"),
    "group of a type": (config(group_size="32"), ConfigError, r"group_size is '32'; give 0"),
    "include as text": (config(include="0"), ConfigError, r"include is '0'; give a tuple of texts"),
    "exclude as list": (config(exclude=["0"]), ConfigError, r"exclude is \['0'\]; give a tuple"),
    "include nothing": (
        config(include=("0", "conv*")), ConfigError,
        r"include pattern 'conv\*' matches no convolution; there are: 0$",
    ),
    "exclude nothing": (
        config(exclude=("head",)), ConfigError, r"exclude pattern 'head' matches no convolution",
    ),
    "points by name": (config(points="good"), ConfigError, r"points is 'good'; give one of 'best'"),
    "points of a type": (config(points=(0, 1, -1)), ConfigError, r"points is \(0, 1, -1\); give"),
    "too few points": (
        config(points=("0", "1")), AlgorithmError, r"F\(4,3\): 2 finite points .* 5 are needed",
    ),
    "point twice": (
        config(points=("0", "1", "-1", "2", "4/2")), AlgorithmError, r"point 2 is there twice",
    ),
    "point that is none": (
        config(points=("0", "1", "-1", "2", "1/0")), AlgorithmError, r"'1/0' is not a rational",
    ),
    "points too fine": (
        config(points=("0", "7/3", "-7/3", "3/11", "-3/11"), precision="full"), ConfigError,
        r"B\^T has the integer 6010; precision 'full' is exact up to 127: choose simpler points",
    ),
    "config of a type": (
        lambda: wqtvm.compile(network(), IMAGE, config={"tile": 2}), ConfigError,
        r"config is a dict; give a wqtvm\.WinogradConfig",
    ),
    # The target.
    "misspelt target": (
        target("wq/x86-vni"), UnknownTargetError,
        r"target is 'wq/x86-vni'; known targets: wq, .*Did you mean 'wq/x86-vnni'\?",
    ),
    "target of TVM": (target("llvm"), UnknownTargetError, r"target is 'llvm'; known targets: wq,"),
    "no target": (target(None), UnknownTargetError, r"target None is none of wqtvm's; known"),
    # The example inputs.
    "no inputs": (
        lambda: wqtvm.compile(network()), InputMismatchError,
        r"example_inputs is missing; give a tuple of tensors",
    ),
    "too few inputs": (given(), InputMismatchError, r"Sequential does not accept .* \(\): "),
    "too many inputs": (given(IMAGE, IMAGE), InputMismatchError, r"does not accept the example"),
    "numpy input": (given(np.zeros((1, 3, 8, 8))), InputMismatchError, r"does not accept the"),
    "channels": (given(IMAGE[:, :2]), InputMismatchError, r"\[1, 2, 8, 8\].* 3 channels"),
    "float64 input": (given(IMAGE.double()), InputMismatchError, r"does not accept the example"),
    "no images": (given(IMAGE[:0]), ConfigError, r"layer 0: input_shape is \(0, 3, 8, 8\); give"),
    "smaller than the kernel": (
        model(nn.Conv2d(3, 8, 3), IMAGE[..., :2]), InputMismatchError, r"does not accept the",
    ),
    # The model.
    "no module": (model(torch.relu), ExportError, r"model is <built-in .*relu.*; give a torch\.nn"),
    "a class": (model(nn.ReLU), ExportError, r"model is <class .*ReLU'>; give a torch\.nn\.Module"),
    "NaN weight": (
        model(with_weight(float("nan"))), NonFiniteError,
        r"weight '0\.weight' has 1 NaN or infinite .* nan at index \(1, 2, 0, 1\); was the check",
    ),
    "infinite weight": (
        model(with_weight(float("-inf"))), NonFiniteError, r"'0\.weight' .* -inf at index",
    ),
    "half precision": (
        model(nn.Conv2d(3, 8, 3).half(), IMAGE.half()), UnsupportedDtypeError,
        r"'weight' is torch\.float16; .*: call model\.float\(\)",
    ),
    "double precision": (
        model(nn.Conv2d(3, 8, 3).double(), IMAGE.double()), UnsupportedDtypeError,
        r"'input' is torch\.float64; give torch\.float32",
    ),
    "branch on data": (
        model(Function(lambda conv, x: conv(x) if x.sum() > 0 else x)), ExportError,
        r"torch\.export cannot capture Function: .*data-dependent",
    ),
    "shape from data": (
        model(Function(lambda _, x: torch.nonzero(x))), DynamicShapeError,
        r"aten\.nonzero\.default .* depends on the input; only shapes known at compile time",
    ),
    "unknown operator": (
        model(Function(lambda _, x: torch.fft.fft2(x).abs())), UnsupportedOperatorError,
        r"no import for aten\._fft_c2c.*Replace it in the model",
    ),
    "random numbers": (
        model(Function(lambda _, x: x + torch.rand_like(x))), UnsupportedOperatorError,
        r"draws random numbers; make them an input",
    ),
    "output that is a number": (
        model(Function(lambda conv, x: (conv(x), 3))), UnsupportedOperatorError,
        r"is no tensor; return tensors only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_message_names_thing_value_and_remedy(case):
    attempt, error, message = CASES[case]
    with pytest.raises(error, match=re.compile(message, re.DOTALL)) as raised:
        attempt()
    assert type(raised.value) is error
    assert raised.value.__module__ == errors.__name__


def test_every_error_is_a_wqtvm_error_and_says_what_it_is():
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) > 15
    for cls in classes:
        assert issubclass(cls, WqtvmError)
        assert inspect.getdoc(cls)


def test_the_model_is_left_as_it_was():
    made = network().train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    with pytest.raises(InputMismatchError):
        wqtvm.compile(made, (IMAGE, IMAGE))
    assert made.training
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name])
