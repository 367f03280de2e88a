from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import relax

import wqtvm
from wqtvm.target import best_of_host
from wqtvm.transform.legalize_operators import LEGALIZATIONS

SPECIAL = [np.nan, -np.inf, np.inf, -0.0, 0.0, -1.5, 1.5, 1e-40, 7.0]


def run(operator, values: np.ndarray) -> np.ndarray:
    """Legalize and run one operator; the array is long enough for vectors and a remainder."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(values.shape, str(values.dtype)))
    with builder.function("main", [x]):
        builder.emit_func_output(operator(x))
    legalize = relax.transform.LegalizeOps(customize_legalize_map=LEGALIZATIONS)
    built = relax.build(legalize(builder.get()), target=best_of_host().tvm_target())
    return relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(values)).numpy()


@pytest.mark.parametrize(
    ("operator", "reference"),
    [
        (relax.op.nn.relu, torch.relu),
        (lambda x: relax.op.clip(x, -1, 1), lambda x: torch.clamp(x, -1, 1)),
        (lambda x: relax.op.clip(x, -np.inf, 6.0), lambda x: torch.clamp(x, max=6)),
        (lambda x: relax.op.clip(x, 0.5, np.inf), lambda x: torch.clamp(x, min=0.5)),
        (lambda x: relax.op.clip(x, -np.inf, np.inf), lambda x: x),
    ],
)
def test_floats_as_in_pytorch(operator, reference):
    values = np.resize(np.array(SPECIAL, np.float32), 67)
    wanted = reference(torch.from_numpy(values)).numpy()
    assert np.isnan(wanted[0])
    np.testing.assert_array_equal(run(operator, values), wanted)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float16"])
def test_other_dtypes(dtype):
    values = np.arange(-20, 20).astype(dtype)
    for operator, wanted in (
        (relax.op.nn.relu, np.maximum(values, 0)),
        (lambda x: relax.op.clip(x, -3, 5), np.clip(values, -3, 5)),
    ):
        result = run(operator, values)
        assert result.dtype == values.dtype
        assert np.array_equal(result, wanted)


@pytest.mark.parametrize("algorithm", ["winograd", "direct", "float"])
def test_nan_comes_out_of_a_network(algorithm):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1), nn.ReLU6()
    )
    x = torch.randn(1, 4, 12, 12)
    x[0, 1, 5, 6] = torch.nan
    config = wqtvm.WinogradConfig(algorithm=algorithm)
    result = wqtvm.compile(network, x, config=config)(x)
    # int8 spreads it further, to the whole tiles that read it.
    missing = network(x).isnan() & ~result.isnan()
    assert not missing.any()
    assert result[..., :1, :].isfinite().all()
