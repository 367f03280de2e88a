from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import tvm
import tvm_ffi
from kernel_layers import X86
from torch import nn
from torch.nn import functional
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import wqtvm
from wqtvm.frontend import from_torch
from wqtvm.frontend.names import bindings
from wqtvm.quantization import sqnr_db
from wqtvm.target import lookup
from wqtvm.transform import pipeline
from wqtvm.transform.narrow_images import narrow_images
from wqtvm.transform.plan_convolutions import plan_convolutions
from wqtvm.transform.uses import tir_call

TARGETS = [*X86, pytest.param("wq/x86-avx-vnni", marks=pytest.mark.isa("avx_vnni"))]
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
each_dtype = pytest.mark.parametrize("dtype", list(TORCH))
ALGORITHMS = {
    "winograd": {},
    "full": {"precision": "full"},
    "direct": {"algorithm": "direct"},
    "image": {"algorithm": "direct", "activation_steps": "image"},
    "float": {"algorithm": "float"},
}
SIZE = 1 << 14
COUNT = 12000


def stored(module: tvm.IRModule) -> dict[str, str]:
    """The dtypes of what is bound in ``@main``."""
    return {b.var.name: str(b.var.ty.dtype) for b in bindings(module["main"])}


def test_what_passes_between_functions_is_narrow() -> None:
    @I.ir_module
    class Before:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((SIZE,), "float32")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = x[v] * T.float32(2)

        @R.function
        def main(x: R.Tensor((SIZE,), "float32")) -> R.Tensor((SIZE,), "float32"):
            cls = Before
            with R.dataflow():
                a = R.call_tir(cls.double, (x,), out_ty=R.Tensor((SIZE,), "float32"))
                b = R.call_tir(cls.double, (a,), out_ty=R.Tensor((SIZE,), "float32"))
                c = R.call_tir(cls.double, (b,), out_ty=R.Tensor((SIZE,), "float32"))
                R.output(c)
            return c

    @I.ir_module
    class Expected:
        @T.prim_func(private=True, s_tir=True)
        def double_narrow(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((SIZE,), "float16")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = T.Cast("float16", x[v] * T.float32(2))

        @T.prim_func(private=True, s_tir=True)
        def double_narrow1(x: T.Buffer((SIZE,), "float16"), y: T.Buffer((SIZE,), "float16")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = T.Cast("float16", T.Cast("float32", x[v]) * T.float32(2))

        @T.prim_func(private=True, s_tir=True)
        def double_narrow2(x: T.Buffer((SIZE,), "float16"), y: T.Buffer((SIZE,), "float32")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = T.Cast("float32", x[v]) * T.float32(2)

        @R.function
        def main(x: R.Tensor((SIZE,), "float32")) -> R.Tensor((SIZE,), "float32"):
            cls = Expected
            with R.dataflow():
                a = R.call_tir(cls.double_narrow, (x,), out_ty=R.Tensor((SIZE,), "float16"))
                b = R.call_tir(cls.double_narrow1, (a,), out_ty=R.Tensor((SIZE,), "float16"))
                c = R.call_tir(cls.double_narrow2, (b,), out_ty=R.Tensor((SIZE,), "float32"))
                R.output(c)
            return c

    tvm.ir.assert_structural_equal(narrow_images(Before, "float16"), Expected, True)


@each_dtype
def test_what_it_leaves_alone(dtype: str) -> None:
    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((SIZE,), "float32")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = x[v] * T.float32(2)

        @T.prim_func(private=True, s_tir=True)
        def sums(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((SIZE,), "float32")):
            for i, k in T.grid(SIZE, 2):
                with T.sblock("y"):
                    v, _r = T.axis.remap("SR", [i, k])
                    with T.init():
                        y[v] = T.float32(0)
                    y[v] = y[v] + x[v]

        @T.prim_func(private=True, s_tir=True)
        def small(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((64,), "float32")):
            for i in range(64):
                with T.sblock("y"):
                    v = T.axis.spatial(64, i)
                    y[v] = x[v]

        @T.prim_func(private=True, s_tir=True)
        def again(x: T.Buffer((64,), "float32"), y: T.Buffer((SIZE,), "int32")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = T.Cast("int32", x[v % 64])

        @T.prim_func(private=True, s_tir=True)
        def product(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((SIZE,), "float32")):
            for i, k in T.grid(SIZE, 2):
                with T.sblock("contraction_sum"):
                    v, _r = T.axis.remap("SR", [i, k])
                    with T.init():
                        y[v] = T.float32(0)
                    y[v] = y[v] + x[v] * T.float32(3)

        @R.function
        def main(x: R.Tensor((SIZE,), "float32")):
            cls = Module
            with R.dataflow():
                accumulated = R.call_tir(cls.sums, (x,), out_ty=R.Tensor((SIZE,), "float32"))
                few = R.call_tir(cls.small, (accumulated,), out_ty=R.Tensor((64,), "float32"))
                integers = R.call_tir(cls.again, (few,), out_ty=R.Tensor((SIZE,), "int32"))
                operand = R.call_tir(cls.double, (x,), out_ty=R.Tensor((SIZE,), "float32"))
                result = R.call_tir(cls.product, (operand,), out_ty=R.Tensor((SIZE,), "float32"))
                paired = R.call_tir(cls.double, (x,), out_ty=R.Tensor((SIZE,), "float32"))
                both = (paired, result, integers)
                R.output(both)
            return both

    after = narrow_images(Module, dtype)
    tvm.ir.assert_structural_equal(after, Module)


@pytest.mark.parametrize("target", TARGETS)
@each_dtype
def test_rounding_is_that_of_pytorch(target: str, dtype: str) -> None:
    """Ties, subnormal numbers, overflow, infinities and NaN."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(0, 1 << 32, (COUNT,), generator=generator)
    x = bits.to(torch.int32).view(torch.float32)  # every kind of number
    halves = torch.arange(-512, 512).float() / 256 + 256  # between two of bfloat16
    special = [float("inf"), -float("inf"), float("nan"), 0.0, -0.0, 1e-40, 65519.0, 65520.0, 3e38]
    x[:1024] = halves
    x[1024 : 1024 + len(special)] = torch.tensor(special)

    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def once(x: T.Buffer((COUNT,), "float32"), y: T.Buffer((COUNT,), "float32")):
            for i in range(COUNT // 16):
                for j in T.vectorized(16):
                    with T.sblock("y"):
                        v = T.axis.spatial(COUNT, i * 16 + j)
                        y[v] = x[v] * T.float32(-1)

        @R.function
        def main(x: R.Tensor((COUNT,), "float32")) -> R.Tensor((COUNT,), "float32"):
            cls = Module
            with R.dataflow():
                a = R.call_tir(cls.once, (x,), out_ty=R.Tensor((COUNT,), "float32"))
                b = R.call_tir(cls.once, (a,), out_ty=R.Tensor((COUNT,), "float32"))
                R.output(b)
            return b

    with lookup(target).tvm_target() as built_for:
        finished = pipeline.finish(narrow_images(Module, dtype))
    executable = relax.build(finished, target=built_for, relax_pipeline=None)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    actual = main(tvm.runtime.tensor(x.numpy())).numpy()
    # Multiplied by minus one, a subnormal number stays what it is.
    np.testing.assert_array_equal(actual, x.to(TORCH[dtype]).float().numpy())


class Two(nn.Module):
    """Two convolutions, a residual and an activation with an exponential."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, hidden, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.silu(self.first(x))
        return functional.relu(y + self.second(y))


@pytest.mark.parametrize("target", X86)
@each_dtype
@pytest.mark.parametrize(
    ("algorithm", "shape", "hidden"),
    [
        ("winograd", (1, 3, 29, 31), 17),
        ("winograd", (3, 33, 17, 14), 24),
        ("full", (1, 3, 29, 31), 17),
        ("direct", (3, 33, 17, 14), 24),
        ("image", (1, 3, 29, 31), 17),
        ("float", (1, 17, 23, 26), 100),
    ],
)
def test_layers_compute_what_they_do_of_rounded_images(
    target: str, dtype: str, algorithm: str, shape: tuple[int, ...], hidden: int
) -> None:
    model = Two(shape[1], hidden).eval()
    x = torch.randn(shape)

    def compiled(module: nn.Module, given: torch.Tensor, images: str) -> torch.Tensor:
        config = wqtvm.WinogradConfig(**ALGORITHMS[algorithm], images=images)
        return wqtvm.compile(module, (given,), target=target, config=config)(given)

    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = model.second

        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return functional.relu(y + self.second(y))

    y = compiled(nn.Sequential(model.first, nn.SiLU()).eval(), x, "float32")
    expected = compiled(Second().eval(), y.to(TORCH[dtype]).float(), "float32")
    actual = compiled(model, x, dtype)
    if algorithm == "float":  # a product reads what is float32 still
        assert sqnr_db(expected.numpy(), actual.numpy()) > 40
    else:
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())


def optimized(target: str, images: str) -> tvm.IRModule:
    record = lookup(target)
    x = torch.zeros(1, 16, 40, 44)
    prepared = pipeline.prepare(from_torch(Two(16, 32).eval(), (x,)).module)
    plan = plan_convolutions(prepared, wqtvm.WinogradConfig())
    lowered = pipeline.quantize(prepared, plan, record, threads=2)
    with record.tvm_target():
        return pipeline.optimize(lowered, record, images)


@pytest.mark.parametrize(
    ("target", "widen", "round_"),
    [
        ("wq/x86-vnni", "vcvtph2ps", "vcvtps2ph"),
        ("wq/x86-avx2", "vcvtph2ps", "vcvtps2ph"),
        ("wq/arm-neon", "fcvtl", "fcvtn"),
    ],
)
def test_float16_takes_an_instruction_each_way(target: str, widen: str, round_: str) -> None:
    module = optimized(target, "float16")
    functions = {
        name.name_hint: function.with_attr("global_symbol", name.name_hint)
        for name, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc) and "narrow" in name.name_hint
    }
    assert len(functions) >= 2
    library = tvm.compile(tvm.IRModule(functions), target=lookup(target).tvm_target())
    assembly = library.mod.inspect_source("asm")
    assert widen in assembly
    assert round_ in assembly
    # The functions are there, but nothing calls them.
    assert not re.search(r"(call\w*|bl)\s+__(extendhfsf2|truncsfhf2|gnu_[fh]2[fh])", assembly)


def test_a_conversion_to_the_dtype_of_images_vanishes() -> None:
    """Such as of a network that takes and gives float16."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1).half()

    torch.manual_seed(0)
    model, x = Half().eval(), torch.randn(1, 27, 25, 16).half()
    seen: list[tvm.IRModule] = []

    @tvm.instrument.pass_instrument
    class Look:
        def run_before_pass(self, module: tvm.IRModule, info: object) -> None:
            if info.name == "RewriteDataflowReshape":  # type: ignore[attr-defined]
                seen.append(module)

    with tvm.transform.PassContext(opt_level=3, instruments=[Look()]):
        narrow = wqtvm.compile(model, (x,), config=wqtvm.WinogradConfig(images="float16"))
    assert list(stored(seen[0]).values()) == ["float16"]
    wide = wqtvm.compile(model, (x,))
    assert narrow(x).dtype == torch.float16
    torch.testing.assert_close(narrow(x), wide(x), rtol=0, atol=0)


def test_a_result_that_is_narrow_already_is_given() -> None:
    """What the last function rounded to float16 is float16, and nothing has to copy it."""

    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((SIZE,), "float32")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = x[v] * T.float32(2)

        @T.prim_func(private=True, s_tir=True)
        def half(x: T.Buffer((SIZE,), "float32"), y: T.Buffer((SIZE,), "float16")):
            for i in range(SIZE):
                with T.sblock("y"):
                    v = T.axis.spatial(SIZE, i)
                    y[v] = T.Cast("float16", x[v])

        @R.function
        def main(x: R.Tensor((SIZE,), "float32")) -> R.Tensor((SIZE,), "float16"):
            cls = Module
            with R.dataflow():
                a = R.call_tir(cls.double, (x,), out_ty=R.Tensor((SIZE,), "float32"))
                b = R.call_tir(cls.half, (a,), out_ty=R.Tensor((SIZE,), "float16"))
                R.output(b)
            return b

    after = narrow_images(Module, "float16")
    relax.analysis.well_formed(after)  # or an error
    calls = [each.var for each in bindings(after["main"]) if tir_call(each.value) is not None]
    assert [(str(each.name), str(each.ty.dtype)) for each in calls] == [("a", "float16")]
    assert tvm_ffi.structural_equal(after["main"].ret_ty, Module["main"].ret_ty)


def test_a_gpu_is_refused() -> None:
    config = wqtvm.WinogradConfig(images="float16")
    with pytest.raises(wqtvm.errors.ConfigError, match="images is 'float16', which is for CPUs"):
        wqtvm.compile(Two(3, 8).eval(), (torch.zeros(1, 3, 9, 9),), target="wq/cuda-sm80",
                      config=config)  # fmt: skip
