"""The time that a layer is predicted to take by a candidate, from a machine's peaks.

Counted is what the busiest thread has to do and to move, by the blocks into which the target's
schedule divides the layer, so that tiles that stand over and channels that fill groups and panels
count as others do:

- integer products, over the peak of the dot product;
- what each sum of a group takes: a conversion, the product of two steps, a multiply-add;
- transforms: entries other than 0 of B^T and A^T, one multiply-add of float32 each;
- quantization: largest magnitudes, scaling, rounding, conversion;
- weights, with their steps: read once a task, from the levels that hold them;
- images, read and written once, inputs again where tiles overlap; V and M, through L2.

All of it is added up, divided by the shares of peaks that loops reach. Those are constants, fitted
by ``python -m benchmarks.predictions --fit`` to one core of a Xeon with AVX-512 VNNI, and are taken
to be the same elsewhere. Nothing is measured here: the same layer, target, peaks and threads give
the same time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..fastconv import Matrix
from ..quantization.plan import LayerPlan
from ..quantization.scheme import Scheme
from ..schedules.kernels import kernels_of
from ..target import TargetRecord
from ..target.machine import Machine
from ..topi.direct_workload import DirectWorkload
from ..topi.layer import workload_of
from ..topi.workload import WinogradWorkload, Workload

_FLOAT = 4  # bytes
_BFLOAT16 = 2  # times that a product on tile registers takes of one of int8
_IMAGE_QUANTIZATION = 0.5  # of what a value takes that is quantized with its group's step
# Share of the time in which tile registers are loaded from L2 that products do not hide.
_TILE_LOADS = 0.4
_MEGA = 1e6


@dataclass(frozen=True)
class Efficiency:
    """What loops make of peaks: the free constants of the model.

    Attributes
    ----------
    products, float_products : shares of the dot product's peak, and in convolutions that stay float
        of that of multiply-adds.
    scaling, transform, quantization : multiply-adds that an operation on a group's sum, an entry of
        a transform and a value that becomes int8 take the time of.
    streaming : share of the speed of memory and caches at which weights arrive.
    traffic : share of the time of images, V and M that is not hidden.
    layer_ms : of a layer that does nothing.
    """

    products: float
    float_products: float
    scaling: float
    transform: float
    quantization: float
    streaming: float
    traffic: float
    layer_ms: float


FITTED = Efficiency(
    products=0.986,
    float_products=0.741,
    scaling=1.07,
    transform=1.17,
    quantization=24.8,
    streaming=0.767,
    traffic=0.889,
    layer_ms=0.00219,
)


@dataclass(frozen=True)
class Prediction:
    """A layer's time in milliseconds, and the parts that it is the sum of."""

    products: float
    scaling: float
    transforms: float
    quantization: float
    weights: float
    traffic: float
    layer: float

    @property
    def ms(self) -> float:
        """All of it."""
        return (
            self.products
            + self.scaling
            + self.transforms
            + self.quantization
            + self.weights
            + self.traffic
            + self.layer
        )


@dataclass(frozen=True)
class Work:
    """What the busiest thread does for a layer.

    Attributes
    ----------
    products : multiply-accumulates of int8, or of bfloat16, or of float32 if the layer stays float.
    scaling : operations on sums of groups.
    transforms : multiply-adds of transforms.
    quantized : values that become int8.
    weights : pairs of bytes, and how often they are read.
    image_bytes, image_reads : of input and output together, and how often they are read or written.
    cache_bytes : of V and M, through L2.
    operand_bytes : of V and U, from L2 while they are multiplied.
    blocks : bytes of V of a block, and how often they are read: from farther where L2 does not hold
        them.
    """

    products: float
    weights: tuple[tuple[float, float], ...]
    image_bytes: float
    image_reads: float
    scaling: float = 0.0
    transforms: float = 0.0
    quantized: float = 0.0
    cache_bytes: float = 0.0
    operand_bytes: float = 0.0
    blocks: tuple[float, float] = (0.0, 0.0)
    is_float: bool = False
    is_bfloat16: bool = False

    def time(self, machine: Machine, efficiency: Efficiency = FITTED) -> Prediction:
        """Predict its time on a machine."""
        peak, share = machine.dot_gops, efficiency.products
        if self.is_float:
            peak, share = machine.float32_gflops, efficiency.float_products
        elif self.is_bfloat16 and machine.bfloat16_gflops is not None:
            peak = machine.bfloat16_gflops
        elif machine.tile_gops is not None:
            peak = machine.tile_gops / (_BFLOAT16 if self.is_bfloat16 else 1)
        operations = machine.float32_gflops / 2 * _MEGA  # a millisecond
        weights = sum(machine.reading_ms(nbytes) * times for nbytes, times in self.weights)
        images = machine.reading_ms(self.image_bytes) * self.image_reads
        l2 = machine.l2_gbps * _MEGA
        beside = 1.0 if machine.tile_gops is None else _TILE_LOADS
        caches = (self.cache_bytes + beside * self.operand_bytes) / l2
        block, times = self.blocks
        caches += times * (machine.reading_ms(block) - block / l2)
        return Prediction(
            products=2 * self.products / (share * peak * _MEGA),
            scaling=efficiency.scaling * self.scaling / operations,
            transforms=efficiency.transform * self.transforms / operations,
            quantization=efficiency.quantization * self.quantized / operations,
            weights=weights / efficiency.streaming,
            traffic=efficiency.traffic * (images + caches),
            layer=efficiency.layer_ms,
        )


