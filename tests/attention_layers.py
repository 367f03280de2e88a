"""Attention with data, and what it should give, for tests of kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from kernel_layers import permit_here
from numpy.typing import NDArray
from tvm import tirx

from wqtvm.quantization.bfloat16_reference import bfloat16_bits, bfloat16_values
from wqtvm.schedules.kernels import kernels_of
from wqtvm.target import TargetRecord, lookup
from wqtvm.topi.attention import AXES, TENSORS, AttentionWorkload, attention


@dataclass(frozen=True)
class AttentionLayer:
    """An attention: what it computes, and its data, (images, heads, length, channels) each."""

    work: AttentionWorkload
    record: TargetRecord
    queries: NDArray[np.float32]
    keys: NDArray[np.float32]
    values: NDArray[np.float32]

    @property
    def result_shape(self) -> tuple[int, ...]:
        """As the kernel writes it."""
        return self.work.shape("output")

    def scheduled(self) -> tirx.PrimFunc:
        """The operator with the target's schedule."""
        return kernels_of(self.record).schedule(attention(self.work))

    def arguments(self) -> list[Any]:
        """Queries, keys and values as the kernel reads them."""
        tensors = zip(TENSORS, (self.queries, self.keys, self.values), strict=False)
        return [tvm.runtime.tensor(self.laid_out(name, array)) for name, array in tensors]

    def laid_out(self, tensor: str, array: NDArray[Any]) -> NDArray[Any]:
        """A tensor, with axes in the order of the workload."""
        order = self.work.orders[TENSORS.index(tensor)]
        return np.ascontiguousarray(array.transpose(*(AXES.index(axis) for axis in order), 3))

    def reference(self) -> NDArray[np.float64]:
        """What the kernel should write: in float64, of operands rounded as the precision says."""
        keys = self.keys * np.float32(self.work.key_scale)
        operands = [self.queries, keys, self.values]
        if self.work.precision == "bfloat16":
            operands = [bfloat16_values(bfloat16_bits(each)) for each in operands]
        q, k, v = (each.astype(np.float64) for each in operands)
        scores = q @ k.swapaxes(2, 3)
        powers = np.exp2(scores - scores.max(axis=3, keepdims=True))
        result = powers / powers.sum(axis=3, keepdims=True) @ v
        return self.laid_out("output", result)

    def run(self) -> NDArray[np.float32]:
        """Compile and run it here."""
        output = tvm.runtime.tensor(np.full(self.result_shape, np.nan, np.float32))
        library = tvm.compile(self.scheduled(), target=self.record.tvm_target())
        permit_here(self.record)
        library["main"](*self.arguments(), output)
        result: NDArray[np.float32] = output.numpy()
        return result


def make_attention(
    record: str,
    shape: tuple[int, int, int, int, int, int],
    precision: str = "float32",
    orders: tuple[str, str, str, str] = (AXES,) * 4,
    scale: float | None = None,
    seed: int = 0,
) -> AttentionLayer:
    """Gaussian data; shape is (images, heads, queries, keys, channels, channels of values)."""
    channels = shape[4]
    work = AttentionWorkload(
        *shape, scale=channels**-0.5 if scale is None else scale, precision=precision, orders=orders
    )
    rng = np.random.default_rng(seed)
    images, heads, queries, keys, channels, value_channels = shape
    sizes = ((queries, channels), (keys, channels), (keys, value_channels))
    tensors = (rng.standard_normal((images, heads, *size)).astype(np.float32) for size in sizes)
    return AttentionLayer(work, lookup(record), *tensors)
