"""What every competitor is and does, and the static int8 quantization that peers are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wqtvm.quantization import sqnr_db

LARGEST = 127  # of an int8 weight
LEVELS = 255  # of an 8-bit activation, from its least to its largest value
BYTES = {"u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f32": 4}
# What oneDNN is restricted to; only "best" has AMX.
ISAS = {"best": "", "bf16": "AVX512_CORE_BF16", "vnni": "AVX512_CORE_VNNI"}
CLOCKS = ("wall", "cpu")
KIND_BYTES = {"int8": 1, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Variant:
    """One row of the tables.

    Attributes
    ----------
    name : of the row.
    kind : of its products: "int8", "float32" or "bfloat16".
    takes, gives : the dtypes of the input and output in memory, that is what is timed: "u8", "s8",
        "bf16", "f16" or "f32".
    products : of its algorithm, beside the direct convolution's.
    weight_growth : its weights in memory beside the direct convolution's.
    ours : whether it is wqtvm's.
    transforms : family, tile and points of an algorithm that transforms, see
        ``bilinear_algorithm``.
    """

    name: str
    kind: str
    takes: str = "f32"
    gives: str = "f32"
    products: float = 1.0
    weight_growth: float = 1.0
    ours: bool = False
    transforms: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Competitor:
    """A library, with a worker process of its own.

    Attributes
    ----------
    name : for the command line.
    module : in ``package``; it has ``prepare(variant, problem, setting)``, which returns a Runner.
    packages : distributions that it needs, the one whose version counts first.
    variants : what it runs.
    onednn : whether oneDNN computes it, which can be restricted to an ISA.
    amx : whether it would use AMX where there is any.
    package : of peers; it has ``COMPETITORS`` and a ``Problem``.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    variants: tuple[Variant, ...]
    onednn: bool = False
    amx: bool = True
    package: str = __package__

    def variant(self, name: str) -> Variant:
        """Return a variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)


def choose(
    competitors: Sequence[Competitor], names: list[str]
) -> list[tuple[Competitor, list[Variant]]]:
    """Return competitors by name with all their variants, or with those whose names start so.

    Raises
    ------
    ValueError
        If there is none.
    """
    known = {name for each in competitors for name in (each.name, *(v.name for v in each.variants))}
    for name in names:
        if not any(other.startswith(name) for other in known):
            raise ValueError(f"nobody is called {name!r}; there are: {', '.join(sorted(known))}")
    found = []
    for each in competitors:
        all_of_it = not names or each.name in names
        variants = [v for v in each.variants if all_of_it or v.name.startswith(tuple(names))]
        if variants:
            found.append((each, variants))
    return found


@dataclass(frozen=True)
class Setting:
    """What all competitors of a contest are bound to.

    Attributes
    ----------
    threads : that compute.
    isa : "best", or "bf16" or "vnni": no AMX, even where the CPU has it, nor more than AVX-512 has
        by that name.
    clock : "wall", or "cpu": the CPU time of the process, which for one thread is about what the
        wall clock would say if nothing else ran.
    """

    threads: int
    isa: str = "best"
    clock: str = "wall"

    @property
    def restriction(self) -> str:
        """What oneDNN is restricted to, which is less than AMX; "" if to nothing."""
        return ISAS[self.isa]

    def __post_init__(self) -> None:
        if self.isa not in ISAS:
            raise ValueError(f"isa is {self.isa!r}; give one of {', '.join(ISAS)}")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock is {self.clock!r}; give one of {', '.join(CLOCKS)}")
        if self.clock == "cpu" and self.threads != 1:
            raise ValueError(
                f"clock is 'cpu', but threads is {self.threads}: the CPU time of several threads "
                "says nothing of the time they take; give clock 'wall', or 1 thread"
            )


class Runner(Protocol):
    """A layer made ready: ``run`` is what is timed."""

    def run(self) -> None:
        """Compute the layer once."""

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, (batch, height, width, channel), dequantized."""


class CannotRunError(Exception):
    """Why a library does not run a layer, in words for the table."""


@dataclass(frozen=True)
class Problem:
    """A layer's data, mapped from files that all workers share.

    Attributes
    ----------
    folder : of the files, see ``layers.write_data``.
    """

    folder: Path

    @cached_property
    def x(self) -> NDArray[np.float32]:
        """The input (batch, height, width, channel), none of it negative."""
        return self._map("x")

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        """The weights (out, in, row, column)."""
        return self._map("weight")

    @cached_property
    def bias(self) -> NDArray[np.float32]:
        """The bias (out)."""
        return self._map("bias")

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """The result in float32 (batch, height, width, channel)."""
        return self._map("reference")

    @cached_property
    def stride(self) -> int:
        """Pixels of the input from one output to the next."""
        return int(np.load(self.folder / "stride.npy"))

    @property
    def kernel(self) -> int:
        """Edge of the kernel."""
        return self.weight.shape[2]

    @property
    def padding(self) -> int:
        """Zeros at each edge of the image."""
        return self.kernel // 2

    @cached_property
    def quantized(self) -> Quantized:
        """Input, weights and steps for static int8, calibrated on this very input."""
        return Quantized.of(self)

    def judge(self, output: NDArray[np.float32]) -> dict[str, float]:
        """Return how good a result is, in dB."""
        return {"sqnr_db": sqnr_db(self.reference, output)}

    def _map(self, name: str) -> NDArray[np.float32]:
        value: NDArray[np.float32] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return value


@dataclass(frozen=True)
class Quantized:
    """The best case of a static peer: all ranges are those of the data that it is then run on.

    Attributes
    ----------
    x : uint8 (batch, height, width, channel), zero at 0.
    x_step : of one level.
    weight : int8 (out, in, row, column), symmetric.
    weight_steps : float32 (out).
    bias : int32 (out), in units of x_step * weight_steps.
    y_step, y_zero : of the uint8 result, from its least to its largest value.
    """

    x: NDArray[np.uint8]
    x_step: float
    weight: NDArray[np.int8]
    weight_steps: NDArray[np.float32]
    bias: NDArray[np.int32]
    y_step: float
    y_zero: int

    @staticmethod
    def of(problem: Problem) -> Quantized:
        """Quantize a layer's data."""
        x_step = float(problem.x.max()) / LEVELS
        weight_steps = np.abs(problem.weight).max(axis=(1, 2, 3)) / LARGEST
        weight = np.rint(problem.weight / weight_steps[:, None, None, None])
        low, high = (min(0.0, float(problem.reference.min())), float(problem.reference.max()))
        y_step = (high - low) / LEVELS
        return Quantized(
            x=np.rint(problem.x / np.float32(x_step)).astype(np.uint8),
            x_step=x_step,
            weight=weight.astype(np.int8),
            weight_steps=weight_steps.astype(np.float32),
            bias=np.rint(problem.bias / (x_step * weight_steps)).astype(np.int32),
            y_step=y_step,
            y_zero=round(-low / y_step),
        )

    def dequantize(self, y: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what a uint8 result stands for."""
        return (y.astype(np.float32) - np.float32(self.y_zero)) * np.float32(self.y_step)
