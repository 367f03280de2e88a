from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

import wqtvm  # noqa: F401  # registers the targets
from wqtvm.config import WinogradConfig
from wqtvm.quantization.plan import LayerPlan, Plan, Reason
from wqtvm.runtime.model import CompiledModel
from wqtvm.target import TargetRecord, lookup
from wqtvm.tensor_spec import TensorSpec

INPUT = (1, 3, 6, 5)
WEIGHT = (4, 3, 3, 3)
OUTPUT = (1, 4, 6, 5)


def weights(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal(WEIGHT, dtype=np.float32)
    bias = generator.standard_normal((1, 4, 1, 1), dtype=np.float32)
    return {"conv.weight": weight, "conv.bias": bias}


def plan() -> Plan:
    layer = LayerPlan(
        "conv", INPUT, WEIGHT, (1, 1), (1, 1), (1, 1), 1,
        "float", None, None, None, None, None, None, None, Reason.EXCLUDED, "matches 'conv'",
    )  # fmt: skip
    return Plan((layer,))


def executable(target: TargetRecord) -> relax.VMExecutable:
    """Build conv(x) + bias, by TVM alone."""
    builder = relax.BlockBuilder()
    x, weight, bias = (
        relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in (("x", INPUT), ("weight", WEIGHT), ("bias", (1, 4, 1, 1)))
    )
    with builder.function("main", [x, weight, bias]):
        convolved = builder.emit(relax.op.nn.conv2d(x, weight, padding=1))
        builder.emit_func_output(relax.op.add(convolved, bias))
    return relax.build(builder.get(), target=target.tvm_target())


@pytest.fixture(scope="session")
def host_executable() -> relax.VMExecutable:
    return executable(lookup("wq"))


@pytest.fixture(scope="session")
def make_model(host_executable: relax.VMExecutable) -> Callable[..., CompiledModel]:
    """Make a compiled network without the rest of wqtvm: conv(x) + bias in float."""

    def make(seed: int = 0, target: str = "wq") -> CompiledModel:
        record = lookup(target)
        built = host_executable if record == lookup("wq") else executable(record)
        return CompiledModel(
            built,
            weights(seed),
            plan=plan(),
            config=WinogradConfig(exclude=("conv",)),
            target=record,
            input_specs=[TensorSpec("x", INPUT, "float32")],
            output_specs=[TensorSpec("output", OUTPUT, "float32")],
            single_output=True,
        )

    return make


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(INPUT, dtype=np.float32)


@pytest.fixture(scope="session")
def build_function() -> Callable[..., CompiledModel]:
    """Compile a function from Relax variables to an expression, or a tuple of them."""

    def build(
        function: Callable[..., relax.Expr],
        inputs: list[TensorSpec],
        outputs: list[TensorSpec],
        single_output: bool,
    ) -> CompiledModel:
        builder = relax.BlockBuilder()
        variables = [relax.Var(s.name, relax.TensorType(s.shape, s.dtype)) for s in inputs]
        with builder.function("main", variables):
            builder.emit_func_output(builder.normalize(function(*variables)))
        target = lookup("wq")
        return CompiledModel(
            relax.build(builder.get(), target=tvm.target.Target(target.config())),
            {},
            plan=Plan(()),
            config=WinogradConfig(),
            target=target,
            input_specs=inputs,
            output_specs=outputs,
            single_output=single_output,
        )

    return build
