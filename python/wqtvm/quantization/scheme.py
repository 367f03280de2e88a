"""Which algorithm, scales and steps a quantized convolution uses: one value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..fastconv import (
    BilinearAlgorithm,
    RowMatrix,
    ScaleSet,
    direct,
    integer_matrix,
    standard_scales,
    unit_matrix,
)
from .arithmetic import round_up

PRECISIONS = ("hadamard", "full", "bfloat16")
# Axes of a tensor (p, row, column, group, channel) along which its values share a step in precision
# "full": where the next pass sums over rows, and where it sums over columns.
SHARED_AXES = {
    "channel": ((1,), (2,)),
    "axis": ((1, 4), (2, 4)),
    "tile": ((1, 2, 4), (1, 2, 4)),
}
STEPS = tuple(SHARED_AXES)
WEIGHT_STEPS = ("tap", "filter")
ACTIVATION_STEPS = ("pixel", "image")
WHOLE_MULTIPLE = 32  # a group of all channels is padded to a multiple of this
# Exact in float32, in int8, and of no use.
_LARGEST_INTEGER = {"hadamard": 2**24, "full": 127, "bfloat16": 2**24}


@dataclass(frozen=True)
class Axis:
    """One axis of a tile: its bilinear algorithm, with the scales that are used.

    Attributes
    ----------
    algorithm : computes one row or one column of a tile.
    scales : S_B and S_G.
    is_integer : whether B^T is multiplied to integers, not to float32.
    """

    algorithm: BilinearAlgorithm
    scales: ScaleSet
    is_integer: bool = True

    @cached_property
    def input_matrix(self) -> RowMatrix:
        """B^T as rows of small integers, in float32 of many ones, and row scales."""
        return (integer_matrix if self.is_integer else unit_matrix)(self.algorithm.b_t)

    @cached_property
    def input_row_scale(self) -> NDArray[np.float64]:
        """Float64 (n,): ``S_B B^T == diag(input_row_scale) @ input_matrix.rows``."""
        row_scale = np.array([float(scale) for scale in self.input_matrix.row_scale])
        product: NDArray[np.float64] = np.asarray(self.scales.s_b) * row_scale
        return product

    @cached_property
    def weight_matrix(self) -> NDArray[np.float64]:
        """Float64 (n, r): S_G G."""
        g = np.asarray(self.algorithm.g, dtype=np.float64)
        return np.asarray(self.scales.s_g)[:, None] * g

    @cached_property
    def output_matrix(self) -> NDArray[np.float64]:
        """Float64 (m, n): A^T S_A."""
        a_t = np.asarray(self.algorithm.a_t, dtype=np.float64)
        scaled: NDArray[np.float64] = a_t * np.asarray(self.scales.s_a)
        return scaled

    @cached_property
    def output_integers(self) -> tuple[NDArray[np.int16], np.float32]:
        """A^T S_A as int16 (m, n) times one float32 step: its rounding in precision "full"."""
        step = np.abs(self.output_matrix).max() / np.iinfo(np.int16).max
        return np.rint(self.output_matrix / step).astype(np.int16), np.float32(step)


@dataclass(frozen=True)
class Scheme:
    """How one convolution is quantized.

    The tile is a square unless the columns have an algorithm of their own: a rectangle of F(4, 3)
    and F(2, 3) has four rows and two columns of outputs.

    Attributes
    ----------
    algorithm : the bilinear algorithm; fastconv.direct() is the direct convolution.
    scales : S_B and S_G. In precision "hadamard" they cancel, and the standard ones are used.
    precision : "hadamard" (only U and V in int8) or "full" (every stage in int8).
    group_size : consecutive channels that share a step; 0 means all.
    steps : what shares a step in precision "full": a "channel"'s values of a row or column of the
        tile, along which the next pass sums; that "axis" of a group of channels; or the whole
        "tile" of a group. V has a step a tap and group in any case, and U as weight_steps say.
    weight_steps : "tap" or "filter", what shares a step of U besides a group's channels.
    activation_steps : in direct convolutions a "pixel"'s channels of a group share a step, or all
        of an "image", between its least and its largest value and with a zero point; that is one
        group, and a weight's step is of a filter.
    column_algorithm, column_scales : the same along the columns, if they are not those of the rows;
        both or none.

    Raises
    ------
    ConfigError
        If a value is outside its choices, the rows of B^T are no integers of the precision, or the
        algorithms of rows and columns are for different kernels.
    """

    algorithm: BilinearAlgorithm
    scales: ScaleSet
    precision: str = "hadamard"
    group_size: int = 32
    steps: str = "channel"
    weight_steps: str = "tap"
    column_algorithm: BilinearAlgorithm | None = None
    column_scales: ScaleSet | None = None
    activation_steps: str = "pixel"

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("precision", self.precision, PRECISIONS),
            ("steps", self.steps, STEPS),
            ("weight_steps", self.weight_steps, WEIGHT_STEPS),
            ("activation_steps", self.activation_steps, ACTIVATION_STEPS),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}; give one of {', '.join(choices)}")
        if self.group_size < 0:
            raise ConfigError(f"group_size is {self.group_size}; give 0 (all channels) or more")
        self._check_axis(self.algorithm, self.scales)
        if self.activation_steps == "image" and (
            not self.is_direct or self.group_size != 0 or self.weight_steps != "filter"
        ):
            raise ConfigError(
                f"activation_steps is 'image' with {self.name}, group_size {self.group_size} and "
                f"weight_steps {self.weight_steps!r}; give a direct convolution, group_size 0 and "
                "weight_steps 'filter', or activation_steps 'pixel'"
            )
        if self.is_bfloat16 and (
            not self.is_direct
            or (self.group_size, self.weight_steps, self.activation_steps) != (0, "filter", "pixel")
        ):
            raise ConfigError(
                f"precision is 'bfloat16' with {self.name}, group_size {self.group_size}, "
                f"weight_steps {self.weight_steps!r} and activation_steps "
                f"{self.activation_steps!r}; nothing has a step: give a direct convolution, 0, "
                "'filter' and 'pixel'"
            )
        if self.column_algorithm is None and self.column_scales is None:
            return
        if self.column_algorithm is None or self.column_scales is None:
            raise ConfigError("column_algorithm and column_scales go together; give both or none")
        if self.column_algorithm.r != self.algorithm.r:
            raise ConfigError(
                f"rows are by {self.algorithm.name}, columns by {self.column_algorithm.name}; "
                "give two algorithms of as many kernel taps"
            )
        self._check_axis(self.column_algorithm, self.column_scales)

    def _check_axis(self, algorithm: BilinearAlgorithm, scales: ScaleSet) -> None:
        if len(scales.s_b) != algorithm.n:
            raise ConfigError(
                f"scales {scales.name!r} are for {len(scales.s_b)} products; "
                f"{algorithm.name} has {algorithm.n}"
            )
        limit = _LARGEST_INTEGER[self.precision]
        largest = integer_matrix(algorithm.b_t).largest
        if largest > limit:
            raise ConfigError(
                f"{algorithm.name} with points {', '.join(algorithm.points)}: "
                f"B^T has the integer {largest}; precision {self.precision!r} is exact up to "
                f"{limit}: choose simpler points"
            )

    @cached_property
    def row_axis(self) -> Axis:
        """What transforms along the rows of a tile: from row to row, the first pass."""
        return self._axis(self.algorithm, self.scales)

    @cached_property
    def column_axis(self) -> Axis:
        """What transforms along the columns of a tile: from column to column, the second pass."""
        if self.column_algorithm is None or self.column_scales is None:
            return self.row_axis
        return self._axis(self.column_algorithm, self.column_scales)

    def _axis(self, algorithm: BilinearAlgorithm, scales: ScaleSet) -> Axis:
        """An axis with the scales that are used: standard ones in precision "hadamard"."""
        if self.precision == "full":
            return Axis(algorithm, scales)
        return Axis(algorithm, standard_scales(algorithm), is_integer=False)

    @property
    def name(self) -> str:
        """The algorithm's name, or both."""
        rows, columns = self.algorithm.name, self.column_axis.algorithm.name
        return rows if rows == columns else f"{rows} x {columns}"

    @cached_property
    def is_direct(self) -> bool:
        """Whether all that is rounded is the convolution's operands, without a transform."""
        axes = (self.row_axis, self.column_axis)
        identity = all(axis.algorithm == direct(axis.algorithm.r) for axis in axes)
        return identity and self.precision != "full"

    @property
    def is_bfloat16(self) -> bool:
        """Whether operands are rounded to bfloat16 instead of int8."""
        return self.precision == "bfloat16"

    @property
    def kernel(self) -> int:
        """Edge of the kernel, r."""
        return self.algorithm.r

    @property
    def output_tile(self) -> tuple[int, int]:
        """Rows and columns of outputs of a tile, m each."""
        return self.algorithm.m, self.column_axis.algorithm.m

    @property
    def input_tile(self) -> tuple[int, int]:
        """Rows and columns of inputs of a tile, t each."""
        return self.algorithm.t, self.column_axis.algorithm.t

    @property
    def products(self) -> tuple[int, int]:
        """Rows and columns of taps, n each."""
        return self.algorithm.n, self.column_axis.algorithm.n

    def channels_per_group(self, channels: int) -> int:
        """Size of a group, padding included, in a layer of so many channels."""
        return self.group_size or round_up(channels, WHOLE_MULTIPLE)

    def groups(self, channels: int) -> int:
        """Number of groups in a layer of so many channels; the last may be padded with zeros."""
        return round_up(channels, self.channels_per_group(channels)) // self.channels_per_group(
            channels
        )
