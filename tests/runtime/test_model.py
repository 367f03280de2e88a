from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch
from tvm import relax

import wqtvm
from wqtvm.errors import ConfigError, InputMismatchError, TargetNotRunnableError
from wqtvm.tensor_spec import TensorSpec

# 27 products and a bias are summed in float32, in another order than torch does: 28 roundings of
# at most 2^-24 of sums of at most about 10.
TOLERANCE = {"rtol": 1e-5, "atol": 28 * 2**-24 * 10}


def expected(params: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    weight, bias = (torch.from_numpy(params[name]) for name in ("conv.weight", "conv.bias"))
    return torch.conv2d(torch.from_numpy(image), weight, bias.flatten(), padding=1).numpy()


@pytest.fixture
def model(make_model):
    return make_model()


def test_numpy_in_numpy_out(model, image):
    result = model(image)
    assert type(result) is np.ndarray
    np.testing.assert_allclose(result, expected(model.params, image), **TOLERANCE)


def test_torch_in_torch_out(model, image):
    result = model(torch.from_numpy(image))
    assert type(result) is torch.Tensor
    assert np.array_equal(result.numpy(), model(image))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: torch.cat((x[..., ::2], x[..., 1::2]), -1)[..., [0, 3, 1, 4, 2]],
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat((torch.zeros(1), x.flatten()))[1:].view(x.shape),  # not aligned
        lambda x: torch.nn.Parameter(x.clone()),
        lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,  # a view that negates
        lambda x: torch.stack((x, -x), -1)[..., 0],
    ],
)
def test_any_memory_layout_of_a_tensor(model, image, view):
    tensor = view(torch.from_numpy(image))
    assert torch.equal(tensor, torch.from_numpy(image))
    for _ in range(2):  # later calls tell plain tensors in another way
        result = model(tensor)
        assert np.array_equal(result.numpy(), model(image))
        assert not result.requires_grad
        model(torch.from_numpy(image).clone())


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
        lambda x: np.concatenate((np.zeros(1, x.dtype), x.ravel()))[1:].reshape(x.shape),
        lambda x: np.broadcast_to(x, (2, *x.shape))[0],
        lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),  # read-only
    ],
)
def test_any_memory_layout_of_an_array(model, image, view):
    assert np.array_equal(model(view(image)), model(image))


def test_input_stays_and_outputs_are_apart(model, image):
    tensor = torch.from_numpy(image.copy())
    first = model(tensor)
    kept = first.clone()
    assert np.array_equal(tensor.numpy(), image)
    second = model(2 * tensor)
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


def test_output_outlives_the_model(make_model, image):
    model = make_model(seed=3)
    result = model(torch.from_numpy(image))
    kept = result.clone()
    del model
    gc.collect()
    assert torch.equal(result, kept)


def test_nan_is_allowed(model, image):
    image[0, 1, 0, 0] = np.nan
    result = model(image)
    reached = np.zeros(result.shape, bool)
    reached[..., :2, :2] = True
    assert np.array_equal(np.isnan(result), reached)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"0 inputs are given; the network takes x: float32\[1, 3, 6, 5\]"),
        ((np.zeros((1, 3, 6, 5)),) * 2, r"2 inputs are given; the network takes x"),
        (([1.0],), r"input 'x' is a list; give a torch tensor or a numpy array, x: float32"),
        ((None,), r"input 'x' is a NoneType; give"),
        ((np.zeros((1, 3, 6, 5)),), r"'x' is float64; .* x: float32.*\.astype\('float32'\)"),
        ((np.zeros((1, 3, 6, 5), ">f4"),), r"'x' is >f4; .*\.astype\('float32'\)"),
        ((torch.zeros(1, 3, 6, 5).half(),), r"'x' is float16; .*\.to\(torch.float32\)"),
        ((torch.zeros(1, 3, 6, 4),), r"'x' has shape \[1, 3, 6, 4\]; .* \[1, 3, 6, 5\]"),
        ((torch.zeros(3, 6, 5),), r"'x' has shape \[3, 6, 5\]; .* \[1, 3, 6, 5\]"),
        ((torch.zeros(1, 3, 6, 5, device="meta"),), r"'x' is on meta .*\.cpu\(\)"),
        ((torch.zeros(1, 3, 6, 5).to_sparse(),), r"layout torch.sparse_coo; .*to_dense"),
    ],
)
def test_wrong_inputs(model, inputs, message):
    with pytest.raises(InputMismatchError, match=message):
        model(*inputs)


