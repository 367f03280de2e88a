"""What tests of compiled kernels share: a layer, its reference, its kernel and the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from wqtvm.fastconv import BilinearAlgorithm, direct, named_scales, sfc, winograd
from wqtvm.quantization import (
    Bfloat16Stages,
    DirectStages,
    FullStages,
    HadamardStages,
    ImageStages,
    QuantizedWeights,
    Scheme,
    convolution_reference,
    direct_reference,
    quantize_weights,
)
from wqtvm.runtime.cpu import cpu_features, permit
from wqtvm.schedules.cpu import CpuKernels
from wqtvm.schedules.kernels import kernels_of
from wqtvm.schedules.space import Point
from wqtvm.target import TargetRecord, lookup
from wqtvm.topi.direct_workload import DirectWorkload
from wqtvm.topi.layer import definition_of, packed_weights
from wqtvm.topi.workload import WinogradWorkload

X86_VECTORS = [
    pytest.param("wq/x86-vnni", marks=pytest.mark.isa("avx512_vnni")),
    pytest.param("wq/x86-avx2", marks=pytest.mark.isa("avx2")),
]
X86 = [*X86_VECTORS, pytest.param("wq/x86-amx", marks=pytest.mark.isa("amx_int8"))]


@dataclass(frozen=True)
class Layer:
    """A convolution layer: what it computes, and its data."""

    work: WinogradWorkload | DirectWorkload
    record: TargetRecord
    x: NDArray[np.float32]
    weights: QuantizedWeights

    @property
    def result_shape(self) -> tuple[int, ...]:
        """(batch, height, width, channel)."""
        work = self.work
        return work.batch, work.out_height, work.out_width, work.out_channels

    def function(self) -> tirx.PrimFunc:
        """The operator's definition."""
        return definition_of(self.work)

    def scheduled(self) -> tirx.PrimFunc:
        """The operator with the target's schedule."""
        return kernels_of(self.record).schedule(self.function())

    def arguments(self) -> list[Any]:
        arrays = [self.x, *packed_weights(self.weights, self.work).values()]
        return [tvm.runtime.tensor(array) for array in arrays]

    def reference(
        self,
    ) -> DirectStages | ImageStages | Bfloat16Stages | HadamardStages | FullStages:
        scheme, padding = self.work.scheme, self.work.padding
        if isinstance(self.work, DirectWorkload):
            stride = self.work.stride
            return direct_reference(self.x, self.weights, scheme, padding, stride=stride)
        return convolution_reference(self.x, self.weights, scheme, padding, keep_accumulators=True)

    def run(self, stages: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """Compile, run, and return "output" and the stages by the names of their blocks."""
        function, buffers = expose(self.scheduled(), stages)
        library = tvm.compile(function, target=self.record.tvm_target())
        permit_here(self.record)
        results = {"output": np.full(self.result_shape, np.nan, np.float32)}
        for buffer in buffers:
            extents = [int(extent) for extent in buffer.ty.shape]
            results[buffer.name] = np.zeros(extents, str(buffer.ty.dtype))
        tensors = {name: tvm.runtime.tensor(array) for name, array in results.items()}
        library["main"](*self.arguments(), *tensors.values())
        return {name: tensor.numpy() for name, tensor in tensors.items()}


def permit_here(record: TargetRecord) -> None:
    """Ask for registers that code for this machine needs leave to use; others' do not run here."""
    if set(record.features) <= cpu_features():
        permit(record)


def make_layer(
    record: str | TargetRecord,
    shape: tuple[int, int, int, int],
    out_channels: int,
    *,
    family: str = "winograd",
    tile: int | tuple[int, int] = 4,
    taps: int = 3,
    points: str = "best",
    precision: str = "hadamard",
    group_size: int = 32,
    scales: str = "correlated",
    steps: str = "channel",
    padding: int = 1,
    weight_steps: str = "tap",
    activation_steps: str = "pixel",
    stride: int = 1,
    threads: int = 2,
    point: Point | None = None,
    seed: int = 0,
) -> Layer:
    """A layer with Gaussian data; shape is (batch, height, width, channels); tile 1 is direct.

    A tile of rows and columns is a rectangle; the point is of the schedule's space.
    """

    def algorithm(edge: int) -> BilinearAlgorithm:
        if family == "sfc":
            return sfc(edge)
        return direct(taps) if edge == 1 else winograd(edge, points, taps)

    edges = tile if isinstance(tile, tuple) else (tile,)
    rows, *columns = (algorithm(edge) for edge in edges)
    if activation_steps == "image" or precision == "bfloat16":
        group_size, weight_steps = 0, "filter"
    scheme = Scheme(
        rows, named_scales(scales, rows), precision, group_size, steps, weight_steps,
        *(value for a in columns for value in (a, named_scales(scales, a))),
        activation_steps=activation_steps,
    )  # fmt: skip
    target = lookup(record)
    batch, height, width, channels = shape
    dot = target.bfloat16 if scheme.is_bfloat16 else target.dot
    assert dot is not None
    size = (batch, height, width, channels, out_channels, padding, dot)
    work = (
        DirectWorkload(scheme, *size, stride)
        if scheme.is_direct
        else WinogradWorkload(scheme, *size)
    )
    work = kernels_of(target).divided(work, threads, point)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal((out_channels, channels, taps, taps)).astype(np.float32)
    return Layer(work, target, x, quantize_weights(weight, scheme))


def assert_close_sums(found: NDArray[np.float32], layer: Layer) -> None:
    """The reference's output up to the rounding of float32 sums, of a layer in bfloat16.

    Products are exact in float32; each addition may round by half an ulp of the sum so far.
    """
    additions = layer.work.scheme.kernel**2 * layer.work.in_channels
    # Standard Gaussians: sums of n products are around sqrt(n), and below 6 times that; rounding
    # errors add up like a walk of as many steps.
    largest = 6 * additions**0.5
    np.testing.assert_allclose(
        found, layer.reference().output,
        rtol=2.0**-23, atol=4 * 2.0**-24 * largest * additions**0.5,
    )  # fmt: skip


class Kernel(Protocol):
    """What is compiled and run."""

    record: TargetRecord

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Of the last parameter."""

    def scheduled(self) -> tirx.PrimFunc:
        """The operator with the target's schedule."""

    def arguments(self) -> list[Any]:
        """The parameters but the last."""


def output_between_guards(layer: Kernel) -> NDArray[np.float32]:
    """The layer's output, written between guards that must stay as they are."""
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    permit_here(layer.record)
    count, guard = int(np.prod(layer.result_shape)), 4096
    memory = np.full(count + 2 * guard + 16, 7, np.float32)
    start = -memory.ctypes.data // 4 % 16 + guard  # of a whole cache line, as TVM's tensors
    output = memory[start : start + count].reshape(layer.result_shape)
    library["main"](*layer.arguments(), tvm.runtime.from_dlpack(output))
    assert (memory[:start] == 7).all()
    assert (memory[start + count :] == 7).all()
    return output


def cpu_kernels(record: str | TargetRecord) -> CpuKernels:
    """The kernels of a CPU, with the numbers of its schedules."""
    kernels = kernels_of(lookup(record))
    assert isinstance(kernels, CpuKernels)
    return kernels


def expose(function: tirx.PrimFunc, names: Sequence[str]) -> tuple[tirx.PrimFunc, list[Any]]:
    """Make intermediate buffers parameters: the kernel as scheduled, but its stages can be read."""
    root = function.body.block
    exposed = [buffer for buffer in root.alloc_buffers if buffer.name in names]
    assert len(exposed) == len(names), f"{names} among {[b.name for b in root.alloc_buffers]}"
    kept = [buffer for buffer in root.alloc_buffers if buffer.name not in names]
    block = SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, root.body, root.init, kept,
        root.match_buffers, root.annotations,
    )  # fmt: skip
    realize = SBlockRealize(function.body.iter_values, function.body.predicate, block)
    params = [*function.params, *exposed]
    return tirx.PrimFunc(params, realize, function.ret_type, function.attrs), exposed


def direct_convolution(
    x: NDArray[np.float32], weight: NDArray[np.float32], padding: int
) -> NDArray[np.float64]:
    """Direct convolution in float64: x (n, h, w, c) and weight (k, c, r, r) to (n, h, w, k)."""
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x.astype(np.float64), sides)
    taps = weight.shape[2]
    height, width = (edge - taps + 1 for edge in padded.shape[1:3])
    total = np.zeros((x.shape[0], height, width, weight.shape[0]))
    for i in range(taps):
        for j in range(taps):
            window = padded[:, i : i + height, j : j + width]
            total += window @ weight[:, :, i, j].T.astype(np.float64)
    return total
