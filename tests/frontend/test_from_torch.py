"""What `from_torch` gives, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wqtvm.errors import (
    DynamicShapeError,
    ExportError,
    InputMismatchError,
    NonFiniteError,
    UnsupportedDtypeError,
    UnsupportedOperatorError,
)
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings, operator_name
from wqtvm.tensor_spec import TensorSpec

IMAGE = torch.ones(1, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)))


class Function(nn.Module):
    def __init__(self, function, submodule=None) -> None:
        super().__init__()
        self.function = function
        self.inner = submodule

    def forward(self, *inputs):
        return self.inner(*inputs) if self.inner is not None else self.function(*inputs)


def export(model, *inputs, **options):
    return torch.export.export(model.eval(), inputs, **options)


def test_inputs_and_outputs():
    model = Function(lambda image, index: (image + 1, [index * 2]))
    imported = from_torch(model, (IMAGE, torch.tensor([3, 4])))
    names = [spec.name for spec in imported.input_specs]
    assert [(spec.shape, spec.dtype) for spec in imported.input_specs] == [
        ((1, 3, 8, 8), "float32"),
        ((2,), "int64"),
    ]
    assert names == [param.name for param in imported.module["main"].params]
    assert imported.output_specs == (
        TensorSpec("output0", (1, 3, 8, 8), "float32"),
        TensorSpec("output1", (2,), "int64"),
    )
    assert not imported.single_output


def test_one_output_bare_or_in_a_container():
    bare = from_torch(Function(torch.relu), IMAGE)
    contained = from_torch(Function(lambda x: {"y": torch.relu(x)}), (IMAGE,))
    assert bare.output_specs == contained.output_specs
    assert bare.output_specs == (TensorSpec("output", (1, 3, 8, 8), "float32"),)
    assert bare.single_output
    assert not contained.single_output


def test_an_exported_program_is_the_same_module():
    model = Net().eval()
    program = export(model, IMAGE)
    imported = from_torch(program)
    assert imported.input_specs == (TensorSpec("x", (1, 3, 8, 8), "float32"),)
    for other in (from_torch(program, (IMAGE,)), from_torch(model, (IMAGE,))):
        assert str(other.module) == str(imported.module)
        assert other.input_specs == imported.input_specs


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_whatever_the_flag_which_stays(training):
    model = Net().train(training)
    model.conv.training = not training
    before = model.norm.running_mean.clone()
    module = from_torch(model, (IMAGE,)).module
    (norm,) = (
        binding.value
        for binding in bindings(module["main"])
        if operator_name(binding.value) == "relax.nn.batch_norm"
    )
    assert not norm.attrs.training
    assert model.training is training
    assert model.norm.training is training
    assert model.conv.training is not training
    assert torch.equal(model.norm.running_mean, before)


def test_train_is_not_called():
    class Merging(Net):
        def train(self, mode: bool = True):
            raise AssertionError("train() may change weights")

    from_torch(Merging(), (IMAGE,))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weight_that_is_not_finite(value):
    model = Net()
    with torch.no_grad():
        model.conv.weight[1, 2, 0, 1] = value
        model.conv.weight[3] = value
    message = rf"weight 'conv.weight' has 28 .* of 108, the first {value} at index \(1, 2, 0, 1\)"
    with pytest.raises(NonFiniteError, match=message):
        from_torch(model, (IMAGE,))


def test_statistics_that_are_not_finite():
    model = Net()
    model.norm.running_var[2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"norm.running_var.*index \(2,\)"):
        from_torch(model, (IMAGE,))


def test_mask_of_minus_infinity_is_no_weight():
    mask = torch.zeros(8, 8).masked_fill(torch.eye(8).bool(), -torch.inf)
    from_torch(Function(lambda x: (x + mask).softmax(-1)), (IMAGE,))


def test_unused_weight_is_not_looked_at():
    model = Function(torch.relu)
    model.register_buffer("unused", torch.tensor([torch.nan]))
    from_torch(model, (IMAGE,))


def test_dynamic_input():
    batch = torch.export.Dim("batch", min=2, max=8)
    program = export(Net(), torch.ones(2, 3, 8, 8), dynamic_shapes={"x": {0: batch}})
    with pytest.raises(DynamicShapeError, match=r"axis 0 of input 'x' .* without dynamic_shapes"):
        from_torch(program)


def test_shape_that_depends_on_data():
    with pytest.raises(DynamicShapeError, match=r"aten.nonzero.default at node 'nonzero'"):
        from_torch(Function(lambda x: x.nonzero()), (IMAGE,))


def test_unsupported_operators_are_listed_with_their_modules():
    inner = Function(lambda x: torch.fft.rfft2(x).abs() + torch.linalg.det(x)[..., None, None])
    with pytest.raises(UnsupportedOperatorError) as error:
        from_torch(Function(None, inner), (IMAGE,))
    for part in ("aten._fft_r2c.default in module 'inner'", "aten._linalg_det.default"):
        assert part in str(error.value)


def test_failing_conversion_names_operator_and_module():
    inner = Function(lambda x: F.avg_pool2d(x, 2, divisor_override=3))
    message = r"aten.avg_pool2d.default in module 'inner' .*cannot be imported: divisor"
    with pytest.raises(UnsupportedOperatorError, match=message) as error:
        from_torch(Function(None, inner), (IMAGE,))
    assert error.value.__cause__ is not None


def test_conversion_to_another_shape_is_noticed():
    # TVM ignores the axes between two index tensors.
    message = r"aten.index.Tensor .*TVM's importer makes .* of float32\(1, 3, 3, 6, 3, 6\)"
    with pytest.raises(UnsupportedOperatorError, match=message):
        from_torch(Function(lambda x: F.unfold(x, 3)), (IMAGE,))


def test_half_precision():
    message = r"'conv.weight' is torch.float16.*float\(\).*images"
    with pytest.raises(UnsupportedDtypeError, match=message):
        from_torch(Net().half(), (IMAGE.half(),))
    with pytest.raises(UnsupportedDtypeError, match=r"input 'x' is torch.bfloat16"):
        from_torch(Net().bfloat16(), (IMAGE.bfloat16(),))


def test_double_precision_inside():
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8).double()

        def forward(self, x):
            return self.linear(x.double()).float()

    with pytest.raises(UnsupportedDtypeError, match=r"'linear.weight' is torch.float64.*float\(\)"):
        from_torch(Inside(), (IMAGE,))


def test_weights_on_another_device():
    program = export(Net().to("meta"), IMAGE.to("meta"))
    with pytest.raises(InputMismatchError, match=r"'conv.weight' is on meta; call model.cpu"):
        from_torch(program)


def test_wrong_example_inputs():
    with pytest.raises(InputMismatchError, match=r"Net .* \(torch.Size\(\[3\]\)\): ") as error:
        from_torch(Net(), (torch.ones(3),))
    assert error.value.__cause__ is not None
    with pytest.raises(InputMismatchError, match="example_inputs is missing"):
        from_torch(Net())
    with pytest.raises(InputMismatchError, match="not a tensor"):
        from_torch(Function(lambda x, factor: x * factor), (IMAGE, 3))


def test_example_inputs_that_the_program_was_not_exported_for():
    program = export(Net(), IMAGE)
    with pytest.raises(InputMismatchError, match="takes 1 inputs, the example has 2"):
        from_torch(program, (IMAGE, IMAGE))
    with pytest.raises(InputMismatchError, match=r"\[1, 3, 8, 8\]; .*\[1, 3, 9, 8\]"):
        from_torch(program, (torch.ones(1, 3, 9, 8),))


def test_model_that_cannot_be_captured():
    def branch(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match=r"torch.export cannot capture Function") as error:
        from_torch(Function(branch), (IMAGE,))
    assert error.value.__cause__ is not None


def test_program_in_training_mode():
    program = torch.export.export(nn.Sequential(nn.Dropout(0.5)).train(), (IMAGE,))
    with pytest.raises(UnsupportedOperatorError, match=r"dropout.default in module '0' .*eval"):
        from_torch(program)
    program = torch.export.export(nn.Sequential(nn.BatchNorm2d(3)).train(), (IMAGE,))
    with pytest.raises(UnsupportedOperatorError, match=r"batch_norm.default in module '0'"):
        from_torch(program)


def test_state():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            return x * self.count

    with pytest.raises(UnsupportedOperatorError, match=r"'count'.*has no state"):
        from_torch(Counter(), (IMAGE,))


def test_output_that_is_no_tensor():
    with pytest.raises(UnsupportedOperatorError, match="return tensors only"):
        from_torch(Function(lambda x: (x + 1, 3)), (IMAGE,))