def add_and_subtract(x: relax.Expr, y: relax.Expr) -> relax.Expr:
    return relax.Tuple([relax.op.add(x, y), relax.op.subtract(x, y)])


def test_several_inputs_and_outputs(build_function):
    specs = [TensorSpec("a", (2, 3), "int64"), TensorSpec("b", (3,), "int64")]
    outputs = [TensorSpec("output0", (2, 3), "int64"), TensorSpec("output1", (2, 3), "int64")]
    model = build_function(add_and_subtract, specs, outputs, single_output=False)
    a, b = torch.arange(6).reshape(2, 3), torch.tensor([10, 20, 30])
    total, difference = model(a, b)
    assert torch.equal(total, a + b)
    assert torch.equal(difference, a - b)
    with pytest.raises(InputMismatchError, match="all of one kind"):
        model(a, b.numpy())
    with pytest.raises(InputMismatchError, match=r"'a' has shape \[3\]"):
        model(b, a)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_dtypes_and_scalars_in_a_container(build_function, dtype, shape):
    model = build_function(
        lambda x: relax.op.reshape(relax.op.expand_dims(x, 0), shape),
        [TensorSpec("x", shape, dtype)],
        [TensorSpec("output", shape, dtype)],
        single_output=False,
    )
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype)
    for value in (array, torch.from_numpy(array)):
        results = model(value)
        assert isinstance(results, tuple)
        (result,) = results
        assert type(result) is type(value)
        assert result.dtype == value.dtype
        assert result.shape == value.shape
        assert (result == value).all()


def test_network_without_inputs(build_function):
    model = build_function(
        lambda: relax.op.zeros((2,), "float32"), [], [TensorSpec("o", (2,), "float32")], True
    )
    assert model().tolist() == [0, 0]


def test_threads_take_turns(model, image):
    inputs = [image + i for i in range(4)]
    wanted = [model(x) for x in inputs]
    results = []

    def run(index: int) -> None:
        outcomes = [model(inputs[index]) for _ in range(20)]
        results.extend(np.array_equal(outcome, wanted[index]) for outcome in outcomes)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def test_parameters_are_copies(model, image):
    before = model(image)
    for value in model.params.values():
        value[:] = 0
    assert np.array_equal(model(image), before)
    assert list(model.params) == ["conv.weight", "conv.bias"]


def test_code_for_another_machine_is_not_run(make_model, image):
    model = make_model(target="wq/arm-neon")
    with pytest.raises(TargetNotRunnableError, match="wq/arm-neon is for aarch64"):
        model(image)


def test_report_needs_the_float_weights(model):
    with pytest.raises(ConfigError, match="no float weights"):
        model.report()


def test_repr_says_what_it_is(model):
    assert repr(model) == (
        f"<CompiledModel for {model.target.name}: convolutions: 1 float; "
        "takes x: float32[1, 3, 6, 5]; gives output: float32[1, 4, 6, 5]>"
    )


class Several(torch.nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.conv, self.count = torch.nn.Conv2d(3, 4, 3, padding=1), count

    def forward(self, x):
        y = self.conv(x)
        return (y, torch.relu(y), x)[: self.count]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_tuple_of_outputs_on_each_call(count):
    x = torch.randn(1, 3, 7, 9)
    compiled = wqtvm.compile(Several(count).eval(), x)
    first = [value.clone() for value in compiled(x)]
    again = compiled(x)
    compiled(torch.randn(1, 3, 7, 9))
    assert type(again) is tuple
    assert len(again) == len(first) == count
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
