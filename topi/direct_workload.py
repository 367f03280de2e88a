"""One direct convolution as the kernels see it: shapes, blocking, packing of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..quantization.arithmetic import round_up
from ..quantization.image_reference import MOST_PRODUCTS
from .workload import Workload

if TYPE_CHECKING:
    from ..quantization import QuantizedWeights

# Bytes that are stored together where all products are one sum: a row of a tile register, and a
# cache line of V.
_PART_BYTES = 64
_REGISTER_PIXELS = 16  # rows of a tile register


@dataclass(frozen=True)
class DirectWorkload(Workload):
    """One convolution layer without a transform.

    Attributes
    ----------
    stride : pixels of the input from one output to the next, along both axes.
    block : output rows and columns that one task computes; the output is padded to multiples of
        them.
    pixels : outputs that are summed up together in registers, counted along the rows of a task:
        a divisor of the task's outputs.
    vectors : vectors of output channels that are summed up together; the output channels are
        padded to a multiple of them.
    flat : whether V has the pixels of each column of taps, in rows as long as those of the outputs:
        of one sum and stride 1, neighbouring outputs then are neighbours in V from row to row.
    choices : what else the schedule is asked for, names and numbers.

    Raises
    ------
    ConfigError
        If the pixels do not divide a task, or a number is below 1.
    """

    stride: int = 1
    block: tuple[int, int] = (1, 1)
    pixels: int = 1
    vectors: int = 1
    flat: bool = False
    choices: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if min(self.stride, *self.block, self.pixels, self.vectors) < 1:
            raise ConfigError(
                f"DirectWorkload has stride={self.stride}, block={self.block}, "
                f"pixels={self.pixels}, vectors={self.vectors}; give positive numbers"
            )
        products = self.scheme.kernel**2 * self.in_channels
        if self.is_image and products > MOST_PRODUCTS:
            raise ConfigError(
                f"activation_steps is 'image' with {self.in_channels} channels and a kernel of "
                f"{self.scheme.kernel}; {products} products may not fit int32, {MOST_PRODUCTS} do: "
                "give 'pixel'"
            )
        if self.block_pixels % self.pixels:
            raise ConfigError(
                f"pixels is {self.pixels}; give a divisor of the {self.block_pixels} outputs of "
                f"a block of {self.block[0]} x {self.block[1]}"
            )

    @property
    def sampling(self) -> int:
        """Pixels of the image from one that is quantized to the next: one tap skips pixels."""
        return self.stride if self.scheme.kernel == 1 else 1

    @property
    def quantized_stride(self) -> int:
        """The stride in pixels that are quantized."""
        return self.stride // self.sampling

    @property
    def out_height(self) -> int:
        """Rows of the output image."""
        return (self.height + 2 * self.padding - self.scheme.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Columns of the output image."""
        return (self.width + 2 * self.padding - self.scheme.kernel) // self.stride + 1

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of tasks that an output image is cut into."""
        rows, columns = self.block
        return math.ceil(self.out_height / rows), math.ceil(self.out_width / columns)

    @property
    def block_pixels(self) -> int:
        """Outputs of a task, of one channel."""
        return math.prod(self.block)

    @property
    def is_image(self) -> bool:
        """Whether an image has one step."""
        return self.scheme.activation_steps == "image"

    @property
    def is_one_sum(self) -> bool:
        """Whether all products are one sum; what is stored as a group is then a part of all."""
        return self.is_image or self.scheme.is_bfloat16

    @property
    def groups(self) -> int:
        """Groups of input channels; the last may be padded with zeros."""
        if self.is_one_sum:
            return math.ceil(self.in_channels / (_PART_BYTES // self.multiplied_bytes))
        return super().groups

    @property
    def multiplied_bytes(self) -> int:
        """Bytes of a value as tile registers hold it; where int16 is multiplied, there are none."""
        return 2 if self.scheme.is_bfloat16 else 1

    @property
    def group_size(self) -> int:
        """Channels of a group as they are stored: no more than a layer of one group has."""
        if self.is_one_sum:
            return round_up(math.ceil(self.in_channels / self.groups), self.dot.reduce)
        size = self.scheme.channels_per_group(self.in_channels)
        return min(size, round_up(self.in_channels, self.dot.reduce))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the quantized image, zeros around it: (z, g, y, x, s), or (z, g, v, y, x, s)."""
        rows, columns = (
            (blocks * edge - 1) * self.quantized_stride + self.scheme.kernel
            for blocks, edge in zip(self.blocks, self.block, strict=True)
        )
        if not self.flat:
            return (self.batch, self.groups, rows, columns, self.group_size)
        # The last register of a block's pixels may reach beyond it.
        rows += math.ceil((_REGISTER_PIXELS - 1) / self.out_width)
        taps = self.scheme.kernel
        return (self.batch, self.groups, taps, rows, self.out_width, self.group_size)

    @property
    def level_offset(self) -> int:
        """What is taken off levels of 0 to 255, with a step an image, to fit the activations."""
        return 128 if self.dot.activation_dtype == "int8" else 0

    @property
    def panel(self) -> int:
        """Output channels that are summed up together."""
        return self.dot.lanes * self.vectors

    @property
    def packed_channels(self) -> int:
        """Output channels, padded to whole panels."""
        return round_up(self.out_channels, self.panel)

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of U as the kernels read it: (k / lanes, g, e, v, s / reduce, lanes, reduce)."""
        dot, taps = self.dot, self.scheme.kernel
        vectors, steps = self.packed_channels // dot.lanes, self.group_size // dot.reduce
        return (vectors, self.groups, taps, taps, steps, dot.lanes, dot.reduce)

    @property
    def step_shape(self) -> tuple[int, ...]:
        """Shape of U's steps: (g, e, v, k), or (g, k) or (k) where taps or all share them."""
        if self.is_one_sum:
            return (self.packed_channels,)
        taps = (self.scheme.kernel,) * 2 if self.scheme.weight_steps == "tap" else ()
        return (self.groups, *taps, self.packed_channels)

    @property
    def correction_shape(self) -> tuple[int, ...]:
        """Shape of the zero point's correction: (g, e, v, k)."""
        return (self.groups, *(self.scheme.kernel,) * 2, self.packed_channels)

    def annotations(self, operator: str) -> dict[str, Any]:
        """What the block of the result tells the schedule."""
        return {
            "wq.operator": operator,
            "wq.block": list(self.block),
            "wq.stride": self.quantized_stride,
            "wq.pixels": self.pixels,
            "wq.vectors": self.vectors,
            **({"wq.choices": dict(self.choices)} if self.choices else {}),
        }


