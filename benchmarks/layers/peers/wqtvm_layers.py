"""The layer by wqtvm, NHWC in and out as between the layers of a network it compiles.

The network takes and gives NHWC by permutations, which the compiler drops, as it does conversions
to the dtype of the images between layers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import tvm
import tvm_ffi
from numpy.typing import NDArray
from torch import nn
from tvm.ir.instrument import pass_instrument

import wqtvm
from wqtvm.target import lookup

from .base import CannotRunError, Problem, Setting, Variant

CONFIGS = {
    "wqtvm direct": wqtvm.WinogradConfig(algorithm="direct"),
    "wqtvm direct filter": wqtvm.WinogradConfig(algorithm="direct", weight_steps="filter"),
    "wqtvm direct one group": wqtvm.WinogradConfig(
        algorithm="direct", weight_steps="filter", group_size=0
    ),
    "wqtvm direct image": wqtvm.WinogradConfig(algorithm="direct", activation_steps="image"),
    "wqtvm F(2,3)": wqtvm.WinogradConfig(tile=2),
    "wqtvm F(4,3)": wqtvm.WinogradConfig(tile=4),
    "wqtvm F(4,3) g64": wqtvm.WinogradConfig(tile=4, group_size=64),
    "wqtvm F(4,3) g128": wqtvm.WinogradConfig(tile=4, group_size=128),
    "wqtvm F(4,3) g256": wqtvm.WinogradConfig(tile=4, group_size=256),
    "wqtvm F(4,3) one group": wqtvm.WinogradConfig(tile=4, group_size=0),
    "wqtvm F(6,3) +-i": wqtvm.WinogradConfig(tile=6, points="complex"),
    "wqtvm SFC-6": wqtvm.WinogradConfig(algorithm="sfc", tile=6),
    "wqtvm F(4,3) full": wqtvm.WinogradConfig(tile=4, precision="full"),
    "wqtvm float32": wqtvm.WinogradConfig(algorithm="float"),
    "wqtvm direct image, float16": wqtvm.WinogradConfig(
        algorithm="direct", activation_steps="image", images="float16"
    ),
    "wqtvm direct bfloat16": wqtvm.WinogradConfig(algorithm="direct", precision="bfloat16"),
    "wqtvm F(4,3), float16": wqtvm.WinogradConfig(tile=4, images="float16"),
    "wqtvm F(4,3) g64, float16": wqtvm.WinogradConfig(tile=4, group_size=64, images="float16"),
    "wqtvm F(4,3) g128, float16": wqtvm.WinogradConfig(tile=4, group_size=128, images="float16"),
    "wqtvm F(4,3) g256, float16": wqtvm.WinogradConfig(tile=4, group_size=256, images="float16"),
    "wqtvm F(4,3) one group, float16": wqtvm.WinogradConfig(tile=4, group_size=0, images="float16"),
}
TARGETS = {"best": "wq", "bf16": "wq/x86-bf16", "vnni": "wq/x86-vnni"}


class ChannelsLast(nn.Module):
    """A convolution (batch, height, width, channel) of a dtype to the same, in float32."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, stride: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.dtype = dtype
        out, channels, kernel = weight.shape[:3]
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2)
        self.conv.weight.data, self.conv.bias.data = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve."""
        return self.conv(x.permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1).to(self.dtype)


class Convolution:
    """float32 or float16 in and out, NHWC; quantization of the input is part of the run."""

    def __init__(self, problem: Problem, config: wqtvm.WinogradConfig, setting: Setting) -> None:
        dtype = getattr(torch, config.images)
        self.x = aligned(problem.x, dtype)
        weight, bias = (aligned(value) for value in (problem.weight, problem.bias))
        if config.precision == "bfloat16" and lookup(TARGETS[setting.isa]).bfloat16 is None:
            raise CannotRunError("bfloat16 takes AMX or AVX-512 BF16")
        buffers = Buffers(setting.threads)
        with tvm.transform.PassContext(opt_level=3, instruments=[buffers]):
            self.compiled = wqtvm.compile(
                ChannelsLast(weight, bias, problem.stride, dtype),
                (self.x,),
                target=TARGETS[setting.isa],
                config=config,
            )
        (layer,) = self.compiled.plan.layers
        if layer.algorithm != config.algorithm:
            raise CannotRunError(f"{layer.reason.value}: {layer.detail}")
        if config.tile is not None and problem.kernel != 3:
            raise CannotRunError(f"a kernel of 5x5 gets {layer.label}")
        self.workspace = buffers.nbytes - dtype.itemsize * problem.reference.size
        wqtvm.set_num_threads(setting.threads)

    def run(self) -> None:
        """Compute the layer once."""
        self.y = self.compiled(self.x)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        return self.y.float().numpy()


def aligned(value: NDArray[np.float32], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Copy into memory that compiled code takes without another copy."""
    tensor = torch.empty(value.shape, dtype=dtype)
    tensor.copy_(torch.from_numpy(np.asarray(value).copy()))
    return tensor


@pass_instrument
class Buffers:
    """Bytes that compiled code allocates: of the whole network, and of all threads at once.

    Those of the network are the storage of its tensors, the result included. Those of a kernel are
    counted where they are allocated, once for each thread that runs that part.
    """

    TENSORS, KERNELS = "LowerAllocTensor", "tirx.StorageRewrite"  # passes after which it looks

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.nbytes = 0

    def run_after_pass(self, module: Any, info: Any) -> None:
        """Look at the module after the two passes."""
        if info.name == self.TENSORS:
            self.nbytes += _storage(module)
        elif info.name == self.KERNELS:
            functions = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
            # Kernels run one after the other.
            self.nbytes += max((_allocated(f, self.threads) for f in functions), default=0)


def _storage(module: Any) -> int:
    found: list[int] = []

    def visit(node: Any) -> None:
        if isinstance(node, tvm.relax.Call) and "alloc_storage" in str(node.op):
            found.append(math.prod(int(size) for size in node.args[0].values))

    for function in module.functions.values():
        if isinstance(function, tvm.relax.Function):
            tvm.relax.analysis.post_order_visit(function, visit)
    return sum(found)


def _allocated(function: Any, threads: int) -> int:
    """Bytes of a kernel's buffers, those within a parallel loop once for each thread."""
    nbytes = sum(map(_size, _nodes(function.body, tvm.tirx.AllocBuffer)))
    for loop in _nodes(function.body, tvm.tirx.For):
        if loop.kind == tvm.tirx.ForKind.PARALLEL:
            copies = min(threads, int(loop.extent))
            nbytes += (copies - 1) * sum(map(_size, _nodes(loop, tvm.tirx.AllocBuffer)))
    return nbytes


def _nodes(root: Any, kind: type) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(root, [(kind, found.append)])
    return found


def _size(node: Any) -> int:
    dtype = tvm.DataType(str(node.buffer.dtype))
    elements = math.prod(int(extent) for extent in node.buffer.shape)
    return elements * dtype.bits * dtype.lanes // 8


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    return Convolution(problem, CONFIGS[variant.name], setting)
