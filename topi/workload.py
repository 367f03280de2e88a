"""One convolution layer as the kernels see it: shapes, scheme, and the packing of its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..quantization import QuantizedWeights, Scheme
    from ..target import DotProduct


@dataclass(frozen=True)
class Workload:
    """What every convolution layer has.

    Attributes
    ----------
    scheme : algorithm, precision, group size, scales and steps.
    batch, height, width, in_channels : of the input, NHWC float32.
    out_channels : channels of the output.
    padding : zeros added at each edge of the image, in pixels.
    dot : shape and signedness of the target's dot product, which decides the packing of U.
    """

    scheme: Scheme
    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    padding: int
    dot: DotProduct

    @property
    def group_size(self) -> int:
        """Channels of an input group."""
        return self.scheme.channels_per_group(self.in_channels)

    @property
    def activation_bytes(self) -> int:
        """Bytes of a value of V."""
        return np.dtype(self.dot.stored_activation).itemsize

    @property
    def out_height(self) -> int:
        """Rows of the output image."""
        return self.height + 2 * self.padding - self.scheme.kernel + 1

    @property
    def out_width(self) -> int:
        """Columns of the output image."""
        return self.width + 2 * self.padding - self.scheme.kernel + 1

    @property
    def groups(self) -> int:
        """Groups of input channels; the last may be padded with zeros."""
        return self.scheme.groups(self.in_channels)


@dataclass(frozen=True)
class WinogradWorkload(Workload):
    """One convolution layer by tiles.

    Attributes
    ----------
    block : tile rows and tile columns that the schedule computes together; the numbers of tiles are
        padded to multiples of them.
    choices : what else the schedule is asked for, names and numbers.
    """

    block: tuple[int, int] = (1, 1)
    choices: tuple[tuple[str, int], ...] = ()

    @property
    def tile_rows(self) -> int:
        """Rows of tiles that cover the output image."""
        return math.ceil(self.out_height / self.scheme.output_tile[0])

    @property
    def tile_columns(self) -> int:
        """Columns of tiles that cover the output image."""
        return math.ceil(self.out_width / self.scheme.output_tile[1])

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Images, tile rows and tile columns, padded to whole blocks."""
        rows, columns = self.block
        return (
            self.batch,
            math.ceil(self.tile_rows / rows) * rows,
            math.ceil(self.tile_columns / columns) * columns,
        )

    @property
    def out_group_size(self) -> int:
        """Output channels that ``full`` quantizes together; with a step a channel, a vector."""
        if self.scheme.precision == "full" and self.scheme.steps == "channel":
            return self.dot.lanes
        return self.scheme.channels_per_group(self.out_channels)

    @property
    def out_groups(self) -> int:
        """Groups of output channels; the last may be padded."""
        return math.ceil(self.out_channels / self.out_group_size)

    @property
    def packed_channels(self) -> int:
        """Output channels, padded to whole vectors of the dot product."""
        return math.ceil(self.out_channels / self.dot.lanes) * self.dot.lanes

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of U: (k / lanes, e, v, g, s / reduce, lanes, reduce), the order of its use."""
        dot = self.dot
        blocks, steps = self.packed_channels // dot.lanes, self.group_size // dot.reduce
        return (blocks, *self.scheme.products, self.groups, steps, dot.lanes, dot.reduce)

    @property
    def step_shape(self) -> tuple[int, ...]:
        """Shape of U's steps and of the zero point's correction: (e, v, g, k)."""
        return (*self.scheme.products, self.groups, self.packed_channels)


def pack_weights(weights: QuantizedWeights, work: WinogradWorkload) -> dict[str, NDArray[Any]]:
    """Lay quantized weights out as the operator reads them, in the order of its parameters.

    Returns
    -------
    "U" in ``work.packed_shape``, "U_step" float32 in ``work.step_shape`` and, where activations
    have a zero point, "U_correction" int32: the start of each sum of a group, which takes off again
    what the zero point adds to it.
    """
    dot = work.dot
    missing = work.packed_channels - work.out_channels
    # (e, v, k, g, s): channels without a filter have U = 0 and step 0.
    u = np.pad(weights.u, [(0, 0), (0, 0), (0, missing), (0, 0), (0, 0)])
    step = np.pad(weights.step, [(0, 0), (0, 0), (0, missing), (0, 0)])
    rows, columns, channels, groups, size = u.shape
    packed = u.reshape(
        rows, columns, channels // dot.lanes, dot.lanes, groups, size // dot.reduce, dot.reduce
    ).transpose(2, 0, 1, 4, 5, 3, 6)
    arrays = {
        "U": np.ascontiguousarray(packed, dtype=dot.weight_dtype),
        "U_step": np.ascontiguousarray(step.transpose(0, 1, 3, 2)),
    }
    if dot.zero_point:
        sums = u.astype(np.int32).sum(axis=4).transpose(0, 1, 3, 2) * -dot.zero_point
        arrays["U_correction"] = np.ascontiguousarray(sums, dtype=np.int32)
    return arrays
