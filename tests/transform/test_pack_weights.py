"""Weights of float layers, packed while a network is compiled."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
import tvm
from float_functions import random, tolerance
from tvm import relax

from wqtvm.target import lookup
from wqtvm.transform.externalize_constants import externalize_constants
from wqtvm.transform.pack_weights import PACKING, evaluate_packing
from wqtvm.transform.pipeline import finish, optimize

X, W, BIAS = random(1, 3, 5, 700), random(3, 3, 700, 17, seed=1), random(1, 1, 1, 17, seed=2)
RECORD = lookup("wq/x86-avx2")


def network() -> tvm.IRModule:
    """Two convolutions with the same weights and bias, of strides 1 and 2."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(X.shape, "float32"))
    weight, bias = relax.const(W), relax.const(BIAS)
    with builder.function("main", [x]):
        with builder.dataflow():
            results = []
            for stride in (1, 2):
                y = relax.op.nn.conv2d(
                    x, weight, stride, 1, data_layout="NHWC", kernel_layout="HWIO"
                )
                results.append(builder.emit(relax.op.nn.relu(relax.op.add(y, bias))))
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    return builder.get()


def run(module: tvm.IRModule, params: dict[str, np.ndarray]) -> list[np.ndarray]:
    executable = relax.build(finish(module), target=RECORD.tvm_target(), relax_pipeline=None)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    values = [tvm.runtime.tensor(np.ascontiguousarray(v)) for v in (X, *params.values())]
    return [result.numpy() for result in main(*values)]


def check(results: list[np.ndarray]) -> None:
    x, w = torch.from_numpy(X).permute(0, 3, 1, 2), torch.from_numpy(W).permute(3, 2, 0, 1)
    for stride, result in zip((1, 2), results, strict=True):
        exact = F.conv2d(x.double(), w.double(), torch.from_numpy(BIAS.ravel()).double(), stride, 1)
        expected = exact.relu().permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(result, expected, **tolerance(9 * 700))


def has_packing(module: tvm.IRModule) -> bool:
    return any(PACKING in (function.attrs or {}) for function in module.functions.values())


def test_parameters_are_packed_once_under_their_names() -> None:
    module, constants = externalize_constants(network())
    params = {name: np.asarray(value) for name, value in constants.items()}
    with RECORD.tvm_target():
        optimized = optimize(module, RECORD)
        packed, values = evaluate_packing(optimized, params)
        assert has_packing(optimized)
        assert not has_packing(packed)
        assert set(params) <= set(values)
        assert len(packed["main"].params) == 1 + len(values)
        check(run(packed, values))
        check(run(optimized, params))  # at each run


def test_constants_are_packed_in_place() -> None:
    with RECORD.tvm_target():
        packed, values = evaluate_packing(optimize(network(), RECORD), {})
        assert not values
        assert not has_packing(packed)
        check(run(packed, {}))
