"""Names of layers: where they come from, and that they survive TVM's passes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from wqtvm.frontend import from_torch, layer_name, name_layers
from wqtvm.frontend.names import LAYER_OPS, bindings, operator_name, unique_names

IMAGE = torch.ones(1, 4, 8, 8)


def names(module: tvm.IRModule, operators: frozenset[str] = LAYER_OPS) -> list[str]:
    return [
        layer_name(binding.var)
        for binding in bindings(module["main"])
        if operator_name(binding.value) in operators
    ]


def imported_names(model: nn.Module) -> list[str]:
    return names(from_torch(model, (IMAGE,)).module)


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


class Sum(nn.Module):
    """Calls its modules one after the other, and once more those that are in `again`."""

    def __init__(self, *parts: nn.Module, again: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.body = nn.ModuleList(parts)
        self.again = again

    def forward(self, x):
        for part in self.body:
            x = part(x)
        for index in self.again:
            x = x + self.body[index](x)
        return x


class Standardized(nn.Conv2d):
    """A convolution with computed weights."""

    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(4, 4, 3, 3))

    def forward(self, x):
        x = F.conv2d(x, self.first, padding=1)
        return F.conv2d(x, x.mean((0, 2, 3))[:, None, None, None].expand(4, 4, 1, 1))


def test_qualified_names():
    model = Sum(nn.Sequential(conv(), nn.ReLU(), conv()), nn.GroupNorm(2, 4), nn.Linear(8, 8))
    assert imported_names(model) == ["body.0.0", "body.0.2", "body.1", "body.2"]


def test_every_kind_of_layer():
    kinds = [nn.BatchNorm2d(4), nn.PReLU(4), nn.LayerNorm(8), nn.InstanceNorm2d(4)]
    assert imported_names(Sum(*kinds)) == ["body.0", "body.1", "body.2", "body.3"]
    assert imported_names(Sum(nn.ConvTranspose2d(4, 4, 2, 2))) == ["body.0"]


def test_module_called_again():
    assert imported_names(Sum(conv(), again=(0, 0))) == ["body.0", "body.0#2", "body.0#3"]


def test_modules_that_share_a_weight():
    first, second = conv(), conv()
    second.weight = first.weight
    assert imported_names(Sum(first, second)) == ["body.0", "body.1"]


def test_computed_weights():
    model = Sum(Standardized(4, 4, 3), weight_norm(conv()))
    assert imported_names(model) == ["body.0", "body.1"]


def test_functional_convolutions():
    assert imported_names(Sum(Functional())) == ["body.0.first", "body.0.convolution_1"]
    assert imported_names(Functional()) == ["first", "convolution_1"]


def test_attention():
    class Attention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x, need_weights=False)[0]

    model = nn.Sequential(nn.Flatten(2), Sum(Attention(64, 2, batch_first=True)))
    named = set(imported_names(model))
    assert {"1.body.0.in_proj_weight", "1.body.0.out_proj"} <= named


def test_root_module_is_named_after_the_node():
    assert imported_names(conv()) == ["convolution"]


def test_output_keeps_the_name_without_an_alias():
    module = from_torch(Sum(nn.Conv2d(4, 4, 3, bias=False)), (IMAGE,)).module
    (binding,) = bindings(module["main"])
    assert binding.var.name == "body.0"
    assert names(relax.transform.CanonicalizeBindings()(module)) == ["body.0"]


def test_two_outputs_of_one_layer():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, bias=False)

        def forward(self, x):
            y = self.conv(x)
            return y, y, torch.relu(y)

    module = from_torch(Twice(), (IMAGE,)).module
    assert names(module) == ["conv"]
    relax.analysis.well_formed(module)


PASSES = (
    relax.transform.DecomposeOpsForInference(),
    relax.transform.FoldConstant(),
    relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]}),
    relax.transform.FoldConstant(),
    relax.transform.CanonicalizeBindings(),
    relax.transform.EliminateCommonSubexpr(),
    relax.transform.DeadCodeElimination(),
    relax.transform.Normalize(),
    relax.transform.ToNonDataflow(),
    relax.transform.ConvertToDataflow(),
)


def test_names_survive_passes_and_json():
    model = Sum(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), again=(0,))
    module = from_torch(model, (IMAGE,)).module
    convolution = frozenset({"relax.nn.conv2d"})
    expected = ["body.0", "body.3", "body.0#2"]
    assert names(module, convolution) == expected
    for step in PASSES:
        module = step(module)
        assert names(module, convolution) == expected, step.info.name
    reloaded = tvm.ir.load_json(tvm.ir.save_json(module))
    assert names(reloaded, convolution) == expected
    legalized = relax.transform.LegalizeOps()(module)
    assert set(expected) <= {b.var.name for b in bindings(legalized["main"])}


def test_module_from_plain_tvm_gets_the_names_of_its_variables():
    program = torch.export.export(Sum(conv(), conv()).eval(), (IMAGE,))
    module = from_exported_program(program, unwrap_unit_return_tuple=True)
    assert names(name_layers(module)) == names(module) == ["lv", "lv3"]
    # ConvertLayout emits variables of the same names.
    clashing = relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]})(module)
    unique = names(name_layers(clashing))
    assert len(set(unique)) == 2


def test_named_module_is_left_as_it_is():
    module = from_torch(Sum(conv(), conv(), again=(0,)), (IMAGE,)).module
    again = name_layers(module)
    tvm.ir.assert_structural_equal(again, module)
    assert again["main"].same_as(module["main"])


@pytest.mark.parametrize(
    ("given", "unique"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a#2", "a#3"]),
        (["a", "a#2", "a"], ["a", "a#2", "a#3"]),
        (["a", "a", "a#2"], ["a", "a#2", "a#2#2"]),
    ],
)
def test_unique_names(given, unique):
    assert unique_names(given) == unique