def predict(
    layer: LayerPlan,
    record: TargetRecord,
    threads: int,
    machine: Machine | None = None,
    images: str = "float32",
) -> Prediction:
    """Predict the time of one layer as it is planned.

    Parameters
    ----------
    layer : a convolution as it is planned.
    record : of the target, whose schedule divides the layer.
    threads : among which its tasks are divided, unless the machine has cores of its own.
    machine : its peaks; the target's own if None.
    images : the dtype of images between layers, of which float convolutions read float32 in any
        case.
    """
    machine = machine or record.machine
    work = work_of(layer, record, machine.cores or threads)
    if images != "float32" and not work.is_float:
        work = replace(work, image_bytes=work.image_bytes / 2)
    return work.time(machine)


def work_of(
    layer: LayerPlan, record: TargetRecord, threads: int, divided: int | None = None
) -> Work:
    """Count what the busiest of so many threads does for a layer, see ``predict``.

    Parameters
    ----------
    divided : among how many threads the layer was divided when it was compiled, if not these.
    """
    divided = divided or threads
    if layer.algorithm == "float":
        return _float(layer, threads)
    return counted(_divided(workload_of(layer, record), record, divided), threads)


def counted(work: DirectWorkload | WinogradWorkload, threads: int) -> Work:
    """Count what the busiest of so many threads does for a workload that is divided."""
    if not isinstance(work, DirectWorkload):
        return _winograd(work, threads)
    return _one_sum(work, threads) if work.is_one_sum else _direct(work, threads)


# As they are lowered. Networks have many layers of one shape, and schedules compare many blocks.
@lru_cache(maxsize=4096)
def _divided(
    work: DirectWorkload | WinogradWorkload, record: TargetRecord, threads: int
) -> DirectWorkload | WinogradWorkload:
    divided: DirectWorkload | WinogradWorkload = kernels_of(record).divided(work, threads)
    return divided


def _float(layer: LayerPlan, threads: int) -> Work:
    images, _, rows, columns = layer.output_shape
    weights = math.prod(layer.weight_shape)
    share = _busiest(images * rows, threads)
    return Work(
        products=share * images * rows * columns * weights,
        weights=((_FLOAT * weights, 1),),
        image_bytes=_FLOAT * (math.prod(layer.input_shape) + math.prod(layer.output_shape)),
        image_reads=share,
        is_float=True,
    )


def _direct(work: DirectWorkload, threads: int) -> Work:
    taps = work.scheme.kernel**2
    panels = work.packed_channels // work.panel
    blocks = work.batch * math.prod(work.blocks)
    share = _busiest(panels * blocks, threads)
    outputs = share * blocks * work.block_pixels * work.packed_channels
    sums = outputs * work.groups * taps
    # A conversion and a multiply-add, and the product of the steps, a tap or else a group.
    a_tap = work.scheme.weight_steps == "tap"
    values = math.prod(work.input_shape)
    scales = work.groups * work.packed_channels * (taps if a_tap else 1)
    scales += work.groups * work.packed_channels * taps * (work.dot.zero_point != 0)
    weights = math.prod(work.packed_shape) * _bytes(work.dot.stored_weight) + _FLOAT * scales
    # The tasks of a panel follow each other: its weights may still be near.
    v_bytes = values * work.activation_bytes
    return Work(
        products=outputs * work.groups * work.group_size * taps,
        scaling=sums * 3 if a_tap else sums * 2 + outputs * work.groups,
        quantized=values * _busiest(work.input_shape[0] * work.input_shape[2], threads),
        weights=((weights, share), (weights / panels, share * panels * (blocks - 1))),
        image_bytes=_image_bytes(work),
        image_reads=share,
        cache_bytes=share * panels * v_bytes + 2 * _FLOAT * outputs * work.groups,
    )