def pack_direct_weights(weights: QuantizedWeights, work: DirectWorkload) -> dict[str, NDArray[Any]]:
    """Lay quantized weights out as the operator reads them, in the order of its parameters.

    Returns
    -------
    "U" in ``work.packed_shape``, "U_step" float32 in ``work.step_shape`` and, where activations
    have a zero point, "U_correction" int32 in ``work.correction_shape``: the start of each sum of
    a tap and group, which takes off again what the zero point adds to it. With a step an image,
    "U_sum" int32 (k) instead, of all taps and channels, and "U_step" (k). In bfloat16 "U" alone.
    """
    dot, size = work.dot, work.group_size
    missing = work.packed_channels - work.out_channels
    if work.is_one_sum:
        # One group as it is quantized, parts of it as it is stored.
        u = weights.u[..., 0, : work.in_channels]
        u = np.pad(u, [(0, 0)] * 3 + [(0, work.groups * size - work.in_channels)])
        weights = replace(weights, u=u.reshape(*u.shape[:3], work.groups, size))
    # (e, v, k, g, s): channels without a filter have U = 0 and step 0.
    u = np.pad(weights.u[..., :size], [(0, 0), (0, 0), (0, missing), (0, 0), (0, 0)])
    step = np.pad(weights.step, [(0, 0), (0, 0), (0, missing), (0, 0)])
    rows, columns, channels, groups, _ = u.shape
    packed = u.reshape(
        rows, columns, channels // dot.lanes, dot.lanes, groups, size // dot.reduce, dot.reduce
    ).transpose(2, 4, 0, 1, 5, 3, 6)
    if work.scheme.weight_steps == "filter":
        step = step[:1, :1]
    u_packed = np.ascontiguousarray(packed, dtype=dot.stored_weight)
    if work.scheme.is_bfloat16:
        return {"U": u_packed}
    arrays = {
        "U": u_packed,
        "U_step": np.ascontiguousarray(step.transpose(3, 0, 1, 2)).reshape(work.step_shape),
    }
    if work.is_image:
        arrays["U_sum"] = u.sum(axis=(0, 1, 3, 4), dtype=np.int32)
    elif dot.zero_point:
        sums = u.astype(np.int32).sum(axis=4).transpose(3, 0, 1, 2) * -dot.zero_point
        arrays["U_correction"] = np.ascontiguousarray(sums, dtype=np.int32)
    return arrays
