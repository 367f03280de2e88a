"""Small float graphs in Relax: built, scheduled by the generic rules, compiled and run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from kernel_assembly import Assembly, assembly_of
from numpy.typing import NDArray
from tvm import relax, tirx

from wqtvm.target import lookup
from wqtvm.transform.legalize_operators import LEGALIZATIONS
from wqtvm.transform.pipeline import finish
from wqtvm.transform.schedule_generic_cpu import schedule_generic_cpu

Build = Callable[..., relax.Expr]
Arrays = Sequence[NDArray[Any]]

# Exactly rounded, these are the sums' last bits: see `tolerance`.
_EPSILON = 2.0**-24


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tolerance(summed: int) -> dict[str, float]:
    """For sums of so many products of unit variance, compared with exact ones.

    The partial sums stay below 4 sqrt(n), each of n additions rounds that by 2^-24 of its value,
    and n random errors grow like sqrt(n): 4 sqrt(n) 2^-24 sqrt(n).
    """
    return {"rtol": 1e-6, "atol": 4 * _EPSILON * max(summed, 1)}


def fused(build: Build, arrays: Arrays) -> tvm.ir.IRModule:
    """The graph as functions of fused operators that have no schedule."""
    builder = relax.BlockBuilder()
    variables = [
        relax.Var(f"input{i}", relax.TensorType(array.shape, str(array.dtype)))
        for i, array in enumerate(arrays)
    ]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(*variables)))
        builder.emit_func_output(result)
    passes = [
        relax.transform.LegalizeOps(customize_legalize_map=LEGALIZATIONS),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(passes)(builder.get())


def scheduled(build: Build, arrays: Arrays, target: tvm.target.Target) -> tvm.ir.IRModule:
    with target:
        return schedule_generic_cpu(fused(build, arrays))


def functions(module: tvm.ir.IRModule) -> dict[str, tirx.PrimFunc]:
    found = module.functions_items()
    return {name.name_hint: f for name, f in found if isinstance(f, tirx.PrimFunc)}


def compiled(build: Build, arrays: Arrays, target: str) -> Callable[[], Any]:
    """The graph as a callable with its inputs bound."""
    tvm_target = lookup(target).tvm_target()
    with tvm_target:
        module = finish(scheduled(build, arrays, tvm_target))
    executable = tvm.compile(module, target=tvm_target, relax_pipeline=None)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    values = [tvm.runtime.tensor(array) for array in arrays]
    return lambda: main(*values)


def run(build: Build, arrays: Arrays, target: str) -> NDArray[Any]:
    return compiled(build, arrays, target)().numpy()


def assembly(build: Build, arrays: Arrays, target: str) -> Assembly:
    """The graph's only function in the assembly of a target."""
    tvm_target = lookup(target).tvm_target()
    (function,) = functions(scheduled(build, arrays, tvm_target)).values()
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return assembly_of(tvm.compile(module, target=tvm_target))