def _one_sum(work: DirectWorkload, threads: int) -> Work:
    choices, taps = dict(work.choices), work.scheme.kernel**2
    panels, registers = work.packed_channels // work.panel, math.prod(work.blocks)
    blocks = work.batch * registers / (
        choices.get("task_rows", 1) * choices.get("task_columns", 1)
    )  # fmt: skip
    share = _busiest(math.ceil(panels * blocks), threads)
    outputs = share * work.batch * registers * work.block_pixels * work.packed_channels
    values = math.prod(work.input_shape)
    weights = math.prod(work.packed_shape) * _bytes(work.dot.stored_weight)
    v_bytes = values * work.activation_bytes
    input_bytes = _FLOAT * work.batch * work.height * work.width * work.in_channels
    return Work(
        products=outputs * work.groups * work.group_size * taps,
        scaling=0 if work.scheme.is_bfloat16 else outputs,
        # The step is found by two operations a value, without a sum across a vector.
        quantized=values * _IMAGE_QUANTIZATION * _busiest(work.batch * work.height, threads),
        is_bfloat16=work.scheme.is_bfloat16,
        weights=((weights, share * (1 if choices.get("panels_first") else blocks)),),
        image_bytes=_image_bytes(work),
        image_reads=share * (1 + input_bytes / _image_bytes(work)),
        # V is read once a panel, and a panel of U once a register block.
        operand_bytes=share * (panels * v_bytes + work.batch * registers * weights),
    )


def _winograd(work: WinogradWorkload, threads: int) -> Work:
    scheme, counts = work.scheme, _counts(work.scheme)
    _, rows, columns = work.tile_shape
    tasks = work.batch * (rows // work.block[0]) * (columns // work.block[1])
    # A block that threads share is divided by vectors of output channels: each thread reads its
    # part of the weights once a block.
    is_shared = dict(work.choices).get("by_panels", 0)
    vectors = work.packed_channels // work.dot.lanes
    share = _busiest(vectors if is_shared else tasks, threads)
    tiles, taps = share * work.batch * rows * columns, math.prod(scheme.products)
    inputs, outputs = work.groups * work.group_size, work.packed_channels
    weights = math.prod(work.packed_shape) * _bytes(work.dot.stored_weight)
    weights += _FLOAT * math.prod(work.step_shape) * (2 if work.dot.zero_point else 1)
    overlap = math.prod(scheme.input_tile) / math.prod(scheme.output_tile)
    input_bytes = _FLOAT * work.batch * work.height * work.width * work.in_channels
    again = 1 + (overlap - 1) * input_bytes / _image_bytes(work)
    v_bytes = work.activation_bytes * inputs
    return Work(
        products=tiles * taps * inputs * outputs,
        scaling=3 * tiles * taps * work.groups * outputs,
        transforms=tiles * (inputs * counts.input + outputs * counts.output),
        quantized=tiles * (inputs * counts.input_values + outputs * counts.output_values),
        weights=((weights, share * tasks),),
        image_bytes=_image_bytes(work),
        image_reads=share * again,
        cache_bytes=2 * tiles * taps * (v_bytes + _FLOAT * outputs),
        blocks=(math.prod(work.block) * taps * v_bytes, share * tasks * vectors),
    )


@dataclass(frozen=True)
class _Counts:
    """Of a tile and channel: entries of the transforms, and values that become int8."""

    input: int
    output: int
    input_values: int
    output_values: int


def _counts(scheme: Scheme) -> _Counts:
    rows, columns = scheme.row_axis.algorithm, scheme.column_axis.algorithm
    inputs = _entries(rows.b_t) * columns.t + _entries(columns.b_t) * rows.n
    outputs = _entries(rows.a_t) * columns.n + _entries(columns.a_t) * rows.m
    values = rows.n * columns.n
    if scheme.precision == "hadamard":
        return _Counts(inputs, outputs, values, 0)
    # Besides V: the tile of x and what its first pass makes of it, M and the same of that.
    before = rows.t * columns.t + rows.n * columns.t
    return _Counts(inputs, outputs, values + before, values + rows.m * columns.n)


def _entries(matrix: Matrix) -> int:
    return sum(entry != 0 for row in matrix for entry in row)


def _busiest(tasks: int, threads: int) -> float:
    """The share of all tasks that the busiest thread has."""
    return math.ceil(tasks / threads) / tasks


def _image_bytes(work: Workload) -> int:
    """Bytes of the input and the output."""
    inputs = work.height * work.width * work.in_channels
    outputs = work.out_height * work.out_width * work.out_channels
    return _FLOAT * work.batch * (inputs + outputs)


def _bytes(dtype: str) -> int:
    return np.dtype(dtype).itemsize
